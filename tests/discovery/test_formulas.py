"""Formulas: counted, computed and shown; those of known functions are recovered from exact points."""

import numpy as np
import pytest
import torch

from deepnlme.discovery.distillation import knee, ranked
from deepnlme.discovery.forms import library
from deepnlme.discovery.formula import Formula, parsed
from deepnlme.discovery.points import Points, adjusted, independent
from deepnlme.discovery.symbolic import searched, singular

CP = np.linspace(0.0, 0.4, 81)


def formula(text, inputs=("cp",), positive=(), **constants):
    return Formula(parsed(text, (*inputs, *constants)), inputs, constants, frozenset(positive), "mine")


def points(y, names=("cp",), x=CP, baseline=None):
    return Points(names, x.reshape(len(y), -1), y, baseline)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 1),
        ("a*cp", 3),
        ("b - a*cp", 5),
        ("a*cp/(b + cp)", 7),
        ("a*cp**g/(b**g + cp**g)", 13),
        ("a*exp(b*cp)", 6),
        ("1/cp", 3),
    ],
)
def test_size_is_what_one_writes(text, expected):
    assert formula(text, a=1.0, b=2.0, g=3.0).complexity == expected


def test_values_by_hand():
    f = formula("a*cp**g/(b**g + cp**g) - log(cp) + sqrt(cp)*exp(-cp) + 2/3", a=2.9, b=0.05, g=1.5)
    x = np.array([0.01, 0.2])
    hill = 2.9 * x**1.5 / (0.05**1.5 + x**1.5)
    assert f(x) == pytest.approx(hill - np.log(x) + np.sqrt(x) * np.exp(-x) + 2 / 3, rel=1e-14)
    assert f(0.2) == pytest.approx(f(x)[1], rel=1e-15)


def test_powers_have_values_and_derivatives_at_and_below_zero():
    f = formula("a*cp**g/(b**g + cp**g)", a=2.9, b=0.05, g=0.5)
    x = torch.tensor([-1e-9, 0.0, 0.1], dtype=torch.float64, requires_grad=True)
    g = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = f.evaluate({"cp": x}, {"a": 2.9, "b": 0.05, "g": g})
    slopes = torch.autograd.grad(y.sum(), [x, g])
    assert torch.isfinite(y).all() and all(torch.isfinite(s).all() for s in slopes)


KNOWN = {
    "constant": (2.0 + 0.0 * CP, {"e0": 2.0}),
    "linear": (3.0 - 2.0 * CP, {"e0": 3.0, "slope": -2.0}),
    "power": (1.0 + 4.0 * CP**0.4, {"e0": 1.0, "scale": 4.0, "gamma": 0.4}),
    "Emax": (1.0 + 2.9 * CP / (0.05 + CP), {"e0": 1.0, "emax": 2.9, "ec50": 0.05}),
    "sigmoid Emax": (
        0.5 + 2.9 * CP**2.5 / (0.1**2.5 + CP**2.5),
        {"e0": 0.5, "emax": 2.9, "ec50": 0.1, "gamma": 2.5},
    ),
    "exponential": (1.0 - 2.0 * np.exp(-9.0 * CP), {"e0": 1.0, "scale": -2.0, "rate": -9.0}),
    "log-linear": (1.0 + 0.7 * np.log(1.0 + CP / 0.02), {"e0": 1.0, "slope": 0.7, "shift": 0.02}),
    "inhibitory Imax": (3.0 * (1.0 - 0.8 * CP / (0.07 + CP)), {"e0": 3.0, "imax": 0.8, "ic50": 0.07}),
    "Michaelis-Menten": (2.9 * CP / (0.05 + CP), {"vmax": 2.9, "km": 0.05}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_library_recovers_its_forms(name):
    y, constants = KNOWN[name]
    found = next(f for f in library(points(y)) if f.form == name)
    assert found.constants == pytest.approx(constants, rel=1e-5)
    assert points(y).error(found) < 1e-6


@pytest.mark.parametrize("name", ["linear", "Emax", "sigmoid Emax"])
def test_known_functions_are_the_knee(name):
    p = points(KNOWN[name][0])
    found = ranked("net", 0, library(p), p, 1e-4)
    assert found.knee.formula.form == name and found.knee.pareto


def test_a_baseline_takes_away_the_intercept():
    y = 2.9 * CP**1.5 / (0.05**1.5 + CP**1.5)
    p = Points(("cp",), CP[1:, None], y[1:] - y[3], CP[3:4])  # zero at another place than 0
    found = next(f for f in library(p) if f.form == "sigmoid Emax")
    assert found.constants == pytest.approx({"emax": 2.9, "ec50": 0.05, "gamma": 1.5}, rel=1e-6)
    assert not any("e0" in f.constants for f in library(p))


def test_forms_of_one_input_with_the_other_linear():
    generator = np.random.default_rng(1)
    x = generator.uniform(0.0, 1.0, (200, 2))
    y = 0.8 * (1.0 + 2.9 * x[:, 0] / (0.05 + x[:, 0])) - 2.2 * x[:, 1]
    p = points(y, ("cp", "R"), x)
    found = min(library(p), key=lambda f: (p.error(f) > 1e-6, f.complexity))
    assert found.form == "Emax of cp, linear in the rest"
    assert found.constants == pytest.approx({"e0": 0.8, "emax": 2.32, "ec50": 0.05, "slope_R": -2.2}, rel=1e-6)


def test_an_input_may_be_called_x_beside_others():
    """The forms are written of x, whatever their input is called."""
    x = np.random.default_rng(1).uniform(0.1, 5.0, (60, 2))
    y = 3 * x[:, 0] / (1.2 + x[:, 0]) + 0.5 * x[:, 1]
    errors = {}
    for names in (("a", "b"), ("y", "x")):
        data = points(y, names, x)
        found = library(data)
        errors[names] = sorted((len(f.constants), round(data.error(f), 8)) for f in found)
        best = next(f for f in found if f.form == f"Michaelis-Menten of {names[0]}, linear in the rest")
        assert data.error(best) < 1e-8
    assert errors["a", "b"] == errors["y", "x"]


def test_negative_inputs_have_no_powers():
    x = np.linspace(-1.0, 1.0, 41)
    assert {f.form for f in library(points(x**3 + 1.0, x=x))} <= {
        "constant", "linear", "linear through 0", "exponential", "exponential through 0",
    }  # fmt: skip


def test_constants_that_nothing_tells_apart():
    p = points(2.0 * CP)
    f = formula("a*b*cp + c*0 + d", a=1.0, b=2.0, d=0.0)
    assert len(independent(f, p)) == 2 and "d" in independent(f, p)


def test_adjusted_is_the_least_squares_line():
    y = np.sin(9.0 * CP)
    slope, intercept = np.polyfit(CP, y, 1)
    found = adjusted(formula("a*cp + b", a=1.0, b=1.0), points(y))
    assert found.constants == pytest.approx({"a": slope, "b": intercept}, rel=1e-7)
    gap = slope * CP + intercept - y
    assert points(y).error(found) == pytest.approx(np.sqrt(np.mean(gap**2)) / np.std(y), rel=1e-9)
    assert points(y).worst(found) == pytest.approx(np.abs(gap).max() / np.std(y), rel=1e-6)


def test_the_bend_of_a_front():
    complexity = np.array([1.0, 3.0, 5.0, 9.0, 20.0])
    assert knee(complexity, np.array([1.0, 0.5, 0.04, 0.03, 0.025]), 0.01) == 2
    assert knee(complexity, np.array([1.0, 0.5, 0.04, 0.03, 0.025]), 0.03) == 3
    assert knee(np.array([1.0]), np.array([1.0]), 0.01) == 0


def test_search_finds_what_the_library_has_not():
    pytest.importorskip("pyoperon", reason="symbolic regression needs pyoperon: pip install 'deepnlme[discovery]'")
    generator = np.random.default_rng(2)
    x = generator.uniform(0.5, 2.0, (200, 2))
    p = points(3.0 * x[:, 0] * x[:, 1] + 1.5, ("a", "b"), x)
    found = searched(p, 20_000, seed=1)
    best = min(found, key=lambda f: (p.error(f) > 1e-6, f.complexity))
    assert p.error(best) < 1e-6 and best.complexity == 7
    assert sorted(best.constants.values()) == pytest.approx([1.5, 3.0], rel=1e-6)
    again = searched(p, 20_000, seed=1)
    assert [f.text for f in again] == [f.text for f in found]
    assert [f.constants for f in again] == [f.constants for f in found]
    assert all(len(independent(f, p)) == len(f.constants) for f in found if p.error(f) > 1e-6)


@pytest.mark.parametrize(
    ("text", "constants", "wrong"),
    [
        ("c1/x", {"c1": 1.0}, True),  # a pole at 0, between points on both sides
        ("c1/(x + 3)", {"c1": 1.0}, False),
        ("c1/(x - 3)", {"c1": 1.0}, False),  # negative all over
        ("log(x + 2)", {}, False),
        ("log(x)", {}, True),
        ("(x + 2)**c1", {"c1": -0.5}, False),
        ("x**c1", {"c1": -0.5}, True),
        ("z**c1", {"c1": 0.5}, False),  # a root at zero has a value
        ("z**c1", {"c1": -0.5}, True),
        ("x**2", {}, False),
        ("1/(x**2 - c1)", {"c1": 0.05}, True),  # positive at every point, zero between two
    ],
)
def test_formulas_with_a_pole_between_the_points_are_refused(text, constants, wrong):
    x = np.array([[-1.0, 0.0], [-0.5, 1.0], [0.3, 0.9], [1.2, 0.0], [2.0, 1.0], [1.9, 0.0]])
    assert singular(formula(text, ("x", "z"), **constants), points(np.arange(6.0), ("x", "z"), x)) == wrong
