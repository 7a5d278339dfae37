"""What stands in a comparison: our fits, and those of other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepnlme.compare.external import ExternalFit, MappedFit
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit, FitStatus

AGREES = 0.1
"""Largest difference between another program's OFV and ours at its estimates that counts as agreement."""


@dataclass(frozen=True)
class Entry:
    """One column of a comparison.

    Attributes:
        name: Its name.
        fit: Our fit, or our evaluation at the estimates of another program; None if these are not mapped.
        external: The fit of another program, or None.
        mapped: The same in our parameters, or None.
    """

    name: str
    fit: Fit | None
    external: ExternalFit | None = None
    mapped: MappedFit | None = None

    @property
    def ours(self) -> bool:
        """Whether it was fitted here."""
        return self.external is None

    @property
    def estimates(self) -> dict[str, float]:
        """By our names, or by theirs where these are not mapped."""
        if self.fit is not None:
            known = self.fit.method.uses_omega  # else the variances are what was declared
            return {n: v for n, v in self.fit.estimates.items() if known or not n.startswith("omega[")}
        return self.external.estimates if self.external is not None else {}

    @property
    def se(self) -> dict[str, float]:
        """Standard errors by the names of `estimates`."""
        if self.mapped is not None:
            return self.mapped.se
        if self.external is not None:
            return self.external.se
        return self.fit.se if self.fit is not None else {}

    @property
    def shrinkage(self) -> dict[str, float]:
        """Eta shrinkage by our names (at their estimates, where they are mapped), and that of eps [%]."""
        if self.fit is not None:
            return {**self.fit.shrinkage, "eps": self.fit.epsilon_shrinkage}
        assert self.external is not None
        return {**self.external.shrinkage, **self.external.epsilon_shrinkage}

    def remarks(self) -> list[str]:
        """What a reader of the table has to know of it."""
        if self.external is not None:
            return _remarks_of_external(self.external, self.fit)
        fit = self.fit
        assert fit is not None
        out = []
        if fit.status in (FitStatus.EVALUATED, FitStatus.NOTHING_TO_ESTIMATE):
            out.append(fit.status.value)
        elif not fit.converged:
            lost = len(fit.unconverged)
            out.append(
                f"{fit.status.value}; random effects not found for {lost} subjects" if lost else fit.status.value
            )
        if fit.covariance is not None and not fit.covariance.ok:
            out.append(f"no standard errors: {fit.covariance.message}")
        if fit.joint.space.has_priors:
            penalised = "penalised by priors: its OFV, which is without the penalty, is not at its minimum"
            out.append(f"{penalised}; AIC and BIC count effective parameters" if fit.joint.space.weights else penalised)
        if fit.joint.space.weights and fit.joint.space.row_size < fit.joint.space.size:
            out.append("effective parameters are not to be had for so many weights: all are counted")
        return out


def _remarks_of_external(external: ExternalFit, fit: Fit | None) -> list[str]:
    said = f"{external.program} {external.version}".strip()
    out = [f"estimates of {said}" + (f" ({external.method})" if external.method else "")]
    if external.converged is False:
        out.append(f"{external.program} says: {external.message or 'not converged'}")
    out += external.warnings
    if fit is not None and external.ofv is not None:
        difference = fit.ofv - external.ofv
        same = not external.method or external.method == fit.method.name
        verdict = "they agree" if abs(difference) <= AGREES else "they do not agree"
        if not same:
            verdict = f"not the same approximation: {external.method} there, {fit.method.name} here"
        elif abs(difference) > AGREES:
            verdict += ": check the mapping, the data and the constant"
        out.append(
            f"OFV {external.ofv:.4f} as reported, {fit.ofv:.4f} here at its estimates (difference {difference:.2g}; "
            f"{verdict})"
        )
    return out


def entries(fits: tuple, reference: str | None) -> tuple[list[Entry], Entry]:
    """The columns by name, fits of other programs evaluated here; and the one that others are compared with.

    Raises:
        ModelError: Something else than fits, or no fit of ours to compare with.
    """
    named = _named(fits)
    own = [name for name, value in named.items() if isinstance(value, Fit)]
    if not own:
        raise ModelError("Invalid `fits`: none of them was fitted here. Give at least one Fit, as dn.fit returns it.")
    if reference is not None and reference not in own:
        raise ModelError(invalid("reference", repr(reference), f"It is one of {', '.join(own)}"))
    first = named[reference or own[0]]
    found = []
    for name, value in named.items():
        if isinstance(value, Fit):
            found.append(Entry(name, value))
        elif isinstance(value, MappedFit):
            there = value.at(first.population, first.method, first.options)
            found.append(Entry(name, there, value.external, value))
        else:
            found.append(Entry(name, None, value))
    return found, next(e for e in found if e.name == (reference or own[0]))


def _named(fits: tuple) -> dict[str, Any]:
    """Names as given, or those of the models, numbered where they repeat."""
    if len(fits) == 1 and isinstance(fits[0], Mapping):
        named = {str(k): v for k, v in fits[0].items()}
    else:
        named = {}
        for value in fits:
            name = _name(value)
            count = sum(1 for n in named if n == name or n.startswith(f"{name} ("))
            named[f"{name} ({count + 1})" if count else name] = value
    for name, value in named.items():
        if not isinstance(value, Fit | ExternalFit | MappedFit):
            expected = "Fits, as dn.fit returns them, and those of other programs are compared"
            fix = 'Use dn.compare(a, b) or dn.compare({"base": a, "full": b})'
            raise ModelError(invalid("fits", type(value).__name__, expected, name, fix))
    if not named:
        raise ModelError("Invalid `fits`: got none. Use dn.compare(a, b).")
    return named


def _name(value: Any) -> str:
    if isinstance(value, Fit):
        return str(value.model)
    external = value.external if isinstance(value, MappedFit) else value
    return external.program if isinstance(external, ExternalFit) else type(value).__name__


def row(entry: Entry, reference: Entry, refused: str) -> dict[str, Any]:
    """The row of the table; what must not be compared is NaN."""
    fit, external, there = entry.fit, entry.external, reference.fit
    assert there is not None
    out: dict[str, Any] = {"method": fit.method.name if fit is not None else external.method}  # type: ignore[union-attr]
    nothing = dict.fromkeys(("OFV", "-2LL", "dOFV"), math.nan)
    if fit is not None and not refused:
        minus2ll = -2.0 * fit.log_likelihood
        nothing = {"OFV": fit.ofv, "-2LL": minus2ll, "dOFV": minus2ll + 2.0 * there.log_likelihood}
    out |= nothing
    out["OFV reported"] = external.ofv if external is not None and external.ofv is not None else math.nan
    out["penalty"] = fit.penalty if fit is not None else math.nan
    out["parameters"] = fit.n_parameters if fit is not None else math.nan
    out["effective"] = fit.effective_parameters if fit is not None else math.nan
    out["AIC"] = fit.aic if fit is not None and not refused else math.nan
    out["BIC"] = fit.bic if fit is not None and not refused else math.nan
    if external is not None:
        out["converged"] = external.converged
        out["condition number"], out["seconds"] = external.condition_number, external.seconds
    else:
        assert fit is not None
        out["converged"] = fit.converged
        out["condition number"], out["seconds"] = fit.condition_number, sum(fit.seconds.values())
    return out
