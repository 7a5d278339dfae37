"""Selection by a network: what it needs to predict the random effects of people whom it has not seen."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from deepnlme.covariates.attribution_refits import Attribution, attributed
from deepnlme.covariates.attribution_search import Search, prepared
from deepnlme.covariates.false_positives import ATTRIBUTION
from deepnlme.covariates.screening import HIGH_SHRINKAGE, first_order
from deepnlme.covariates.selection import Selection, ranked
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit

CORRELATED = 0.9
"""Correlation of covariates beyond which a warning says that they cannot be told apart."""
FEW = 5
"""Subjects per input below which a warning says that there are few."""


def attribute(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    network: Any = None,
    level: float = 0.01,
    conditional: bool = True,
    eliminate: bool = True,
    penalties: Sequence[float] | None = None,
    folds: int = 5,
    permutations: int = 500,
    refits: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> Selection:
    """One network from all covariates to all random effects; the relations that it cannot do without are selected.

    The network is learned as in `augment`: from what the data say about each subject's random effects, shrinkage taken
    out, its penalty chosen by cross-validation. A relation of a parameter to a covariate is important if
    subjects left out are predicted worse when the covariate is replaced, for that parameter alone, by draws given the
    covariates that the parameter still sees; its p-value is the share of draws that do no worse than the truth. Of the
    relations with p-values of at least `level` the worse half is taken out, the network is learned again, and so on
    until only relations below `level` are left.

    Args:
        fit: The fit without the relations.
        candidates: As in `scm`; only parameters with a random effect of their name. Covariates count with their value
            at the first record; with None those that are the same for all there are left out.
        network: As in `augment`: `MLP` or `Network` with one output per parameter (in the order of the random effects),
            or a regressor with ``fit(x, y, sample_weight)`` and ``predict(x)``. By default a network with a linear part
            and four curved units.
        level: P-value below which a relation stays. P-values are those of the last round, which do not know of the
            elimination before: of relations that do nothing somewhat more are selected (docs/covariates.md: how many).
        conditional: False replaces covariates by those of other subjects, whatever the other covariates. Then one that
            goes with a true one, and shares its effect under a penalty, may be found, too.
        eliminate: False judges by the network of all covariates alone: P is that of no relation given all the others.
        penalties: Strengths of `L2` to choose from; by default the prior of the network, or 1, 3, 10 and 30 if it has
            none, and 8 and 30 for the network used by default.
        folds: Of the cross-validation.
        permutations: Replacements of every covariate.
        refits: Bootstrap samples of subjects from which the networks are learned again, for the intervals; 0 for none.
        seed: Of folds, replacements and bootstrap.
        progress: Show a progress bar.

    Returns:
        The selection, without a fit. EFFECT is the partial dependence in the network (that of the last round where the
        relation is selected, else that of all covariates), under its penalty; SCORE the mean rise of -2 log L. `steps`
        has for the network of all covariates PERMUTATION (importance when the values of other subjects stand there) and
        GRADIENT (mean |integrated gradient| of the log parameter from the median subject), with 95% intervals over
        refits. `relations` has the forms that suit, for `with_covariates`.

    Raises:
        ModelError: No such effect, a network that does not suit, arguments out of range.
        DataError: Covariates that are missing, constant, duplicated, unknown, or, without penalty, more than subjects.
    """
    began = time.perf_counter()
    _check_numbers(level, permutations, refits, {"conditional": conditional, "eliminate": eliminate})
    search = prepared(fit, candidates, network, penalties, folds, permutations, conditional, seed)
    bar = tqdm(total=2 * refits or None, disable=not progress, desc="attribution", leave=False)
    try:
        search.learn()
        while eliminate and search.eliminate(level) and search.alive.any():
            search.learn()
        chosen = search.alive & (search.p < level)
        marginal = _marginal(search)
        what = search.learner, search.task, search.inputs
        first = attributed(*what, search.candidates, search.rounds[0], refits, [seed, 3], bar)
        kept = [c for c, on in zip(search.candidates, chosen, strict=True) if on]
        last = attributed(*what, kept, search.rounds[-1], refits if kept else 0, [seed, 4], bar, effects_only=True)
    finally:
        bar.close()
    ratios = [first.effect(n) for n in range(len(chosen))]
    for n, place in enumerate(np.flatnonzero(chosen)):
        ratios[place] = last.effect(n)
    found = _selection(fit, search, chosen, ratios, _steps(search, marginal, first), time.perf_counter() - began)
    usual = network is None and penalties is None and (level, conditional, eliminate, folds) == (0.01, True, True, 5)
    return replace(found, false_positives=ATTRIBUTION if usual else None)


def _check_numbers(level: Any, permutations: Any, refits: Any, flags: dict[str, Any]) -> None:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ModelError(invalid("level", repr(level), "It is a p-value between 0 and 1"))
    least = math.ceil(1.0 / level)
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < least:
        expected = f"P-values below {level:g} need a whole number of at least {least}"
        raise ModelError(invalid("permutations", repr(permutations), expected))
    if isinstance(refits, bool) or not isinstance(refits, int) or refits < 0 or refits == 1:
        raise ModelError(invalid("refits", repr(refits), "It is 0, or a whole number of at least 2"))
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ModelError(invalid(name, repr(value), "It is True or False"))


def _marginal(search: Search) -> np.ndarray:
    """Permutation importance of every relation in the network of all covariates, [n]."""
    draws = min(search.draws, 50)
    return np.array([search.rise(search.rounds[0], c, False, draws).mean() for c in search.candidates])


def _steps(search: Search, marginal: np.ndarray, first: Attribution) -> pd.DataFrame:
    """Importance and gradients of every relation in the network of all covariates."""
    rows = []
    for n, candidate in enumerate(search.candidates):
        (low, high), (less, more) = first.importance_interval(n), first.gradient_interval(n)
        name = f"{candidate.term.parameter} ~ {candidate.term.covariate}"
        importance = {"PERMUTATION": marginal[n], "PERM LOW": low, "PERM HIGH": high}
        gradient = {"GRADIENT": first.gradients[n], "GRAD LOW": less, "GRAD HIGH": more}
        rows.append({"RELATION": name, "ROUNDS": int(search.last[n]), **importance, **gradient})
    return pd.DataFrame(rows)


def _selection(
    fit: Fit,
    search: Search,
    chosen: np.ndarray,
    ratios: list[tuple[float, float, float]],
    steps: pd.DataFrame,
    seconds: float,
) -> Selection:
    rows = [
        {"TERM": c.term, "EFFECT": e, "SCORE": s, "P": p, "SELECTED": bool(on)}
        for c, e, s, p, on in zip(search.candidates, ratios, search.score, search.p, chosen, strict=True)
    ]
    how = "drawn given the others" if search.conditional else "taken from others"
    score = f"rise of -2 log L of the random effect in subjects left out, when the covariate is {how}"
    terms = tuple(c.term for c, on in zip(search.candidates, chosen, strict=True) if on)
    method = f"Attribution ({search.learner.name})"
    return Selection(
        method, ranked(rows).assign(FORM="network"), score, terms, seconds, steps, None, _notes(fit, search)
    )


def _notes(fit: Fit, search: Search) -> tuple[str, ...]:
    out = []
    for number, which in ((0, "all covariates"), (-1, "the last round")):
        gain, se = search.rounds[number].gain
        out.append(f"subjects left out, network of {which}: -2 log L changes by {gain:.2f}, SE {se:.2f}")
    if len(search.rounds) == 1:
        out.pop()
    x, inputs = search.task.x, search.inputs
    if len(x) < FEW * len(inputs.names):
        out.append(f"warning: {len(x)} subjects for {len(inputs.names)} inputs are few; weak relations are missed")
    together = np.abs(np.corrcoef(x.T)) if x.shape[1] > 1 else np.ones((1, 1))
    for i, j in zip(*np.nonzero(np.triu(together > CORRELATED, 1)), strict=True):
        one, other = inputs.columns[i], inputs.columns[j]
        if one.covariate != other.covariate:
            out.append(
                f"warning: {one.name} and {other.name} are correlated by {together[i, j]:.2f}: "
                "which of them matters is hard to say"
            )
    out += search.left
    out += first_order({c.term.parameter: c.slope for c in search.candidates})
    shrunk = fit.shrinkage
    for name in dict.fromkeys(c.term.parameter for c in search.candidates):
        if shrunk[name] > HIGH_SHRINKAGE:
            out.append(f"warning: shrinkage of {name} is {shrunk[name]:.0f} %: weak relations of it are missed")
    return tuple(out)
