"""Formulas judged by the data: each put into the model and fitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.discovery.distillation import Candidate, Distillation
from deepnlme.discovery.formula import Formula
from deepnlme.discovery.replaced import label
from deepnlme.errors import DataError, DeepNLMEError, ModelError, invalid
from deepnlme.estimation import Fit, Options, evaluate_ofv, fit
from deepnlme.estimation.coding import coded
from deepnlme.model import Model


@dataclass(frozen=True)
class Refits:
    """A model with a network, and the same model with formulas in its place, all fitted to the same data.

    Attributes:
        network: The fit of the network.
        candidates: The formulas, the simplest first.
        fits: The fit of each; None where it failed.
        failures: Why, [candidates]; empty where it did not.
        held_out: -2LL and RMSE of PRED and IPRED on other subjects, for the network and each formula; or None.
    """

    network: Fit
    candidates: tuple[Candidate, ...]
    fits: tuple[Fit | None, ...]
    failures: tuple[str, ...]
    held_out: pd.DataFrame | None = None

    @property
    def best(self) -> int:
        """Position of the formula with the lowest BIC.

        Raises:
            ModelError: None could be fitted.
        """
        bic = np.array([np.inf if found is None else found.bic for found in self.fits])
        if not len(bic) or not np.isfinite(bic).any():
            raise ModelError(
                invalid("candidates", "none that could be fitted", "; ".join(self.failures) or "It is empty")
            )
        return int(np.nanargmin(bic))

    def formula(self, position: int) -> Formula:
        """A formula with its constants as the data have estimated them."""
        candidate, found = self.candidates[position], self.fits[position]
        if found is None:
            raise ModelError(invalid("position", position, f"Its fit has failed: {self.failures[position]}"))
        outputs = self.network.model.networks[candidate.network].outputs
        names = {n: label(candidate.network, candidate.output, outputs, n) for n in candidate.formula.constants}
        return replace(candidate.formula, constants={n: found.estimates[own] for n, own in names.items()})

    def table(self) -> pd.DataFrame:
        """The network, then one row per formula.

        FORM COMPLEXITY ERROR PARAMETERS (the effective ones, where a network is left) OFV BIC dBIC (to the lowest of
        the formulas) CONVERGED PARETO (no simpler formula has as low an OFV) BEST FORMULA, and HELD_OUT columns.
        """
        net = self.network
        least = self.fits[self.best].bic  # type: ignore[union-attr]
        dbic = net.bic - least
        first = ("network", np.nan, 0.0, net.effective_parameters, net.ofv, net.bic, dbic, net.converged)
        rows: list[tuple] = [(*first, False, False, "")]
        lowest = np.inf
        for i, (candidate, found) in enumerate(zip(self.candidates, self.fits, strict=True)):
            head = (candidate.formula.form, candidate.complexity, candidate.error)
            if found is None:
                rows.append((*head, *(np.nan,) * 4, False, False, False, self.failures[i]))
                continue
            pareto, lowest = found.ofv < lowest, min(found.ofv, lowest)
            numbers = (found.effective_parameters, found.ofv, found.bic, found.bic - least, found.converged)
            rows.append((*head, *numbers, pareto, i == self.best, self.formula(i).valued()))
        columns = ["FORM", "COMPLEXITY", "ERROR", "PARAMETERS", "OFV", "BIC", "dBIC", "CONVERGED", "PARETO", "BEST",
                   "FORMULA"]  # fmt: skip
        table = pd.DataFrame(rows, columns=columns)
        return table if self.held_out is None else pd.concat([table, self.held_out], axis=1)

    def __str__(self) -> str:
        table = self.table()
        shown = pd.DataFrame({"": np.where(table["BEST"], "best", np.where(table["PARETO"], "*", ""))})
        shown["form"] = table["FORM"]
        shown["complexity"] = [f"{v:.0f}" if np.isfinite(v) else "" for v in table["COMPLEXITY"]]
        shown["parameters"] = [f"{v:.3g}" if np.isfinite(v) else "" for v in table["PARAMETERS"]]
        for name in ("OFV", "BIC", "dBIC", *(c for c in table if c.startswith("HELD_OUT"))):
            digits = 4 if "RMSE" in name else 2
            shown[name] = [f"{v:.{digits}f}" if np.isfinite(v) else "" for v in table[name].astype(float)]
        shown["formula"] = table["FORMULA"]
        open_ends = [str(form) for form, ok in zip(table["FORM"], table["CONVERGED"], strict=True) if not ok]
        note = f"\nnot converged: {', '.join(open_ends)}" if open_ends else ""
        return shown.to_string(index=False) + note


def refitted(
    distillation: Distillation,
    fit: Fit,
    *,
    candidates: Iterable[Candidate] | None = None,
    held_out: Population | None = None,
    options: Options | None = None,
) -> Refits:
    """Put every formula into the model in place of the network, fit it, and compare.

    How close a formula is to the network does not say how well it describes the data, because the network has followed
    some noise and, where it is penalised, has been held back. The likelihood of the refitted model says it.

    Args:
        distillation: Formulas, from `distil`.
        fit: The fit with the network.
        candidates: Some of them, such as ``distillation.front``; all by default.
        held_out: Subjects that were not fitted, to compare the models on.
        options: Of the fits; by default those of `fit`, without a covariance step and on all subjects that it was
            fitted to.

    Returns:
        The fits; `print` shows the table.

    Raises:
        ModelError: Not a distillation of a network of this fit; options that keep some of the subjects aside.
        DataError: Held-out subjects that do not suit the model, or that were fitted.
    """
    if not isinstance(distillation, Distillation):
        raise ModelError(invalid("distillation", type(distillation).__name__, "It is what dn.distil returns"))
    chosen = tuple(distillation.candidates if candidates is None else candidates)
    wrong = [c for c in chosen if not isinstance(c, Candidate)]
    if wrong or not chosen:
        got = type(wrong[0]).__name__ if wrong else "none"
        raise ModelError(invalid("candidates", got, "They are some of the distillation's", fix="Leave it out for all"))
    models = [candidate.into(fit) for candidate in chosen]
    if held_out is not None and not isinstance(held_out, Population):
        raise DataError(invalid("held_out", type(held_out).__name__, "It is a Population of subjects not fitted"))
    if held_out is not None:
        _check_unseen(fit.population, held_out)
    how = options
    if how is None:
        how = replace(fit.options, covariance=None, checkpoint=None, progress=False, starts=1, held_out=None)
    if isinstance(how.held_out, float):
        expected = "Formulas and network are compared on the same subjects"
        raise ModelError(invalid("options", f"held_out={how.held_out}", expected, fix="Leave it out there"))
    fits, failures = [], []
    for model in models:
        found, why = _fitted(model, fit, how)
        fits.append(found)
        failures.append(why)
    table = None if held_out is None else pd.DataFrame([_distance(f, held_out) for f in (fit, *fits)])
    return Refits(fit, chosen, tuple(fits), tuple(failures), table)


def _check_unseen(fitted: Population, held_out: Population) -> None:
    """Refuse subjects that were fitted: the same identifier, times and observations."""
    known = {subject.id: subject for subject in fitted}
    both = [
        subject.id
        for subject in held_out
        if subject.id in known
        and np.array_equal(known[subject.id].time, subject.time)
        and np.array_equal(known[subject.id].dv, subject.dv, equal_nan=True)
    ]
    if both:
        got = f"subject {both[0]} ({len(both)} in all)"
        fix = "Keep subjects out of the fit, or leave held_out away"
        raise DataError(invalid("held_out", got, "It was fitted, and says nothing about others", fix=fix))


def _fitted(model: Model, of: Fit, options: Options) -> tuple[Fit | None, str]:
    try:
        return fit(model, of.population, of.method, options=options), ""
    except (DeepNLMEError, np.linalg.LinAlgError) as error:  # one formula must not sink the others
        return None, str(error)


def _distance(found: Fit | None, population: Population) -> dict[str, float]:
    """-2LL of subjects at the estimates, and root mean squares of DV - PRED and DV - IPRED."""
    names = ("HELD_OUT -2LL", "HELD_OUT RMSE PRED", "HELD_OUT RMSE IPRED")
    if found is None:
        return dict.fromkeys(names, np.nan)
    options = replace(found.options, held_out=None)
    there = evaluate_ofv(found.model, coded(population, found.population), found.method, at=found, options=options)
    table = there.predictions()
    gaps = [table["DV"].astype(float) - table[name].astype(float) for name in ("PRED", "IPRED")]
    return dict(zip(names, (-2.0 * there.log_likelihood, *(float(np.sqrt((g**2).mean())) for g in gaps)), strict=True))
