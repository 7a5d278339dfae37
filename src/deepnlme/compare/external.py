"""Fits made by other programs, and what they are in our parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit, Method, Options, evaluate_ofv
from deepnlme.model import Model

STEP = 1e-6
"""Relative step of the central differences behind the standard errors of mapped parameters."""


@dataclass(frozen=True)
class ExternalFit:
    """A finished run of another program, by its own names.

    Attributes:
        program: NONMEM, Monolix or nlmixr2.
        path: The file it was read from.
        version: Of the program, or "".
        method: Its approximation in our words (FOCEI, Laplace, ...), or in its own where there is none here, or "".
        ofv: Its objective function without the constant N log 2 pi, or None where it is not known.
        estimates: Every parameter, fixed ones included, by its name.
        se: Standard errors by name; NaN where there are none.
        aliases: Other names of the same parameters: NONMEM's ``THETA(1)`` for what the control stream calls TVCL.
        covariance: Covariance matrix of the estimates, or None.
        etas: EBEs, index ID, one column per random effect; None where they were not read.
        subject_ofv: Contributions of the subjects to the OFV, or None.
        shrinkage: 100 (1 - sd(eta_hat)/omega) by random effect [%], as the program computes it.
        epsilon_shrinkage: By residual [%].
        table: Its table of predictions and residuals by record, or None.
        converged: Whether the program says so; None where that is not known.
        message: What it says on how it ended.
        warnings: What else there is to know.
        condition_number: Of the correlation matrix of the estimates.
        seconds: Wall time of the estimation.
        subjects: Number of subjects, or None.
        observations: Number of observations, or None.
    """

    program: str
    path: str
    version: str = ""
    method: str = ""
    ofv: float | None = None
    estimates: dict[str, float] = field(default_factory=dict)
    se: dict[str, float] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    covariance: pd.DataFrame | None = None
    etas: pd.DataFrame | None = None
    subject_ofv: pd.Series | None = None
    shrinkage: dict[str, float] = field(default_factory=dict)
    epsilon_shrinkage: dict[str, float] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    converged: bool | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    condition_number: float = math.nan
    seconds: float = math.nan
    subjects: int | None = None
    observations: int | None = None

    @property
    def names(self) -> dict[str, str]:
        """Every name by which a parameter can be asked for, and the parameter's own name."""
        return {**{n: n for n in self.estimates}, **self.aliases}

    def mapped(self, model: Model, names: Mapping[str, Any]) -> MappedFit:
        """Their estimates as values of a model here.

        Args:
            model: The same model, declared here.
            names: For each parameter of the model (``cl``, ``omega[cl]``) that is not fixed: the name of their
                parameter; or a pair of a name and a function of its value, ``("SIGMA(1,1)", math.sqrt)``; or a
                function of all of their estimates, ``lambda e: e["CL"] / e["V"]``.

        Raises:
            ModelError: A parameter of the model without a name, or a name that one of both sides does not have.
        """
        self._check(model, names)
        rules = {n: self._rule(n, names[n]) for n in model.space.names}
        values = {n: self._value(n, rule, self.estimates) for n, rule in rules.items()}
        return MappedFit(self, model, values, {n: self._se(n, rule) for n, rule in rules.items()})

    def _check(self, model: Any, names: Any) -> None:
        if not isinstance(model, Model):
            raise ModelError(f"Invalid `model`: got {type(model).__name__}, expected an instance of a dn.Model.")
        if not isinstance(names, Mapping):
            raise ModelError(f'Invalid `names`: got {type(names).__name__}, expected a dict such as {{"cl": "TVCL"}}.')
        space = model.space
        if space.weights:
            raise ModelError("Invalid `model`: it has networks, whose weights no other program's table holds.")
        for name in names:
            if name not in space.all_names:
                expected = f"The model has {', '.join(space.all_names)}"
                raise ModelError(invalid("names", repr(name), expected, fix="Correct the spelling"))
        missing = [n for n in space.names if n not in names]
        if missing:
            fix = f"Add for example {{{missing[0]!r}: {next(iter(self.estimates), 'THETA(1)')!r}}}"
            raise ModelError(invalid("names", "nothing", "Every free parameter needs a name", missing[0], fix))

    def at(
        self, model: Model, population: Population, method: Method | None, names: Mapping[str, Any], **how: Any
    ) -> Fit:
        """Our likelihood at their estimates: `mapped` and `MappedFit.at` in one."""
        return self.mapped(model, names).at(population, method, **how)

    def _rule(self, name: str, rule: Any) -> Callable[[Mapping[str, float]], Any]:
        """A function of all of their estimates."""
        if callable(rule):
            return rule
        theirs, function = (rule, float) if isinstance(rule, str) else (rule if _is_pair(rule) else (None, None))
        if not isinstance(theirs, str) or not callable(function):
            expected = "It is a name, a pair (name, function) or a function of all estimates"
            raise ModelError(invalid("names", repr(rule), expected, name))
        if theirs not in self.names:
            expected = f"{self.program} has {', '.join(self.names)}"
            raise ModelError(invalid("names", repr(theirs), expected, name, "Correct the spelling"))
        return lambda estimates: function(estimates[theirs])

    def _value(self, name: str, rule: Callable, estimates: Mapping[str, float]) -> float:
        everything = {alias: estimates[own] for alias, own in self.names.items()}
        try:
            value = float(rule(everything))
        except KeyError as error:
            expected = f"{self.program} has {', '.join(self.names)}"
            raise ModelError(invalid("names", str(error), expected, name, "Correct the spelling")) from None
        except (TypeError, ValueError, ArithmeticError) as error:
            expected = "Its function has to give a number"
            raise ModelError(invalid("names", f"{type(error).__name__}: {error}", expected, name)) from None
        if not math.isfinite(value):
            raise ModelError(invalid("names", value, "Its function has to give a finite number", name))
        return value

    def _se(self, name: str, rule: Callable) -> float:
        """Standard error by the delta method; NaN without those of what it is made of."""
        slopes = {}
        for theirs, value in self.estimates.items():
            step = STEP * (abs(value) or 1.0)
            try:
                ends = [self._value(name, rule, {**self.estimates, theirs: value + s * step}) for s in (1, -1)]
            except ModelError:
                return math.nan
            if ends[0] != ends[1]:
                slopes[theirs] = (ends[0] - ends[1]) / (2.0 * step)
        if self.covariance is not None:
            known = {n: s for n, s in slopes.items() if n in self.covariance.index}
            if known:
                g = np.array(list(known.values()))
                return math.sqrt(max(0.0, g @ self.covariance.loc[list(known), list(known)].to_numpy(float) @ g))
        if len(slopes) == 1:
            ((theirs, slope),) = slopes.items()
            return abs(slope) * self.se.get(theirs, math.nan)
        return math.nan

    def __str__(self) -> str:
        ofv = "OFV not known" if self.ofv is None else f"OFV {self.ofv:.4f}"
        counted = [f"{n} {what}" for n, what in ((self.subjects, "subjects"), (self.observations, "observations")) if n]
        lines = [
            f"{self.program} {self.version}".strip()
            + f" ({self.path})"
            + (f": {', '.join(counted)}" if counted else ""),
            f"{self.method + ': ' if self.method else ''}{ofv}" + (f", {self.message}" if self.message else ""),
            *self.warnings,
        ]
        table = pd.DataFrame({"Estimate": self.estimates})
        table["SE"] = pd.Series(self.se, dtype=float)
        table["RSE%"] = 100.0 * table["SE"] / table["Estimate"].abs()
        shown = table.to_string(float_format=lambda v: f"{v:.5g}", na_rep="")
        return "\n".join(lines) + "\n\n" + shown


@dataclass(frozen=True)
class MappedFit:
    """A fit of another program as values of a model here.

    Attributes:
        external: The fit.
        model: The model.
        estimates: Values of the model's free parameters.
        se: Their standard errors by the delta method.
    """

    external: ExternalFit
    model: Model
    estimates: dict[str, float]
    se: dict[str, float]

    def at(self, population: Population, method: Method | None = None, options: Options | None = None) -> Fit:
        """Our likelihood at their estimates, nothing fitted (`evaluate_ofv`)."""
        return evaluate_ofv(self.model, population, method, self.estimates, options)

    def __str__(self) -> str:
        table = pd.DataFrame({"Estimate": self.estimates, "SE": self.se})
        return f"{self.external.program} as {type(self.model).__name__}\n\n{table.to_string()}"


def _is_pair(rule: Any) -> bool:
    return isinstance(rule, tuple | list) and len(rule) == 2
