"""Elimination: learn from all covariates, test what is needed, take the worse half of the rest out, and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepnlme.covariates.attribution_importance import encoded, given_others, p_value, permuted, places, rises
from deepnlme.covariates.attribution_learning import Crossed, Learner, NetworkLearner, RegressorLearner
from deepnlme.covariates.attribution_network import PENALTIES, default_network
from deepnlme.covariates.attribution_refits import Candidate
from deepnlme.covariates.augment_checks import check_network, check_settings
from deepnlme.covariates.augment_inputs import Inputs, check_counts, inputs_of
from deepnlme.covariates.augment_regression import Task
from deepnlme.covariates.screening import log_slopes
from deepnlme.covariates.selection import candidates_of, left_out, require_effects, same_at_first
from deepnlme.covariates.targets import effect_targets
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.nn import NeuralNetwork


@dataclass
class Search:
    """A running elimination.

    Attributes:
        task, inputs: What is learned from.
        candidates: All relations.
        learner: How.
        folds, draws: Groups of subjects; replacements of every covariate.
        conditional: Whether covariates are replaced by draws given the others.
        generator: Of random numbers.
        left: Remarks on what was left out.
        alive: [n] relations that are still in the network.
        score, p, last: [n] importance, p-value and number of the last round in which a relation was there.
        rounds: What was learned in each round.
    """

    task: Task
    inputs: Inputs
    candidates: list[Candidate]
    learner: Learner
    folds: int
    draws: int
    conditional: bool
    generator: np.random.Generator
    left: tuple[str, ...] = ()
    alive: np.ndarray = field(init=False)
    score: np.ndarray = field(init=False)
    p: np.ndarray = field(init=False)
    last: np.ndarray = field(init=False)
    rounds: list[Crossed] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.candidates)
        self.alive, self.score = np.ones(n, dtype=bool), np.zeros(n)
        self.p, self.last = np.ones(n), np.zeros(n, dtype=int)

    @property
    def seen(self) -> np.ndarray:
        """[effects, inputs] what each effect sees now."""
        out = np.zeros((len(self.task.chosen), len(self.inputs.columns)), dtype=bool)
        for candidate, alive in zip(self.candidates, self.alive, strict=True):
            if alive:
                out[candidate.effect, places(self.inputs, candidate.term.covariate)] = True
        return out

    def learn(self) -> None:
        """One round: learn from what is left, and test it."""
        found = self.learner.crossed(self.task, self.seen, self.folds, self.rounds[-1] if self.rounds else None)
        self.rounds.append(found)
        for n in np.flatnonzero(self.alive):
            rise = self.rise(found, self.candidates[n], self.conditional, self.draws)
            self.score[n], self.p[n], self.last[n] = rise.mean(), p_value(rise), len(self.rounds)

    def rise(self, found: Crossed, one: Candidate, conditional: bool, draws: int) -> np.ndarray:
        """Of -2 log L of subjects left out, when a covariate of one effect is replaced, [draws]."""
        at = places(self.inputs, one.term.covariate)
        if conditional:
            raw = self.values(one)
            others = [i for i in np.flatnonzero(found.seen[one.effect]) if i not in at]
            categorical = one.term.form == "categorical"
            drawn = given_others(raw, self.task.x[:, others], categorical, draws, self.generator)
            replaced = encoded(self.inputs, one.term.covariate, drawn)
        else:
            replaced = self.task.x[permuted(np.arange(len(self.task.x)), draws, self.generator)][:, :, at]
        return rises(self.task, found, one.effect, at, replaced)

    def values(self, one: Candidate) -> np.ndarray:
        """A covariate as the population has it, [S]."""
        at = places(self.inputs, one.term.covariate)
        codes = self.inputs.known.get(one.term.covariate)
        own = self.task.x[:, at]
        if codes is None:
            return own[:, 0]
        which = own.argmax(1) if len(codes) > 2 else own[:, 0].astype(int)
        return np.array(codes, dtype=float)[which]

    def eliminate(self, level: float) -> bool:
        """Drop the worse half of the relations that are not needed; whether there were any."""
        out = np.flatnonzero(self.alive & (self.p >= level))
        order = out[np.lexsort((self.score[out], -self.p[out]))]
        self.alive[order[: max(1, len(out) // 2)]] = False
        return len(out) > 0


def prepared(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None,
    network: Any,
    penalties: Sequence[float] | None,
    folds: int,
    draws: int,
    conditional: bool,
    seed: int,
) -> Search:
    """Everything that is needed, checked."""
    terms = list({(t.parameter, t.covariate): t for t in reversed(candidates_of(fit, candidates))}.values())[::-1]
    terms, left = left_out(fit, terms, candidates)
    require_effects(fit, terms)
    same = same_at_first(fit, terms) if candidates is None else []
    if len(same) < len({t.covariate for t in terms}):  # else all of them are refused below
        terms = [t for t in terms if t.covariate not in same]
        left += tuple(f"warning: {name} is left out: all subjects begin with the same value" for name in same)
    targets = effect_targets(fit)
    inputs = inputs_of(fit.population, list(dict.fromkeys(t.covariate for t in terms)))
    check_settings(penalties, folds, 1, 1, len(targets))
    if not folds:
        expected = "What a covariate is worth is seen on subjects left out"
        raise ModelError(invalid("folds", repr(folds), expected, fix="Use 2 or more"))
    names = [name for name in targets.names if name in {t.parameter for t in terms}]
    if network is None:
        network = default_network(len(inputs.names), len(names))
        penalties = PENALTIES if penalties is None else penalties
    learner = _learner(network, inputs, names, penalties, folds, len(targets))
    task = Task(inputs.matrix(fit.population), targets, tuple(targets.names.index(n) for n in names), seed, 1)
    slopes = log_slopes(fit, names)
    looked_at = [Candidate(names.index(t.parameter), t, slopes[t.parameter]) for t in terms]
    generator = np.random.default_rng([seed, 2])
    return Search(task, inputs, looked_at, learner, folds, draws, conditional, generator, left)


def _learner(
    network: Any, inputs: Inputs, names: list[str], penalties: Sequence[float] | None, folds: int, subjects: int
) -> Learner:
    if isinstance(network, NeuralNetwork):
        check_network(network, inputs, names, penalties, folds)
        learner = NetworkLearner.of(network, penalties)
        free = all(c.prior is None or getattr(c.prior, "weight", 1.0) == 0 for c in learner.candidates)
        check_counts(inputs, subjects, not free)
        return learner
    if penalties is not None:
        expected = "They are those of a network; a regressor has settings of its own"
        raise ModelError(invalid("penalties", repr(penalties), expected, fix="Leave them out"))
    check_counts(inputs, subjects, True)
    return RegressorLearner.of(network)
