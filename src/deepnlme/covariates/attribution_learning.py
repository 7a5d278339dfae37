"""What attribution learns: a network or regressor in which each effect sees some of the covariates.

For effect e the inputs that it does not see are held at their average, so that one network with one set of weights has
outputs g_e(x) of different inputs. Everything is learned on some subjects and judged on the others, by the likelihood
of `deepnlme.covariates.targets`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.covariates.attribution_network import Masked
from deepnlme.covariates.augment_regression import Task, dealt, fitted, gain, train, weight_argument, with_prior
from deepnlme.nn import NeuralNetwork

PENALTIES = (1.0, 3.0, 10.0, 30.0)
"""Strengths of L2 that are tried for a network without a prior."""


class Predictor(ABC):
    """What was learned: expected effects by their position among those learned."""

    @abstractmethod
    def effect(self, i: int, x: np.ndarray) -> np.ndarray:
        """Expected values [N] of one effect at inputs [N, n]."""


@dataclass(frozen=True)
class OfNetwork(Predictor):
    """A network with its weights."""

    network: Masked

    def effect(self, i: int, x: np.ndarray) -> np.ndarray:
        """One output of the network."""
        with torch.no_grad():
            return self.tensor(i, torch.tensor(x)).numpy()

    def tensor(self, i: int, x: Tensor) -> Tensor:
        """The same in torch, [N]."""
        one = self.network.only(i)
        weights = torch.tensor(one.initial()).reshape(1, 1, 1, -1)
        return one.values(x[None, None], weights)[0, 0, :, i]


@dataclass(frozen=True)
class OfRegressors(Predictor):
    """A fitted regressor per effect, None for one that sees nothing.

    Attributes:
        models: One per effect.
        seen: [effects, inputs].
        average: [inputs].
    """

    models: tuple[Any, ...]
    seen: np.ndarray
    average: np.ndarray

    def effect(self, i: int, x: np.ndarray) -> np.ndarray:
        """The prediction of one regressor."""
        if self.models[i] is None:
            return np.zeros(len(x))
        return np.asarray(self.models[i].predict(np.where(self.seen[i], x, self.average)), dtype=float).reshape(len(x))


@dataclass(frozen=True)
class Crossed:
    """What was learned without each fold of the subjects, by the penalty that suits best.

    Attributes:
        seen: [effects, inputs] what each effect saw.
        models: Subjects left out, and what was learned without them.
        left_out: [S, k] their expected effects.
        omega: [k, k] of the residual effects.
        gain: -2 log L of subjects left out, less that without covariates, and its standard error.
        chosen: Position of the penalty.
        first: Weights of every fold under the weakest penalty.
    """

    seen: np.ndarray
    models: list[tuple[np.ndarray, Predictor]]
    left_out: np.ndarray
    omega: np.ndarray
    gain: tuple[float, float]
    chosen: int = 0
    first: tuple[np.ndarray, ...] = ()


class Learner(ABC):
    """How effects are learned from what they see."""

    @property
    @abstractmethod
    def name(self) -> str:
        """In a word."""

    @abstractmethod
    def crossed(self, task: Task, seen: np.ndarray, folds: int, before: Crossed | None) -> Crossed:
        """Learn without each fold in turn.

        Args:
            task: Inputs and targets.
            seen: [effects, inputs].
            folds: Their number.
            before: What was found when more was seen, to start from.
        """

    @abstractmethod
    def whole(self, task: Task, found: Crossed, near: Predictor | None = None) -> Predictor:
        """Learn from all subjects of the task under the penalty found.

        Args:
            task: Inputs and targets.
            found: From the folds.
            near: What was learned from much the same, to start from.
        """


@dataclass(frozen=True)
class NetworkLearner(Learner):
    """By networks.

    Attributes:
        candidates: The network with each penalty, the weakest first.
    """

    candidates: tuple[NeuralNetwork, ...]

    @property
    def name(self) -> str:
        """What they are called."""
        return "network"

    @staticmethod
    def of(network: NeuralNetwork, penalties: Sequence[float] | None) -> NetworkLearner:
        """The network with these penalties, its own prior, or those tried by default."""
        if penalties is None and network.prior is None and not network.fixed:
            penalties = PENALTIES
        if penalties is None:
            return NetworkLearner((network,))
        return NetworkLearner(tuple(with_prior(network, p) for p in sorted(penalties)))

    def crossed(self, task: Task, seen: np.ndarray, folds: int, before: Crossed | None) -> Crossed:
        """By the penalty with the largest likelihood of the subjects left out."""
        shape = len(task.x), len(task.targets.names)
        left_out = [np.zeros(shape) for _ in self.candidates]
        models: list[list[tuple[np.ndarray, Predictor]]] = [[] for _ in self.candidates]
        first = []
        for number, (rest, test) in enumerate(dealt(task, folds)):
            start = before.first[number] if before is not None else None
            path = self._path(task.take(rest), seen, len(self.candidates), start)
            first.append(path[0].network.initial())
            for i, predictor in enumerate(path):
                models[i].append((test, predictor))
                for j, effect in enumerate(task.chosen):
                    left_out[i][test, effect] = predictor.effect(j, task.x[test])
        gains = [gain(task, g) for g in left_out]
        best = int(np.argmin([change for change, _ in gains]))
        omega = task.targets.residual(left_out[best])[0]
        return Crossed(seen, models[best], left_out[best], omega, gains[best], best, tuple(first))

    def whole(self, task: Task, found: Crossed, near: Predictor | None = None) -> Predictor:
        """The weights start from weaker penalties, or from those given."""
        if isinstance(near, OfNetwork):
            candidate = Masked(self.candidates[found.chosen], found.seen)
            trained, _ = train(task, candidate, near.network.initial())
            return OfNetwork(trained)  # type: ignore[arg-type]
        return self._path(task, found.seen, found.chosen + 1, None)[-1]

    def _path(self, task: Task, seen: np.ndarray, count: int, start: np.ndarray | None) -> list[OfNetwork]:
        """Each penalty from the weights of the weaker one before it: from a strong one all may stay at zero."""
        out = []
        for candidate in self.candidates[:count]:
            trained, _ = train(task, Masked(candidate, seen), None if candidate.fixed else start)
            assert isinstance(trained, Masked)
            start = trained.initial()
            out.append(OfNetwork(trained))
        return out


@dataclass(frozen=True)
class RegressorLearner(Learner):
    """By regressors with fit(x, y, sample_weight) and predict(x), one for each effect."""

    regressor: Any
    argument: str

    @property
    def name(self) -> str:
        """Of its class, the last one of a pipeline."""
        return type(self.regressor.steps[-1][1] if hasattr(self.regressor, "steps") else self.regressor).__name__

    @staticmethod
    def of(regressor: Any) -> RegressorLearner:
        """A regressor, checked."""
        return RegressorLearner(regressor, weight_argument(regressor))

    def crossed(self, task: Task, seen: np.ndarray, folds: int, before: Crossed | None) -> Crossed:
        """Weights of the subjects come from the residual Omega found before."""
        omega = task.targets.omega if before is None else before.omega
        left_out = np.zeros((len(task.x), len(task.targets.names)))
        models: list[tuple[np.ndarray, Predictor]] = []
        for rest, test in dealt(task, folds):
            predictor = self._per_effect(task.take(rest), seen, omega)
            models.append((test, predictor))
            for j, effect in enumerate(task.chosen):
                left_out[test, effect] = predictor.effect(j, task.x[test])
        return Crossed(seen, models, left_out, task.targets.residual(left_out)[0], gain(task, left_out))

    def whole(self, task: Task, found: Crossed, near: Predictor | None = None) -> Predictor:
        """Fitted anew."""
        del near
        return self._per_effect(task, found.seen, found.omega)

    def _per_effect(self, task: Task, seen: np.ndarray, omega: np.ndarray) -> OfRegressors:
        average, models = task.x.mean(0), []
        for j, effect in enumerate(task.chosen):
            one = Task(np.where(seen[j], task.x, average), task.targets, (effect,), task.seed, 1)
            models.append(fitted(one, self.regressor, self.argument, omega)[1][0] if seen[j].any() else None)
        return OfRegressors(tuple(models), seen, average)
