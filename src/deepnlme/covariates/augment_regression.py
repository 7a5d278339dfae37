"""From inputs to random effects: a network by its likelihood, any other regressor by weighted targets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize

from deepnlme.covariates.targets import EffectTargets
from deepnlme.errors import ModelError, invalid
from deepnlme.nn import L2, NeuralNetwork

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Strengths of L2 that are tried for a network without a prior."""
ITERATIONS = 300
"""Steps of L-BFGS for one network."""
UNINFORMED = 100.0
"""A subject whose own variance exceeds this many times Omega does not count for a regressor."""

Prediction = Callable[[np.ndarray], np.ndarray]
"""Inputs [S, n] -> expected random effects [S, k]."""


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        predict: Expected effects of any inputs.
        what: The network with its weights, or the fitted regressors, one per effect.
        omega: [k, k] of the residual effects.
        table: One row per penalty: PENALTY, DOFV and SE.
        left_out: [S, k] expected effects of each subject by what was learned without it; without cross-validation by
            what was learned from all.
    """

    predict: Prediction
    what: Any
    omega: np.ndarray
    table: pd.DataFrame
    left_out: np.ndarray


@dataclass(frozen=True)
class Task:
    """Inputs and targets.

    Attributes:
        x: [S, n].
        targets: Of the S subjects.
        chosen: Positions of the effects that are predicted, among those of the targets.
        seed: Of folds and of further starts.
        starts: Networks trained from different weights, of which the best is kept.
    """

    x: np.ndarray
    targets: EffectTargets
    chosen: tuple[int, ...]
    seed: int
    starts: int

    def take(self, subjects: np.ndarray) -> Task:
        """Some of the subjects."""
        return Task(self.x[subjects], self.targets.take(subjects), self.chosen, self.seed, self.starts)


# ---- networks --------------------------------------------------------------------------------------------------------


def learn_network(task: Task, network: NeuralNetwork, penalties: Sequence[float] | None, folds: int) -> Learned:
    """Weights and Omega_r that maximise the likelihood of the targets and the prior of the weights.

    The penalty is the one with the largest likelihood of subjects left out, whose Omega_r is then kept: the residual
    variance among subjects that the network was not trained on.
    """
    if network.fixed:
        candidates = [network]
    elif penalties is None and network.prior is None and folds:
        candidates = [with_prior(network, p) for p in PENALTIES]
    else:
        candidates = [network] if penalties is None else [with_prior(network, p) for p in sorted(penalties)]
    if not folds:
        trained, omega = train(task, candidates[0])
        predict = _predictor(task, trained)
        return Learned(predict, trained, omega, _table([], []), predict(task.x))
    left_out = [np.zeros((len(task.x), len(task.targets.names))) for _ in candidates]
    for rest, test in dealt(task, folds):
        part = task.take(rest)
        for g, trained in zip(left_out, _path(part, candidates), strict=True):
            g[test] = _predictor(part, trained)(task.x[test])
    table = _table([_strength(c) for c in candidates], [gain(task, g) for g in left_out])
    best = int(np.argmin(table["DOFV"]))
    trained = list(_path(task, candidates[: best + 1]))[-1]
    omega = task.targets.residual(left_out[best])[0]
    return Learned(_predictor(task, trained), trained, omega, table, left_out[best])


def _path(task: Task, candidates: Sequence[NeuralNetwork]) -> Iterator[NeuralNetwork]:
    """The candidates with their weights, each trained from those found with the weaker penalty before it.

    Starting from a strong penalty would not do: it may leave all weights at zero, where they would stay.
    """
    found: np.ndarray | None = None
    for candidate in candidates:
        trained, _ = train(task, candidate, found)
        found = None if candidate.fixed else trained.initial()
        yield trained


def with_prior(network: NeuralNetwork, strength: float) -> NeuralNetwork:
    """The network with an L2 penalty of this strength."""
    new = copy.copy(network)
    new.prior = L2(strength)
    return new


def _strength(network: NeuralNetwork) -> float:
    return getattr(network.prior, "weight", np.nan)


def train(task: Task, network: NeuralNetwork, first: np.ndarray | None = None) -> tuple[NeuralNetwork, np.ndarray]:
    """The network with its weights, its units those of these subjects, and Omega_r [k, k].

    Args:
        task: Inputs and targets.
        network: The network.
        first: Weights to start from, instead of its own and those of further starts.
    """
    network = in_units(task, network)
    targets, x = task.targets, torch.tensor(task.x)[None, None]
    place = torch.zeros(len(task.chosen), len(targets.names), dtype=torch.float64)
    place[torch.arange(len(task.chosen)), list(task.chosen)] = 1.0
    size, units = 0 if network.fixed else network.size, torch.tensor(targets.units)
    kept = torch.tensor(network.initial())

    def cost(free: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(free, requires_grad=True)
        weights = leaf[:size] if size else kept
        g = network.values(x, weights.reshape(1, 1, 1, -1))[0, 0] @ place
        value = -targets.log_density(g, targets.lower(leaf[size:] * units)).sum()
        if size:
            value = value - network.log_prior(weights)
        value.backward()
        assert leaf.grad is not None
        return float(value.detach()), leaf.grad.numpy()

    generator, best = np.random.default_rng([task.seed, 1]), None
    bounds = [(None, None)] * size + targets.bounds
    for i in range(task.starts if size and first is None else 1):
        weights = network.initial() if first is None else first
        weights = weights if i == 0 else network.draw(generator)
        start = np.concatenate([weights[:size], targets.start / targets.units])
        how = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "ftol": 1e-9, "gtol": 1e-6}
        found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options=how)
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    lower = targets.lower(torch.tensor(best.x[size:]) * units).numpy()
    trained = network if network.fixed else network.with_weights(best.x[:size])
    return trained, lower @ lower.T


def in_units(task: Task, network: NeuralNetwork) -> NeuralNetwork:
    """The network in the units of these subjects' inputs and of Omega, where it has none of its own."""
    center, scale = task.x.mean(0), task.x.std(0)
    sd = np.sqrt(np.diag(task.targets.omega))[list(task.chosen)]
    found = dict(input_center=center, input_scale=np.where(scale > 0, scale, 1.0), output_center=0.0 * sd)
    return network.scaled(network.scaling.filled(**found, output_scale=sd))


@dataclass(frozen=True)
class _OfNetwork:
    """Expected effects [S, effects] from a network; those that are not chosen are 0."""

    network: NeuralNetwork
    chosen: tuple[int, ...]
    effects: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        weights = torch.tensor(self.network.initial()).reshape(1, 1, 1, -1)
        with torch.no_grad():
            values = self.network.values(torch.tensor(x)[None, None], weights)[0, 0].numpy()
        return _spread(values, self.chosen, self.effects)


def _predictor(task: Task, network: NeuralNetwork) -> Prediction:
    return _OfNetwork(network, task.chosen, len(task.targets.names))


def _spread(values: np.ndarray, chosen: tuple[int, ...], effects: int) -> np.ndarray:
    """Predicted effects [S, chosen] among all effects, [S, effects]; the others are 0."""
    out = np.zeros((len(values), effects))
    out[:, list(chosen)] = values
    return out


# ---- regressors ------------------------------------------------------------------------------------------------------


def learn_regressor(task: Task, regressor: Any, folds: int) -> Learned:
    """A copy of the regressor per effect, fitted to the unshrunk targets with weights 1 / (Omega_r + V_i).

    Omega_r is found from subjects left out, and the weights once more from it.
    """
    argument = weight_argument(regressor)
    omega = task.targets.omega
    left_out = np.zeros((len(task.x), len(omega)))
    for _ in range(2):
        left_out = _left_out(task, folds, lambda part, o=omega: fitted(part, regressor, argument, o)[0])
        omega = task.targets.residual(left_out)[0]
    predict, models = fitted(task, regressor, argument, omega)
    return Learned(predict, models, omega, _table([np.nan], [gain(task, left_out)]), left_out)


def weight_argument(regressor: Any) -> str:
    """How the regressor's fit calls the weights of the subjects."""
    if isinstance(regressor, type) or not (hasattr(regressor, "fit") and hasattr(regressor, "predict")):
        expected = "It is a dn.MLP, a dn.Network, or an object with fit(x, y, sample_weight) and predict(x)"
        raise ModelError(invalid("network", repr(regressor), expected))
    last = regressor.steps[-1] if hasattr(regressor, "steps") else ("", regressor)
    accepted = inspect.signature(last[1].fit).parameters
    if "sample_weight" not in accepted:
        expected = "Its fit must take sample_weight, by which subjects with few data count less"
        fix = "Use one that does, such as a linear model, a forest or gradient boosting, or a dn.MLP"
        raise ModelError(invalid("network", type(last[1]).__name__, expected, fix=fix))
    return f"{last[0]}__sample_weight" if last[0] else "sample_weight"


def fitted(task: Task, regressor: Any, argument: str, omega: np.ndarray) -> tuple[Prediction, list[Any]]:
    """A copy of the regressor for every effect, fitted with weights 1 / (Omega_r + V)."""
    y, v = task.targets.unshrunk()
    models = []
    for j in task.chosen:
        used = v[:, j] < UNINFORMED * task.targets.omega[j, j]
        if not used.any():
            name = task.targets.names[j]
            expected = f"No subject's data say anything about it beside its Omega of {task.targets.omega[j, j]:.3g}"
            raise ModelError(invalid("effects", repr(name), expected, fix="Leave it out: choose other effects"))
        weight = 1.0 / (omega[j, j] + v[used, j])
        model = copy.deepcopy(regressor)
        model.fit(task.x[used], y[used, j], **{argument: weight / weight.mean()})
        models.append(model)
    return _OfRegressors(tuple(models), task.chosen, len(task.targets.names)), models


@dataclass(frozen=True)
class _OfRegressors:
    """Expected effects [S, effects] from a regressor for each that is chosen; the others are 0."""

    models: tuple[Any, ...]
    chosen: tuple[int, ...]
    effects: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        columns = [np.asarray(model.predict(x), dtype=float).reshape(len(x)) for model in self.models]
        return _spread(np.stack(columns, 1), self.chosen, self.effects)


# ---- subjects left out -----------------------------------------------------------------------------------------------


def dealt(task: Task, folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions to learn from and positions left out."""
    order = np.random.default_rng([task.seed, 0]).permutation(len(task.x))
    for test in np.array_split(order, folds):
        yield np.setdiff1d(order, test), test


def _left_out(task: Task, folds: int, learn: Callable[[Task], Prediction]) -> np.ndarray:
    """Predicted effects [S, k] of every subject by what was learned without it."""
    out = np.zeros((len(task.x), len(task.targets.names)))
    for rest, test in dealt(task, folds):
        out[test] = learn(task.take(rest))(task.x[test])
    return out


def gain(task: Task, g: np.ndarray) -> tuple[float, float]:
    """-2 log L less that without covariates, both at their best Omega, and its standard error."""
    pair = []
    for expected in (g, 0.0 * g):
        omega = task.targets.residual(expected)[0]
        lower = torch.tensor(np.linalg.cholesky(omega))
        pair.append(-2.0 * task.targets.log_density(torch.tensor(expected), lower).numpy())
    change = pair[0] - pair[1]
    return float(change.sum()), float(change.std() * np.sqrt(len(change)))


def _table(penalties: Sequence[float], gains: Sequence[tuple[float, float]]) -> pd.DataFrame:
    columns = {"PENALTY": list(penalties), "DOFV": [g for g, _ in gains], "SE": [s for _, s in gains]}
    return pd.DataFrame(columns, dtype=float)
