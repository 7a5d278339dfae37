"""Fits side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from deepnlme.compare.distances import predictive_distance
from deepnlme.compare.entries import Entry, entries, row
from deepnlme.compare.nested import nesting
from deepnlme.compare.ratio import LikelihoodRatio, likelihood_ratio, refused, tested
from deepnlme.compare.same import discrete, incomparable, shared_subjects
from deepnlme.compare.text import render
from deepnlme.data import Population
from deepnlme.errors import ConvergenceError, DataError, ModelError, invalid
from deepnlme.estimation import Fit, Method

PAIRS = "Pairs of names (reduced, full), or (reduced, full, boundary)"


@dataclass(frozen=True)
class Comparison:
    """Several fits side by side; `print` shows all of it.

    Attributes:
        reference: Name of the fit that the others are compared with.
        table: One row per fit: method, OFV, -2LL, dOFV, OFV reported (of other programs), penalty, parameters (NaN
            where another program's are not mapped), effective (parameters), AIC, BIC, converged, condition number,
            seconds. dOFV is the difference of -2LL, which is that of the OFV unless one of the models has observations
            that are not normal, whose constants the OFV does not leave out. NaN where a comparison is refused.
        refused: Why, by fit.
        parameters: Estimate, SE and RSE% of every parameter, columns by fit.
        shrinkage: Of etas and eps, a column per fit [%].
        tests: Likelihood ratio tests of the nested pairs.
        lrt: The same as a table.
        held_out: Predictive distances on held-out subjects, a row per fit (`predictive_distance`), or None.
        notes: What has to be known to read the tables.
    """

    reference: str
    table: pd.DataFrame
    refused: dict[str, str]
    parameters: pd.DataFrame
    shrinkage: pd.DataFrame
    tests: tuple[LikelihoodRatio, ...]
    held_out: pd.DataFrame | None
    notes: tuple[str, ...]

    @property
    def lrt(self) -> pd.DataFrame:
        """The likelihood ratio tests: reduced, full, dOFV, df, distribution, p."""
        columns = ["reduced", "full", "dOFV", "df", "distribution", "p"]
        return pd.DataFrame(
            [(t.reduced, t.full, t.dofv, t.df, t.distribution, t.p) for t in self.tests], columns=columns
        )

    def __str__(self) -> str:
        return render(self)


def compare(
    *fits: Any,
    held_out: Population | None = None,
    method: Method | None = None,
    nested: Iterable[tuple] = (),
    reference: str | None = None,
    strict: bool = False,
    seed: int = 0,
) -> Comparison:
    """Set fits side by side: `compare(a, b)`, or with names, `compare({"base": a, "wt on cl": b})`.

    OFV, AIC and BIC are compared only where data, approximation and observations in the likelihood are those of the
    reference; elsewhere the cells are empty and a note says why. Fits of other programs (`read_nonmem_results`) stand
    beside ours once their parameters are mapped: their OFV here is ours at their estimates.

    Args:
        *fits: Fits, or one dict of them by name.
        held_out: Subjects that no fit has seen: also predictive distances on them.
        method: The approximation of their likelihood; None for that of the fits, if it is the same.
        nested: Pairs of names (reduced, full), or (reduced, full, boundary), that are nested and whose declarations do
            not show it (see `likelihood_ratio`).
        reference: The fit that the others are compared with; the first that was fitted here.
        strict: Raise where a comparison of the OFV is refused.
        seed: Of the intervals on held-out subjects.

    Raises:
        ModelError: No fits, unknown names, held-out subjects that a fit has seen; with `strict` any refusal.
    """
    found, first = entries(fits, reference)
    assert first.fit is not None
    reasons = {e.name: _refusal(e, first.fit) for e in found if e is not first}
    reasons = {name: reason for name, reason in reasons.items() if reason}
    if strict and reasons:
        name, reason = next(iter(reasons.items()))
        raise ModelError(f"Invalid comparison of {name} with {first.name}: {reason}.")
    notes = [f"{e.name}: {remark}" for e in found for remark in e.remarks()]
    if any(e.fit is not None and not math.isclose(*_constants(e.fit, first.fit)) for e in found):
        notes.append("dOFV is the difference of -2LL: not all observations are normal in every model")
    table = pd.DataFrame.from_dict({e.name: row(e, first, reasons.get(e.name, "")) for e in found}, orient="index")
    tests, remarks = _tests(found, nested, reasons, strict)
    distances, more = (None, []) if held_out is None else _held_out(found, first, held_out, method, seed, strict)
    return Comparison(
        first.name,
        table,
        reasons,
        _parameters(found),
        _shrinkage(found),
        tuple(tests),
        distances,
        (*notes, *remarks, *more),
    )


def _refusal(entry: Entry, reference: Fit) -> str:
    if entry.fit is None:
        assert entry.external is not None
        return f"parameters of {entry.external.program} are not mapped to a model here; use .mapped(model, names)"
    return incomparable(entry.fit, reference)


def _constants(fit: Fit, reference: Fit) -> tuple[float, float]:
    """What -2LL has more than the OFV."""
    return -2.0 * fit.log_likelihood - fit.ofv, -2.0 * reference.log_likelihood - reference.ofv


def _parameters(found: list[Entry]) -> pd.DataFrame:
    parts = {}
    for entry in found:
        part = pd.DataFrame({"Estimate": entry.estimates}, dtype=float)
        part["SE"] = pd.Series(entry.se, dtype=float).reindex(part.index)
        part["RSE%"] = 100.0 * part["SE"] / part["Estimate"].abs()
        parts[entry.name] = part
    order = list(dict.fromkeys(name for part in parts.values() for name in part.index))
    return pd.concat({name: part.reindex(order) for name, part in parts.items()}, axis=1)


def _shrinkage(found: list[Entry]) -> pd.DataFrame:
    parts = {e.name: pd.Series(e.shrinkage, dtype=float) for e in found}
    order = list(dict.fromkeys(name for part in parts.values() for name in part.index))
    order.sort(key=lambda name: name == "eps")  # after the random effects
    return pd.DataFrame({name: part.reindex(order) for name, part in parts.items()})


def _tests(
    found: list[Entry], nested: Iterable[tuple], reasons: Mapping[str, str], strict: bool
) -> tuple[list[LikelihoodRatio], list[str]]:
    """Tests of the pairs that the declarations show or the caller names, and why others could not be made."""
    by_name = {e.name: e.fit for e in found if e.ours and e.fit is not None}
    tests, notes = [], []
    if isinstance(nested, str) or not isinstance(nested, Iterable):
        raise ModelError(invalid("nested", repr(nested), PAIRS, fix='Use nested=[("base", "full")]'))
    declared = [_declared(pair, by_name) for pair in nested]
    for reduced, full, boundary in declared:
        ratio = likelihood_ratio(by_name[reduced], by_name[full], boundary)
        tests.append(LikelihoodRatio(ratio.dofv, ratio.df, ratio.boundary, ratio.p, reduced, full))
    for reduced, a in by_name.items():
        for full, b in by_name.items():
            shown = nesting(a.model, b.model)
            if shown is None or shown.df == 0 or (reduced, full) in [pair[:2] for pair in declared]:
                continue
            if reduced in reasons or full in reasons:
                continue
            try:
                reason = refused(a, b)
                if reason:
                    notes.append(f"no likelihood ratio test of {reduced} in {full}: {reason}")
                else:
                    tests.append(tested(a, b, shown, (reduced, full)))
            except ConvergenceError as error:
                if strict:
                    raise
                notes.append(str(error))
    return tests, notes


def _declared(pair: Any, by_name: Mapping[str, Fit]) -> tuple[str, str, int | None]:
    if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
        raise ModelError(invalid("nested", repr(pair), PAIRS))
    for name in pair[:2]:
        if name not in by_name:
            raise ModelError(invalid("nested", repr(name), f"Fitted here are {', '.join(by_name)}"))
    return str(pair[0]), str(pair[1]), pair[2] if len(pair) == 3 else None


def _held_out(
    found: list[Entry], first: Entry, held_out: Population, method: Method | None, seed: int, strict: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Distances of every fit from subjects that none of them has seen."""
    if not isinstance(held_out, Population):
        fix = "Use for example train, test = population.split(0.25)"
        raise DataError(invalid("held_out", type(held_out).__name__, "It is a Population", fix=fix))
    assert first.fit is not None
    usable = [(first, first.fit), *((e, e.fit) for e in found if e.fit is not None and e is not first)]
    for entry, fit in usable:
        seen = shared_subjects(held_out, fit.population)
        how = "are in the data of"
        if not seen and fit.held_out is not None:
            seen, how = shared_subjects(held_out, fit.held_out), "were kept aside for early stopping by"
        if seen:
            expected = f"{len(seen)} of its subjects {how} {entry.name}"
            fix = "Fit to others: train, test = population.split(0.25)"
            raise ModelError(invalid("held_out", f"subject {seen[0]!r}", expected, fix=fix))
    rows, notes = {}, []
    kind = discrete(first.fit) > 0
    for entry, fit in usable:
        distance = predictive_distance(fit, held_out, method, seed)
        values = distance.row()
        reason = ""
        if method is None and fit.method != first.fit.method and fit.joint.k and first.fit.joint.k:
            reason = f"another approximation, {fit.method.name} against {first.fit.method.name}; give method="
        elif rows and values["observations"] != rows[first.name]["observations"]:
            reason = "other observations in the likelihood"
        elif (discrete(fit) > 0) != kind:
            reason = "a density of the observations against probabilities"
        if reason:
            if strict:
                raise ModelError(f"Invalid comparison of {entry.name} on held-out subjects: {reason}.")
            notes.append(f"{entry.name}: no likelihood on held-out subjects: {reason}")
            values["-2LL"] = math.nan
        if distance.unconverged:
            notes.append(f"{entry.name}: random effects not found for {len(distance.unconverged)} held-out subjects")
        rows[entry.name] = values
    table = pd.DataFrame.from_dict({e.name: rows[e.name] for e in found if e.name in rows}, orient="index")
    table.insert(3, "d-2LL", table["-2LL"] - table.loc[first.name, "-2LL"])
    return table, notes
