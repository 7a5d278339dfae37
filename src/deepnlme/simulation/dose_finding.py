"""Dose finding: the attainment of a target at each of several doses, in the same virtual people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Dose, Regimen
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.model import Model
from deepnlme.simulation.attainment import Target, describe, target_attainment
from deepnlme.simulation.dose_rules import DoseRule, scaled
from deepnlme.simulation.exposure import exposure
from deepnlme.simulation.proportions import check_share
from deepnlme.simulation.result import Simulation
from deepnlme.simulation.simulate import replicate_count, simulate
from deepnlme.simulation.virtual import virtual_population

JUDGES = ("PROPORTION", "LOW", "REP_LOW")
CHOICES = ("lowest", "best")


@dataclass(frozen=True)
class DoseFinding:
    """The attainment of a target by dose, and the dose that it recommends.

    Attributes:
        table: One row for each dose: DOSE and the columns of `target_attainment`.
        recommended: The dose; None if no dose reaches the probability.
        target: The target in words.
        probability: What the attainment has to reach.
        judged_by: The column of the table that has to reach it.
        choose: "lowest" or "best".
        exposures: One row for each dose, replicate and subject: DOSE and the columns of `exposure`.
    """

    table: pd.DataFrame
    recommended: float | None
    target: str
    probability: float
    judged_by: str
    choose: str
    exposures: pd.DataFrame

    @property
    def statement(self) -> str:
        """The recommendation in a sentence."""
        judged = self.table[self.judged_by].to_numpy()
        rule = f"whose {self.judged_by} with {self.target} is at least {self.probability:g}"
        if self.recommended is None:
            best = int(np.argmax(judged))
            return (
                f"There is no dose {rule}: the highest is {judged[best]:.3f}, at dose {self.table['DOSE'][best]:g}. "
                "Try other doses or regimens, or ask for less."
            )
        at = float(judged[self.table["DOSE"].to_numpy() == self.recommended][0])
        kind = "the lowest dose" if self.choose == "lowest" else "the dose of highest attainment among those"
        return f"Recommended dose: {self.recommended:g}, {kind} {rule} ({at:.3f})."

    def __str__(self) -> str:
        return f"{self.table.to_string(index=False, float_format=lambda v: f'{v:.4g}')}\n{self.statement}"


def find_dose(
    source: Fit | Model,
    doses: Sequence[float],
    regimen: Any,
    target: Target,
    *,
    times: Any,
    n: int = 1000,
    covariates: Any = None,
    exposed: Mapping[str, Any] | Callable[[Simulation], pd.DataFrame] | None = None,
    probability: float = 0.9,
    judged_by: str = "PROPORTION",
    choose: str = "lowest",
    level: float = 0.95,
    seed: int = 0,
    **simulation: Any,
) -> DoseFinding:
    """Find the dose at which enough people meet a target.

    The people are the same at every dose: covariates, random effects, parameters of the replicates and residuals
    (common random numbers), so that doses differ by less noise than each attainment has.

    Args:
        source: A fit, or a model.
        doses: Doses to try, positive and increasing.
        regimen: A function of the dose that returns what is given (`Dose`, `Regimen` or a rule); or a plan for a dose
            of 1, whose amounts and rates are multiplied by the dose (`PerCovariate("wt", Dose(1, ii=24, ss=1))` for
            doses per kg).
        target: As in `target_attainment`.
        times: Simulated times.
        n: Number of virtual people.
        covariates: As in `virtual_population`.
        exposed: Arguments of `exposure` (``dict(start=144, end=168, threshold=2)``), or a function of the simulation
            that returns such a table.
        probability: What the attainment has to reach.
        judged_by: What has to reach it: "PROPORTION", the estimate; "LOW", its lower confidence limit; "REP_LOW", the
            lower limit between replicates: with ``uncertainty=True`` and many people, that which the uncertainty of
            the parameters leaves.
        choose: "lowest": the lowest such dose. "best": that of the highest PROPORTION, for targets with an upper end.
        level: As in `target_attainment`.
        seed: Seed of people and simulation.
        **simulation: Further arguments of `simulate`: `replicates`, `uncertainty`, `residual`, `at`, ...; without
            residual error by default.

    Returns:
        The table by dose and the recommendation; `print` shows both.

    Raises:
        ModelError: Doses that do not increase, or arguments that do not go together.
        DataError: A regimen, covariates or times that do not fit.
    """
    doses = _doses(doses)
    _check(probability, judged_by, choose, level, simulation)
    simulation = {"residual": False, **simulation}
    tables = []
    for dose in doses:
        people = virtual_population(n, _plan(regimen, dose), covariates=covariates, seed=seed)
        found = _exposures(simulate(source, people, times, seed=seed, **simulation), exposed)
        if "DOSE" in found.columns:
            raise ModelError(invalid("covariates", "'DOSE'", "This is a column of the result", fix="Rename it"))
        tables.append(pd.concat([pd.Series(np.full(len(found), dose), name="DOSE"), found], axis=1))
    exposures = pd.concat(tables, ignore_index=True)
    table = target_attainment(exposures, target, by="DOSE", level=level)
    good = table.loc[table[judged_by] >= probability]
    recommended = None
    if len(good):
        recommended = float(good["DOSE"].iloc[0 if choose == "lowest" else int(good["PROPORTION"].argmax())])
    return DoseFinding(table, recommended, describe(target), probability, judged_by, choose, exposures)


def _doses(doses: Any) -> list[float]:
    try:
        found = np.atleast_1d(np.asarray(doses, dtype=np.float64))
    except (TypeError, ValueError):
        found = np.array([])
    if (
        found.ndim != 1
        or not len(found)
        or not np.isfinite(found).all()
        or found[0] <= 0
        or np.any(np.diff(found) <= 0)
    ):
        raise ModelError(invalid("doses", repr(doses), "Doses are positive numbers that increase"))
    return found.tolist()


def _check(probability: Any, judged_by: Any, choose: Any, level: Any, simulation: Mapping[str, Any]) -> None:
    check_share("probability", probability)
    check_share("level", level)
    if judged_by not in JUDGES:
        raise ModelError(invalid("judged_by", repr(judged_by), f"It is one of {', '.join(map(repr, JUDGES))}"))
    if choose not in CHOICES:
        raise ModelError(invalid("choose", repr(choose), f"It is one of {', '.join(map(repr, CHOICES))}"))
    count = replicate_count(simulation.get("replicates"), simulation.get("uncertainty"))
    if judged_by == "REP_LOW" and count == 1:
        fix = 'Give replicates=200, or judge by "PROPORTION"'
        raise ModelError(invalid("judged_by", repr(judged_by), "It needs several replicates", fix=fix))


def _plan(regimen: Any, dose: float) -> Any:
    if isinstance(regimen, Dose | Regimen | DoseRule):
        return scaled(regimen, dose)
    if not callable(regimen):
        expected = "It is a function of the dose, or a Dose, Regimen or rule for a dose of 1"
        raise ModelError(invalid("regimen", repr(regimen), expected))
    plan = regimen(dose)
    if not isinstance(plan, Dose | Regimen | DoseRule):
        raise ModelError(
            invalid("regimen", repr(plan), "The function returns a Dose, a Regimen or a rule", f"dose {dose:g}")
        )
    return plan


def _exposures(sim: Simulation, exposed: Any) -> pd.DataFrame:
    if exposed is None or isinstance(exposed, Mapping):
        return exposure(sim, **(exposed or {}))
    found = exposed(sim)
    if not isinstance(found, pd.DataFrame):
        raise ModelError(invalid("exposed", type(found).__name__, "The function returns a table, one row per subject"))
    return found.reset_index(drop=True)
