"""Stepwise covariate modelling: relations are included one by one, then those without which the model does are removed.

Source: Jonsson, Karlsson 1998, Pharm Res 15:1463; Lindbom et al. 2004, Comput Methods Programs Biomed 75:85 (PsN).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2
from tqdm.auto import tqdm

from deepnlme.covariates.false_positives import SCM
from deepnlme.covariates.forms import Term
from deepnlme.covariates.relations import CovariateModel
from deepnlme.covariates.scm_refits import Base, Job, Outcome, Store, fitter
from deepnlme.covariates.selection import Selection, crowded, distinct_candidates, effect_of, effects_of, ranked
from deepnlme.errors import ConvergenceError, ModelError, invalid
from deepnlme.estimation import Fit, FitStatus
from deepnlme.estimation import fit as fit_model

CRITERIA = ("lrt", "bic", "aic")
TOLERANCE = 1e-4
"""Of the fits of candidates [OFV units]."""


@dataclass(frozen=True)
class Rule:
    """When a relation is included and when it is removed.

    Attributes:
        criterion: One of `CRITERIA`.
        forward, backward: p-values of "lrt"; backward None for no removal.
        subjects: S of the BIC, -2 log L + q log S: covariates differ between subjects.
    """

    criterion: str
    forward: float
    backward: float | None
    subjects: int

    def cost(self, df: int) -> float:
        """Improvement of the OFV [units] below which "bic" and "aic" do without a relation."""
        return df * (math.log(self.subjects) if self.criterion == "bic" else 2.0)

    def merit(self, gain: float, df: int) -> float:
        """The larger, the more a relation is worth: -log p, or the improvement of the criterion."""
        if self.criterion == "lrt":
            return -float(chi2.logsf(max(gain, 0.0), df))
        return gain - self.cost(df)

    def least(self, level: float | None) -> float:
        """The merit that a relation must have."""
        return -math.log(level) if self.criterion == "lrt" and level is not None else 0.0


@dataclass
class _Search:
    """A running search: the model so far, and what was seen.

    Attributes:
        rule: The rule.
        store: Outcomes by candidate model.
        run: Fits jobs in order.
        bar: The progress bar.
        terms, outcome: The model so far and its fit.
        steps: Rows of the table of steps.
        seen: Of every candidate the improvement and the outcome when it was last tried.
    """

    rule: Rule
    store: Store
    run: Callable[[Sequence[Job]], Iterator[Outcome]]
    bar: Any
    terms: tuple[Term, ...]
    outcome: Outcome
    steps: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[Term, tuple[float, Outcome]] = field(default_factory=dict)
    number: int = 0

    def fits(self, models: Sequence[tuple[Term, ...]]) -> list[Outcome]:
        """Outcomes of candidate models, those in the store read from there."""
        jobs = [Job(terms, self.outcome.estimates, self.outcome.modes) for terms in models]
        missing = [job for job in jobs if job.key not in self.store.found]
        self.bar.total = (self.bar.total or 0) + len(jobs)
        self.bar.update(len(jobs) - len(missing))
        for job, outcome in zip(missing, self.run(missing), strict=True):
            self.store.add(job.key, outcome)
            self.bar.update()
        return [self.store.found[job.key] for job in jobs]

    def settle(self, fit: Fit) -> None:
        """Fit the model without relations to the end, as the candidates are.

        Raises:
            ConvergenceError: That fails.
        """
        (found,) = self.fits([()])
        if found.status:
            expected = (
                f"What a relation improves is counted from the minimum without it, and a fit of that: {found.status}"
            )
            raise ConvergenceError(invalid("fit", repr(fit), expected, fix="Fit it to the end with dn.fit first"), fit)
        self.outcome = found

    def note(self, direction: str, term: Term, gain: float, outcome: Outcome, chosen: bool) -> None:
        """One row of the table of steps."""
        df = len(term.names)
        done = {"forward": "included", "backward": "removed"}[direction] if chosen else ""
        p = float(chi2.sf(max(gain, 0.0), df)) if not outcome.status else math.nan
        self.steps.append(
            {
                "STEP": self.number,
                "DIRECTION": direction,
                "RELATION": term.label,
                "OFV": outcome.ofv,
                "dOFV": -gain if direction == "forward" else gain,
                "DF": df,
                "P": p,
                "DECISION": f"failed: {outcome.status}" if outcome.status else done,
            }
        )

    def forward(self, candidates: Sequence[Term]) -> bool:
        """Try every candidate on top of the model; include the best one if it is worth it."""
        taken = {(t.parameter, t.covariate) for t in self.terms}
        open_ = [t for t in candidates if (t.parameter, t.covariate) not in taken]
        if not open_:
            return False
        self.number += 1
        found = self.fits([(*self.terms, term) for term in open_])
        gains = [self.outcome.ofv - outcome.ofv for outcome in found]
        merit = [
            -math.inf if outcome.status else self.rule.merit(gain, len(term.names))
            for term, gain, outcome in zip(open_, gains, found, strict=True)
        ]
        best = int(np.argmax(merit))
        good = merit[best] > self.rule.least(self.rule.forward)
        for i, (term, gain, outcome) in enumerate(zip(open_, gains, found, strict=True)):
            self.seen[term] = gain, outcome
            self.note("forward", term, gain, outcome, good and i == best)
        if good:
            self.terms, self.outcome = (*self.terms, open_[best]), found[best]
        return good

    def backward(self) -> bool:
        """Try the model without each relation; remove the one that is worth least if that is too little."""
        if not self.terms:
            return False
        self.number += 1
        found = self.fits([tuple(t for t in self.terms if t != term) for term in self.terms])
        gains = [outcome.ofv - self.outcome.ofv for outcome in found]
        merit = [
            math.inf if outcome.status else self.rule.merit(gain, len(term.names))
            for term, gain, outcome in zip(self.terms, gains, found, strict=True)
        ]
        worst = int(np.argmin(merit))
        remove = merit[worst] <= self.rule.least(self.rule.backward)
        for i, (term, gain, outcome) in enumerate(zip(self.terms, gains, found, strict=True)):
            self.note("backward", term, gain, outcome, remove and i == worst)
        if remove:
            self.terms, self.outcome = tuple(t for i, t in enumerate(self.terms) if i != worst), found[worst]
        return remove


def scm(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    forms: Mapping[str, Any] | Sequence[str] | str = "auto",
    forward: float = 0.05,
    backward: float | None = 0.01,
    criterion: str = "lrt",
    checkpoint: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Selection:
    """Stepwise covariate modelling: forward inclusion, then backward elimination.

    Every candidate is fitted from the estimates and random effects of its parent. A candidate whose fit fails is
    shown with what went wrong, and is tried again at the next step. With "lrt" a relation is included for p < `forward`
    and removed for p >= `backward`, p from the chi-square distribution of the change of the OFV. With several forms of
    one relation the best of them is taken, so that more than `forward` of relations without effect are included.

    Args:
        fit: The fit without the relations; one that has not converged is fitted to the end first.
        candidates: Covariates by parameter, ``{"cl": ["wt", "age"], "v": ["wt"]}`` (a `Relation` says its form);
            or covariates for all parameters with a random effect of their name; None for all covariates that vary.
        forms: A form, several to try, or those of each covariate by name; "auto" takes the one that suits.
        forward: p-value of inclusion.
        backward: p-value of elimination; None for forward inclusion alone.
        criterion: "lrt", "bic" (-2 log L + q log S, S subjects) or "aic"; the last two know no p-values.
        checkpoint: File that keeps every fit as it is done; the same call goes on from it.
        workers: Candidates fitted side by side, in processes of one thread.
        progress: Show a progress bar.

    Returns:
        The selection: `steps`, `table`, `relations`, and the `fit` of the model chosen with standard errors.

    Raises:
        ModelError: Not a fit with estimates, or arguments out of range; a checkpoint of another search.
        ConvergenceError: The fit without the relations does not converge.
        DataError: A covariate that is not there, does not vary, does not suit the form, or says the same as another.
    """
    terms = distinct_candidates(fit, candidates, forms)
    _check(forward, backward, criterion, workers)
    began = time.perf_counter()
    rule = Rule(criterion, forward, backward, len(fit.population))
    store = Store.open(checkpoint, fit, {"candidates": [repr(term) for term in terms]})
    base = Base.of(fit, max(TOLERANCE, fit.options.tolerance))
    start = Outcome(fit.ofv + fit.penalty, fit.estimates, fit.evaluation.z[0].tolist())
    settled = fit.status is FitStatus.CONVERGED
    bar = tqdm(total=0, disable=not progress, desc="scm", leave=False)
    try:
        with fitter(base, workers) as run:
            search = _Search(rule, store, run, bar, (), start)
            if not settled:  # else what a candidate gains is the rest of the way to the minimum
                search.settle(fit)
            while search.forward(terms):
                bar.set_postfix_str(f"{len(search.terms)} included")
            while backward is not None and search.backward():
                bar.set_postfix_str(f"{len(search.terms)} left")
    finally:
        bar.close()
    chosen = fit if settled and not search.terms else _final(fit, search, progress)
    found = _selection(rule, terms, search, chosen, time.perf_counter() - began)
    usual = (criterion, forward, backward, forms) == ("lrt", 0.05, 0.01, "auto")
    return replace(found, false_positives=SCM if usual else None)


def _check(forward: Any, backward: Any, criterion: Any, workers: Any) -> None:
    for name, value in (("forward", forward), ("backward", backward)):
        if name == "backward" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ModelError(invalid(name, repr(value), "It is a p-value between 0 and 1"))
    if criterion not in CRITERIA:
        raise ModelError(invalid("criterion", repr(criterion), f"It is one of {', '.join(CRITERIA)}"))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ModelError(invalid("workers", repr(workers), "It is a whole number of at least 1"))


def _final(fit: Fit, search: _Search, progress: bool) -> Fit:
    """The model chosen, fitted to the end, with standard errors."""
    kind = fit.options.covariance or "sandwich"
    shown = progress and fit.options.progress
    options = replace(fit.options, checkpoint=None, held_out=None, covariance=kind, starts=1, progress=shown)
    model = CovariateModel(fit.model, search.terms) if search.terms else fit.model
    start = {n: v for n, v in search.outcome.estimates.items() if n in model.space.names}
    start |= {n: w for n, w in fit.weights.items() if n in model.space.weights}
    return fit_model(model, fit.population, fit.method, start=start, options=options)


def _selection(rule: Rule, terms: Sequence[Term], search: _Search, chosen: Fit, seconds: float) -> Selection:
    fitted = effects_of(chosen, search.terms)
    rows = []
    for term in terms:
        gain, outcome = search.seen[term]
        failed = bool(outcome.status)
        effect = fitted.get(term, (math.nan,) * 3 if failed else effect_of(term, outcome.estimates))
        p = math.nan if failed else float(chi2.sf(max(gain, 0.0), len(term.names)))
        score = math.nan if failed else gain
        rows.append({"TERM": term, "EFFECT": effect, "SCORE": score, "P": p, "SELECTED": term in search.terms})
    score = "improvement of the OFV when the relation was last tried on top of the model so far"
    lost = sum(1 for row in search.steps if str(row["DECISION"]).startswith("failed"))
    notes = crowded(chosen, terms) + ((f"{lost} fits of candidates failed; see `steps`",) if lost else ())
    name = f"SCM ({rule.criterion}, forward {rule.forward:g}, backward {rule.backward})"
    name = name if rule.criterion == "lrt" else f"SCM ({rule.criterion})"
    steps = pd.DataFrame(search.steps)
    return Selection(name, ranked(rows), score, search.terms, seconds, steps, chosen, notes)
