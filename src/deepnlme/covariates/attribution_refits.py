"""Effects of covariates in what was learned, and how they vary when it is learned from other subjects.

The effect of a covariate c on a parameter is its partial dependence: with the other covariates as they are in the
people, log ratio = s mean_i [g_e(x_i, c = high) - g_e(x_i, c = low)] with s = d log p / d eta_e, at the 95th and 5th
percentile, or for categories at each level and at the most frequent one. Subjects are resampled with replacement, what
their data say about random effects together with their covariates, and the network is learned from them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepnlme.covariates.attribution_gradients import integrated_gradients, median_subject
from deepnlme.covariates.attribution_importance import encoded, permuted, places, rises
from deepnlme.covariates.attribution_learning import Crossed, Learner, OfNetwork, Predictor
from deepnlme.covariates.augment_inputs import Inputs
from deepnlme.covariates.augment_regression import Task
from deepnlme.covariates.forms import Term
from deepnlme.covariates.selection import LEVEL

PERMUTATIONS = 10
"""Of every covariate among the subjects that a refit has not seen."""


@dataclass(frozen=True)
class Candidate:
    """A relation that is looked at.

    Attributes:
        effect: Position among the effects learned.
        term: What it would be in a model.
        slope: d log parameter / d random effect.
    """

    effect: int
    term: Term
    slope: float = 1.0


def log_ratios(predictor: Predictor, candidate: Candidate, inputs: Inputs, x: np.ndarray) -> np.ndarray:
    """Partial dependence: one difference, or that of every level that somebody has to the most frequent one."""
    term, at = candidate.term, places(inputs, candidate.term.covariate)
    if term.form == "categorical":
        there = inputs.known.get(term.covariate, x[:, at[0]])
        values = [term.center, *(code for _, code in term.levels if code in there)]
    else:
        values = [term.low, term.high]
    mean = []
    for row in encoded(inputs, term.covariate, np.array(values)):
        replaced = x.copy()
        replaced[:, at] = row
        mean.append(predictor.effect(candidate.effect, replaced).mean())
    return (np.array(mean[1:]) - mean[0]) * candidate.slope


def gradients(predictor: Predictor, candidates: Sequence[Candidate], inputs: Inputs, x: np.ndarray) -> np.ndarray:
    """Mean |integrated gradient| of every relation from the median subject, inputs of a covariate summed; [n]."""
    out = np.full(len(candidates), np.nan)
    if not isinstance(predictor, OfNetwork):
        return out
    reference = median_subject(inputs, x)
    for effect in {c.effect for c in candidates}:
        found = integrated_gradients(lambda rows, e=effect: predictor.tensor(e, rows), x, reference)
        for n, candidate in enumerate(candidates):
            if candidate.effect == effect:
                own = found[:, places(inputs, candidate.term.covariate)].sum(1)
                out[n] = np.abs(own).mean() * abs(candidate.slope)
    return out


@dataclass(frozen=True)
class Attribution:
    """What was learned from all subjects, relation by relation, and the refits of it.

    Attributes:
        ratios: Log ratios of every relation, [1] or [levels].
        gradients: [n] mean |integrated gradients|, NaN for regressors.
        refits: For every refit, log ratios, gradients [n] and, of subjects that it has not seen, permutation
            importance [n]; the last two may be left out.
    """

    ratios: list[np.ndarray]
    gradients: np.ndarray
    refits: list[tuple[list[np.ndarray], np.ndarray, np.ndarray]]

    def effect(self, n: int) -> tuple[float, float, float]:
        """Ratio of the parameter with its interval; of categories that of the level furthest from 1."""
        which = int(np.argmax(np.abs(self.ratios[n])))
        low, high = _interval([ratios[n][which] for ratios, _, _ in self.refits])
        return float(np.exp(self.ratios[n][which])), float(np.exp(low)), float(np.exp(high))

    def gradient_interval(self, n: int) -> tuple[float, float]:
        """Of the mean |integrated gradient|."""
        return _interval([g[n] for _, g, _ in self.refits])

    def importance_interval(self, n: int) -> tuple[float, float]:
        """Of the permutation importance."""
        return _interval([importance[n] for _, _, importance in self.refits])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(np.array(values, dtype=float), [0.5 - 0.5 * LEVEL, 0.5 + 0.5 * LEVEL])
    return float(low), float(high)


def attributed(
    learner: Learner,
    task: Task,
    inputs: Inputs,
    candidates: Sequence[Candidate],
    found: Crossed,
    refits: int,
    seed: Sequence[int],
    bar: Any,
    effects_only: bool = False,
) -> Attribution:
    """Learn from all subjects, then from resampled ones.

    Args:
        learner: How.
        task: Inputs and targets.
        inputs: Of the covariates.
        candidates: The relations to look at.
        found: What was learned without each fold.
        refits: How many.
        seed: Of the resampling.
        bar: Progress.
        effects_only: Leave gradients and importance out.
    """
    generator = np.random.default_rng(seed)
    whole = learner.whole(task, found)

    def looked_at(predictor: Predictor) -> tuple[list[np.ndarray], np.ndarray]:
        ratios = [log_ratios(predictor, c, inputs, task.x) for c in candidates]
        nothing = np.full(len(candidates), np.nan)
        return ratios, nothing if effects_only else gradients(predictor, candidates, inputs, task.x)

    again = []
    for _ in range(refits):
        drawn = generator.integers(len(task.x), size=len(task.x))
        predictor = learner.whole(task.take(drawn), found, whole)
        unseen = np.setdiff1d(np.arange(len(task.x)), drawn)
        kept = [] if effects_only else candidates
        importance = _importance(task, inputs, kept, predictor, unseen, found, generator)
        again.append((*looked_at(predictor), importance))
        bar.update()
    return Attribution(*looked_at(whole), again)


def _importance(
    task: Task,
    inputs: Inputs,
    candidates: Sequence[Candidate],
    predictor: Predictor,
    unseen: np.ndarray,
    found: Crossed,
    generator: np.random.Generator,
) -> np.ndarray:
    """Permutation importance on the subjects that were not drawn, scaled to all, [n]."""
    left_out = np.zeros_like(found.left_out)
    for i, effect in enumerate(task.chosen):
        left_out[unseen, effect] = predictor.effect(i, task.x[unseen])
    one = replace(found, models=[(unseen, predictor)], left_out=left_out)
    out = np.zeros(len(candidates))
    for n, candidate in enumerate(candidates):
        at = places(inputs, candidate.term.covariate)
        order = permuted(np.arange(len(task.x)), PERMUTATIONS, generator)
        replaced = task.x[order][:, :, at]
        out[n] = rises(task, one, candidate.effect, at, replaced).mean() * len(task.x) / max(len(unseen), 1)
    return out
