"""Virtual populations: people with covariates from distributions, and the doses that a design gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepnlme.data import Population, Records
from deepnlme.data.records import OTHER
from deepnlme.errors import DataError, invalid
from deepnlme.simulation.arms import allocate
from deepnlme.simulation.covariate_draws import draw_people
from deepnlme.simulation.dose_rules import COLUMNS, Doses, check_plan, doses_of


def virtual_population(
    n: int | Mapping[str, int],
    regimen: Any = None,
    *,
    covariates: Any = None,
    arms: Mapping[str, Any] | None = None,
    crossed: bool = False,
    occasions: Sequence[float] | None = None,
    ids: Sequence[int | str] | None = None,
    seed: int = 0,
) -> Population:
    """Make n subjects with covariates and doses, and without observations.

    Every subject has a record at time 0: a dose, or else one with EVID=2. Covariates do not change in time.

    Args:
        n: Number of subjects; with `arms` that of each arm, or a dict of numbers by arm.
        regimen: What each subject is given: `Dose`, `Regimen`, a rule (`PerCovariate`, `Bands`), or None.
        covariates: By name: a number, a text, `Normal(mean, sd)`, `LogNormal(median, sd)`, a distribution of torch
            or scipy, `Truncated`, ``{"female": 0.4, "male": 0.6}`` (or numbers as keys), a sequence with one value
            per person, or a function of the covariates before it (a dict of arrays [n]). Or a `Copula`, a
            `Resampled`, or a list of these and dicts.
        arms: What is given in each arm of a trial, by its name; None for no dose. The subjects of an arm stand
            together, in the order given, and have a text covariate ``arm``.
        crossed: The same virtual people in every arm, so that arms differ by their doses only: the covariates of the
            i-th subject are the same in each, and the number covariate ``person`` says who it is. Random effects are
            drawn for each subject of each arm; to have those in common too, simulate populations of one arm each with
            the same seed.
        occasions: Times at which occasions begin, increasing, the first of them 0.
        ids: Identifiers; 1 .. S by default.
        seed: Seed of the covariates. A covariate has its own stream: adding others does not change it.

    Returns:
        The population.

    Raises:
        DataError: A number, distribution, arm or rule that cannot mean what it says.

    Example:
        >>> from deepnlme.data import Dose
        >>> from deepnlme.observation import LogNormal
        >>> virtual_population(3, Dose(100), covariates={"wt": LogNormal(70, 0.2)})
        <Population: 3 subjects, 3 records, 0 observations>
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise DataError(invalid("seed", repr(seed), "It is a whole number of at least 0"))
    check_plan(regimen, "regimen")
    begins = _occasions(occasions)
    if arms is None:
        if crossed:
            raise DataError(
                invalid("crossed", crossed, "Only a population with arms is crossed", fix="Give arms={...}")
            )
        people = draw_people(_count(n), covariates, int(seed))
        doses = doses_of(regimen, people)
    else:
        if regimen is not None:
            fix = "Give each arm its regimen: arms={'active': dn.Dose(100), 'placebo': None}"
            raise DataError(invalid("regimen", "a regimen and arms", "Arms have regimens of their own", fix=fix))
        people, doses = allocate(n, arms, covariates, crossed, int(seed))
    records = _records(people.n, doses, begins, people.values)
    names = tuple(str(k + 1) for k in range(len(begins))) if occasions is not None else ()
    return Population.from_records(
        records, _ids(ids, people.n), categories=people.labels, occasions=names, notes=("virtual population",)
    )


def _count(n: Any) -> int:
    if isinstance(n, Mapping):
        raise DataError(invalid("n", dict(n), "Numbers by arm need arms", fix="Give arms={'name': regimen, ...}"))
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise DataError(invalid("n", repr(n), "It is a whole number of at least 1"))
    return int(n)


def _ids(ids: Sequence[int | str] | None, n: int) -> Sequence[int | str]:
    if ids is None:
        return range(1, n + 1)
    if isinstance(ids, str) or len(ids) != n:
        got = repr(ids) if isinstance(ids, str) else f"{len(ids)} identifiers"
        raise DataError(invalid("ids", got, f"There is one identifier for each of {n} subjects"))
    return list(ids)


def _occasions(occasions: Sequence[float] | None) -> np.ndarray:
    if occasions is None:
        return np.zeros(1)
    try:
        begins = np.atleast_1d(np.asarray(occasions, dtype=np.float64))
    except (TypeError, ValueError):
        begins = np.array([])
    if begins.ndim != 1 or not len(begins) or not np.isfinite(begins).all() or np.any(np.diff(begins) <= 0):
        raise DataError(invalid("occasions", repr(occasions), "Occasions begin at increasing times"))
    if begins[0] != 0:
        raise DataError(invalid("occasions", repr(occasions), "The first occasion begins at 0, when virtual time does"))
    return begins


def _records(n: int, doses: Doses, begins: np.ndarray, covariates: Mapping[str, np.ndarray]) -> Records:
    """The doses, and records with EVID=2 where time or an occasion begins without a dose."""
    subject, time = [doses["subject"]], [doses["time"]]
    for begin in begins:
        missing = np.ones(n, dtype=bool)
        missing[doses["subject"][doses["time"] == begin]] = False
        subject.append(np.flatnonzero(missing))
        time.append(np.full(int(missing.sum()), begin))
    subjects, times = np.concatenate(subject), np.concatenate(time)
    added = len(subjects) - len(doses["subject"])
    order = np.lexsort((times, subjects))
    columns: dict[str, Any] = {}
    for name in COLUMNS[1:]:
        fill = np.full(added, OTHER if name == "evid" else "" if name == "cmt" else 0)
        columns[name] = np.concatenate([doses[name], fill])[order]
    times, subjects = times[order], subjects[order]
    columns["occasion"] = np.searchsorted(begins, times, side="right") - 1
    values = {name: value[subjects] for name, value in covariates.items()}
    return Records.build(times, values, subject=subjects, **columns)
