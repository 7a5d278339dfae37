"""Arms of a virtual trial: who is in which, and what is given there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from deepnlme.errors import DataError, invalid
from deepnlme.simulation.covariate_draws import People, draw_people
from deepnlme.simulation.distributions import check_label
from deepnlme.simulation.dose_rules import Doses, check_plan, doses_of, joined

ARM, PERSON = "arm", "person"
"""The covariates that the arms of a trial add."""


def allocate(n: Any, arms: Mapping[str, Any], covariates: Any, crossed: bool, seed: int) -> tuple[People, Doses]:
    """People and doses of all arms, one arm after the other.

    Args:
        n: Number of subjects of each arm, or numbers by arm.
        arms: What is given, by the arm's name.
        covariates: As in `draw_people`; drawn once for all arms if `crossed`.
        crossed: The same people in each arm.
        seed: Seed of the covariates.

    Returns:
        All subjects with their covariates, ``arm`` (and ``person`` if crossed) among them; and their doses.

    Raises:
        DataError: Arms or numbers that do not go together, or a covariate with a reserved name.
    """
    _check_arms(arms)
    sizes = _sizes(n, arms)
    ends = np.cumsum(sizes)
    code = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    if crossed:
        drawn = draw_people(int(sizes.max()), covariates, seed)
        _check_names(drawn, (ARM, PERSON))
        people = drawn.take(within)
        people.values[PERSON] = within + 1.0
    else:
        people = draw_people(int(ends[-1]), covariates, seed)
        _check_names(people, (ARM,))
    people.values[ARM] = code.astype(np.float64)
    people = replace(people, labels={**people.labels, ARM: tuple(arms)})
    parts = []
    for k, plan in enumerate(arms.values()):
        members = np.flatnonzero(code == k)
        found = doses_of(plan, people.take(members))
        parts.append({**found, "subject": members[found["subject"]]})
    return people, joined(parts)


def _check_arms(arms: Any) -> None:
    if not isinstance(arms, Mapping) or not arms:
        raise DataError(invalid("arms", repr(arms), "It is a dict of regimens by the name of the arm"))
    for name, plan in arms.items():
        check_label("arms", name)
        check_plan(plan, f"arms[{name!r}]")


def _sizes(n: Any, arms: Mapping[str, Any]) -> np.ndarray:
    given: Mapping[str, Any] = n if isinstance(n, Mapping) else {name: n for name in arms}
    for name in given:
        if name not in arms:
            raise DataError(
                invalid("n", f"a number for the arm {name!r}", f"The arms are {', '.join(map(repr, arms))}")
            )
    for name in arms:
        if name not in given:
            raise DataError(invalid("n", f"no number for the arm {name!r}", "Each arm has its number of subjects"))
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise DataError(invalid("n", repr(value), "It is a whole number of at least 1", f"the arm {name!r}"))
    return np.array([int(given[name]) for name in arms])


def _check_names(people: People, reserved: tuple[str, ...]) -> None:
    for name in people.values:
        if name.lower() in reserved:
            expected = f"The arms of a trial make the covariate `{name.lower()}`"
            raise DataError(invalid("covariates", repr(name), expected, fix="Give the covariate another name"))
