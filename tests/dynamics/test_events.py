"""Every engine against the slow oracle: each event type alone, pairs of them, and random regimens."""

import pytest

from engines import CASES, LINEAR, compare, population_of, system

FIXED = {"r0": 31.0, "d0": 2.3, "r1": 17.0, "d1": 1.4}
EXTRAS = {
    "plain": {},
    "initial": {"x0": 3.0, "x1": 5.0},
    "lag and bioavailability": {"lag0": 0.73, "f0": 0.8, "lag1": 0.43, "f1": 1.3},
    "lag of whole hours": {"lag0": 1.0, "lag1": 2.0, "x1": 2.0},
}
MEMORY = {"memory": 400.0}


def changing(extra):
    """Parameters that change at every record."""

    def of(cov):
        w = cov["w"]
        return {
            **FIXED,
            **extra,
            "cl": 2.7 * w,
            "d0": 2.3 * w**0.5,
            **{k: extra[k] * w**0.5 for k in ("f0", "f1", "lag0", "x0") if k in extra},
        }

    return of


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(("compartments", "oral"), [(1, True), (2, False)])
def test_constant_parameters(compartments, oral, extra):
    compare(system(compartments, oral, {**FIXED, **EXTRAS[extra]}), population_of(CASES), LINEAR, options=MEMORY)


@pytest.mark.parametrize("rule", ["nocb", "locf", "linear"])
@pytest.mark.parametrize("extra", ["plain", "lag and bioavailability"])
def test_parameters_that_change_with_time(extra, rule):
    given = {**EXTRAS["initial"], **EXTRAS[extra]}
    compare(system(1, True, changing(given)), population_of(CASES, True, rule), LINEAR, options=MEMORY)


@pytest.mark.parametrize("extra", ["initial", "lag and bioavailability"])
def test_differential_equations(extra):
    compare(system(1, True, {**FIXED, **EXTRAS[extra]}), population_of(CASES), ("parallel",), options=MEMORY)


def test_differential_equations_step_by_step():
    some = {name: CASES[name] for i, name in enumerate(CASES) if i % 3 == 0}
    given = {**FIXED, **EXTRAS["lag and bioavailability"], "x1": 5.0}
    compare(system(1, True, given), population_of(some), ("ode",), options=MEMORY)


def test_a_subject_without_doses_beside_a_steady_infusion():
    # its initial state must not move before its first record
    rows = {"late": CASES["no dose"], "steady": CASES["steady infusion longer than II"]}
    rows["late"] = [{"TIME": row["TIME"] + 0.2} for row in rows["late"]]
    p = {"x1": 5.0, "lag0": 0.5}
    compare(system(1, True, p), population_of(rows), options=MEMORY)


def test_differential_equations_with_parameters_that_change():
    given = {**EXTRAS["initial"], **EXTRAS["lag and bioavailability"]}
    compare(system(1, True, changing(given)), population_of(CASES, True), ("parallel",), options=MEMORY)
