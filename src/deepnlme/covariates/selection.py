"""What every search for covariates takes and returns: candidates, effects, and one kind of ranked table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from deepnlme.covariates.distinct import require_distinct
from deepnlme.covariates.false_positives import FalsePositives
from deepnlme.covariates.forms import FORMS, Relation, Term, bound, subject_values
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit

COLUMNS = ("PARAMETER", "COVARIATE", "FORM", "EFFECT", "LOW", "HIGH", "SCORE", "P", "SELECTED", "RANK")
LEVEL = 0.95
"""Probability inside the intervals of effects."""


@dataclass(frozen=True)
class Selection:
    """What a search for covariates has found. `print(selection)` shows it.

    Attributes:
        method: Name of the method.
        table: One row per candidate, best first: PARAMETER COVARIATE FORM EFFECT LOW HIGH SCORE P SELECTED RANK. EFFECT
            is the ratio of the parameter at the 95th percentile of the covariate to that at the 5th, of a categorical
            one the factor of the level that is furthest from the reference; LOW and HIGH its 95% confidence interval,
            NaN where there is none.
        score: What SCORE is, in words; larger is better.
        terms: The relations chosen, with their numbers.
        seconds: Wall time.
        steps: The steps of the search, or None.
        fit: The fit of the model chosen, or None where none was made.
        notes: Remarks, such as warnings.
        path: Of a lasso, the OFV and the coefficients for every penalty; or None.
        false_positives: What the method, with these settings, has selected of relations without effect; None where
            that was not measured.
    """

    method: str
    table: pd.DataFrame
    score: str
    terms: tuple[Term, ...]
    seconds: float
    steps: pd.DataFrame | None = None
    fit: Fit | None = None
    notes: tuple[str, ...] = ()
    path: pd.DataFrame | None = None
    false_positives: FalsePositives | None = None

    @property
    def relations(self) -> dict[str, list[Relation]]:
        """The relations chosen by parameter, as `with_covariates` takes them."""
        out: dict[str, list[Relation]] = {}
        for term in self.terms:
            out.setdefault(term.parameter, []).append(term.relation)
        return out

    @property
    def model(self) -> Any:
        """The model chosen.

        Raises:
            ModelError: The method fits none.
        """
        if self.fit is None:
            fix = "Use dn.with_covariates(model, selection.relations, population)"
            raise ModelError(invalid("model", self.method, "This method fits no model", fix=fix))
        return self.fit.model

    def __str__(self) -> str:
        chosen = ", ".join(term.label for term in self.terms) or "none"
        lines = [f"{self.method}: {len(self.table)} candidates, {len(self.terms)} selected ({self.seconds:.1f} s)"]
        lines += [f"selected: {chosen}", *self.notes]
        lines += [str(self.false_positives)] if self.false_positives is not None else []
        if self.steps is not None and len(self.steps):
            lines += ["", _shown(self.steps)]
        lines += ["", f"SCORE: {self.score}", _shown(self.table)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Selection {self.method}: {len(self.terms)} of {len(self.table)}>"


def _shown(table: pd.DataFrame) -> str:
    shown = table.copy()
    if "SELECTED" in shown:
        shown["SELECTED"] = np.where(shown["SELECTED"].to_numpy(bool), "yes", "")
    for name in {"OFV", "dOFV", "REFITTED", "BIC", "EBIC", "HELD OUT"} & set(shown):
        shown[name] = [f"{v:.3f}" if math.isfinite(v) else "" for v in shown[name]]
    return shown.to_string(index=False, float_format=lambda v: f"{v:.3g}", na_rep="")


def candidates_of(
    fit: Any,
    candidates: Mapping[str, Any] | Sequence[str] | None,
    forms: Mapping[str, Any] | Sequence[str] | str = "auto",
) -> list[Term]:
    """The candidates, each once, bound to the population of the fit.

    Args:
        fit: The fit without the relations.
        candidates: Covariates (or relations) by parameter; or covariates for every parameter that has a random effect
            of its name; None for all covariates that vary.
        forms: A form, several, or those of each covariate by name.

    Raises:
        ModelError: Not a fit with estimates, an unknown parameter or form, nothing to look at.
        DataError: An unknown covariate, or one that cannot have the form.
    """
    require_fit(fit)
    _require_known(fit, forms)
    population, effects = fit.population, own_effects(fit)
    if not isinstance(candidates, Mapping):
        given = [candidates] if isinstance(candidates, str) else candidates
        varying = [n for n in population.covariates if np.ptp(population.records.covariates[n]) > 0]
        candidates = {name: list(varying if given is None else given) for name in effects}
    terms: dict[tuple[str, str, str], Term] = {}
    for parameter, wanted in candidates.items():
        for item in [wanted] if isinstance(wanted, str | Relation) else list(wanted):
            for relation in _with_forms(item, forms):
                term = bound(parameter, relation, population)
                terms[term.parameter, term.covariate, term.form] = term
    present = {(t.parameter, t.covariate) for t in getattr(fit.model, "terms", ())}
    out = [t for t in terms.values() if (t.parameter, t.covariate) not in present]
    if not out:
        fix = 'Give candidates={"cl": ["wt", "age"]}; read_nonmem(..., covariates=[...]) reads covariates'
        expected = "It needs a parameter with a random effect and a covariate that varies"
        raise ModelError(invalid("candidates", "none", expected, fix=fix))
    _require_parameters(fit, {t.parameter for t in out})
    return out


def distinct_candidates(
    fit: Any,
    candidates: Mapping[str, Any] | Sequence[str] | None,
    forms: Mapping[str, Any] | Sequence[str] | str = "auto",
) -> list[Term]:
    """The candidates, as `candidates_of`; two covariates that say the same, one perhaps in the model, are refused.

    Raises:
        DataError: Naming both.
    """
    terms = candidates_of(fit, candidates, forms)
    require_distinct(fit.population, [*getattr(fit.model, "terms", ()), *terms])
    return terms


def _require_known(fit: Fit, forms: Any) -> None:
    there = fit.population.covariates
    unknown = [name for name in forms if name not in there] if isinstance(forms, Mapping) else []
    if unknown:
        raise DataError(invalid("forms", repr(unknown[0]), f"The population's covariates are {', '.join(there)}"))


def _with_forms(item: Any, forms: Any) -> list[Relation]:
    if isinstance(item, Relation):
        return [item]
    if not isinstance(item, str):
        raise ModelError(invalid("candidates", repr(item), "A candidate is the name of a covariate or a dn.Relation"))
    of = forms.get(item, "auto") if isinstance(forms, Mapping) else forms
    each = [of] if isinstance(of, str) else list(of)
    if not each:
        raise ModelError(invalid("forms", "none", f"It names some of {', '.join(FORMS)}", f"covariate {item}"))
    return [Relation(item, form) for form in each]


def require_fit(fit: Any) -> None:
    """Refuse what is not a fit with estimates.

    Raises:
        ModelError: With advice.
    """
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit", fix="Use the result of dn.fit"))
    if not len(fit.free):
        raise ModelError(invalid("fit", "a fit without a free parameter", "It needs estimates"))


def own_effects(fit: Fit) -> list[str]:
    """Individual parameters with a random effect between subjects of the same name."""
    if not fit.method.uses_omega:
        return []
    names = [n for a, g in fit.model.groups.items() if g.by == "subject" for n in g.labels(a)]
    returned = _individual_names(fit)
    return [n for n in names if n in returned]


def require_effects(fit: Fit, terms: Sequence[Term]) -> None:
    """Refuse relations of parameters of whose random effect nothing is known.

    Raises:
        ModelError: A parameter without a random effect of its name, or with one of variance zero.
    """
    effects = own_effects(fit)
    unknown = [t.parameter for t in terms if t.parameter not in effects]
    if unknown:
        expected = f"Parameters with a random effect of their name are {', '.join(effects) or '(none)'}"
        raise ModelError(invalid("candidates", repr(unknown[0]), expected, fix="Use dn.scm for others"))
    zero = [t.parameter for t in terms if not _variance(fit, t.parameter) > 0]
    if zero:
        raise ModelError(invalid("candidates", repr(zero[0]), "Its variance is zero: there are no EBEs to test"))


def left_out(fit: Fit, terms: Sequence[Term], candidates: Any) -> tuple[list[Term], tuple[str, ...]]:
    """The relations of parameters that were named, or whose random effect has a variance; and remarks on the others."""
    effects = own_effects(fit)
    zero = dict.fromkeys(t.parameter for t in terms if t.parameter in effects and not _variance(fit, t.parameter) > 0)
    kept = [t for t in terms if t.parameter not in zero]
    if isinstance(candidates, Mapping) or not kept:
        return list(terms), ()
    return kept, tuple(f"warning: {name} is left out: the variance of its random effect is zero" for name in zero)


def _variance(fit: Fit, name: str) -> float:
    return float(fit.omega.loc[name, name])  # type: ignore[arg-type]


def same_at_first(fit: Fit, terms: Sequence[Term]) -> list[str]:
    """Covariates that all subjects begin with the same value of; what is known by subject does not show them."""
    names = dict.fromkeys(term.covariate for term in terms)
    return [name for name in names if not np.ptp(subject_values(fit.population, name)) > 0]


def _individual_names(fit: Fit) -> list[str]:
    first = fit.population.ids[0]
    return list(fit.individual(first))


def _require_parameters(fit: Fit, names: set[str]) -> None:
    returned = _individual_names(fit)
    unknown = sorted(names - set(returned))
    if unknown:
        expected = f"The model's individual parameters are {', '.join(returned)}"
        raise ModelError(invalid("candidates", repr(unknown[0]), expected))


def effect_of(
    term: Term, estimates: Mapping[str, float], covariance: pd.DataFrame | None = None
) -> tuple[float, float, float]:
    """The effect of a relation as a ratio, with its confidence interval by the delta method on its logarithm.

    Args:
        term: The relation.
        estimates: Its coefficients by name.
        covariance: Of the estimates, by name; None for no interval.
    """
    theta = torch.tensor([estimates[n] for n in term.names], dtype=torch.float64, requires_grad=True)
    named = dict(zip(term.names, theta.unbind(), strict=True))
    if term.form == "categorical":
        which = int(torch.argmax(torch.abs(torch.log(theta.detach()))))
        ratio = theta[which]
    else:
        ends = [torch.tensor(x, dtype=torch.float64) for x in (term.low, term.high)]
        low, high = (term.factor(named, x) for x in ends)
        ratio = high / low
    if covariance is None or not bool(ratio > 0):
        return float(ratio.detach()), math.nan, math.nan
    log = torch.log(ratio)
    (slope,) = torch.autograd.grad(log, theta)
    matrix = covariance.loc[list(term.names), list(term.names)].to_numpy(float)
    error = math.sqrt(max(float(slope.numpy() @ matrix @ slope.numpy()), 0.0))
    return ratio_with_interval(float(log.detach()), float(norm.ppf(0.5 + 0.5 * LEVEL)) * error)


def ratio_with_interval(log: float, away: float) -> tuple[float, float, float]:
    """A ratio and the ends of its interval, from its logarithm; infinite where that is beyond the largest number."""
    with np.errstate(over="ignore"):
        ratio, low, high = np.exp([log, log - away, log + away]).tolist()
    return ratio, low, high


def effects_of(fit: Fit, terms: Sequence[Term]) -> dict[Term, tuple[float, float, float]]:
    """Effects of the relations of a fitted model, with intervals where it has standard errors."""
    good = fit.covariance is not None and fit.covariance.ok
    matrix = fit.covariance_matrix if good else None
    return {term: effect_of(term, fit.estimates, matrix) for term in terms}


def ranked(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of a selection from rows with TERM, the effect, SCORE, P and SELECTED.

    The selected ones come first, and among these and the others those with the larger score.
    """
    out = []
    for row in rows:
        term: Term = row["TERM"]
        effect, low, high = row["EFFECT"]
        named = {"PARAMETER": term.parameter, "COVARIATE": term.covariate, "FORM": term.form}
        numbers = {"EFFECT": effect, "LOW": low, "HIGH": high, "SCORE": row["SCORE"], "P": row["P"]}
        out.append({**named, **numbers, "SELECTED": bool(row["SELECTED"])})
    table = pd.DataFrame(out)
    table = table.sort_values(["SELECTED", "SCORE"], ascending=False, kind="stable", na_position="last")
    table = table.reset_index(drop=True)
    table["RANK"] = np.arange(1, len(table) + 1)
    return pd.DataFrame({name: table[name] for name in COLUMNS})


def crowded(fit: Fit, terms: Sequence[Term]) -> tuple[str, ...]:
    """A remark where there are as many coefficients of candidates as subjects."""
    count, subjects = sum(len(t.names) for t in terms), len(fit.population)
    if count < subjects:
        return ()
    return (f"warning: {count} coefficients of candidates for {subjects} subjects: some go with the data by chance",)
