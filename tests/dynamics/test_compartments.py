"""Closed forms against the matrix exponential, also where their textbook formulas are 0/0."""

import mpmath
import numpy as np
import pytest
import torch

from deepnlme.axes import Names
from deepnlme.dynamics import OneCompartment, ThreeCompartment, TwoCompartment
from deepnlme.errors import ModelError
from engines import CASES, LINEAR, compare, dose, observation, packed, population_of, run, system

TIMES = (1e-15, 1e-6, 0.1, 1.0, 7.0, 24.0, 120.0)
IV = {1: dict(k=0.3), 2: dict(k=0.3, k12=0.7, k21=0.4), 3: dict(k=0.3, k12=0.7, k21=0.4, k13=0.2, k31=0.05)}
CLS = {1: OneCompartment, 2: TwoCompartment, 3: ThreeCompartment}
DEGENERATE = [
    *({**IV[1], "ka": 0.3 * (1 + gap)} for gap in (0.0, 1e-12, -1e-12, 1e-6, 0.3)),
    {**IV[2], "ka": 0.4},
    {**IV[2], "k12": 1e-9, "k21": 1e-9},
    {**IV[2], "k12": 1e-9, "ka": 0.3},
    {**IV[2], "k": 1e-9, "ka": 1.0},
    {**IV[3], "k31": 0.4},
    {**IV[3], "k31": 0.4 * (1 + 1e-12), "ka": 0.4},
    {**IV[3], "k31": 0.4 * (1 + 1e-6), "ka": 2.0},
    {**IV[3], "k13": 1e-9, "k31": 1e-9},
    {**IV[3], "k13": 1e-9, "ka": 1.0},
    {**IV[3], "k12": 1e-9, "k13": 1e-9},
    {**IV[3], "k": 1e-9, "ka": 1.0},
    {**IV[3], "k12": 30.0, "k21": 8.0, "k31": 1e-4, "ka": 3.0},
]


def model_of(p):
    n = 1 + ("k12" in p) + ("k13" in p)
    return CLS[n](absorption="first-order" if "ka" in p else None, parameters="rates")


def exact(p, t):
    """exp(K t) and its integral in 60 digits."""
    with mpmath.workdps(60):
        q = {k: mpmath.mpf(v) for k, v in p.items()}
        outer = [(q[f"k1{i}"], q[f"k{i}1"]) for i in (2, 3) if f"k1{i}" in q]
        c = int("ka" in q)
        n = 1 + len(outer) + c
        m = mpmath.zeros(2 * n)
        m[c, c] = -q["k"] - sum((a for a, _ in outer), mpmath.mpf(0))
        for i, (out, back) in enumerate(outer):
            m[c + 1 + i, c], m[c, c + 1 + i], m[c + 1 + i, c + 1 + i] = out, back, -back
        if c:
            m[0, 0], m[1, 0] = -q["ka"], q["ka"]
        for i in range(n):
            m[i, n + i] = mpmath.mpf(1)
        found = mpmath.expm(m * mpmath.mpf(t), method="taylor")
        whole = np.array(found.tolist(), dtype=float)
        return whole[:n, :n], whole[:n, n:]


def names_of(p):
    return Names("p", {k: torch.full((1, 1, 1), v, dtype=torch.float64) for k, v in p.items()})


@pytest.mark.parametrize("p", [*IV.values(), *({**v, "ka": 1.1} for v in IV.values()), *DEGENERATE], ids=str)
def test_transfer_and_infusion_equal_the_matrix_exponential(p):
    model = model_of(p)
    n = len(model.compartments)
    for t in TIMES:
        transfer, forced = exact(p, t)
        tau = torch.full((1, 1, 1), t, dtype=torch.float64)
        every = tuple(range(n))
        for entries, wanted in (
            (model.transfer(names_of(p), tau, every), transfer),
            (model.forced(names_of(p), tau, every), forced),
        ):
            found = np.array([[float(entries.get((i, j), 0.0)) for j in range(n)] for i in range(n)])
            # differences of exponentials are exact to rounding of the dose, not of the difference
            np.testing.assert_allclose(found, wanted, rtol=2e-9, atol=1e-14 * max(t, 1.0), err_msg=f"t = {t}")


def test_a_small_exchange_is_exact_long_after_the_fast_phase():
    # what comes back from the periphery is all that is left: 1 - (1 - 1e-9) must not be formed
    p = dict(k=0.3, k12=1e-9, k21=0.01)
    tau = torch.full((1, 1, 1), 200.0, dtype=torch.float64)
    entry = float(model_of(p).transfer(names_of(p), tau, (0,))[0, 0])
    np.testing.assert_allclose(entry, exact(p, 200.0)[0][0, 0], rtol=1e-9)


@pytest.mark.parametrize("oral", [False, True])
def test_three_compartments(oral):
    cases = {
        k: CASES[k]
        for k in ("bolus", "infusion", "steady state", "steady infusion longer than II", "reset", "two steady states")
    }
    sys = system(3, oral, {"lag0": 0.4, "x0": 2.0})
    compare(sys, population_of(cases), LINEAR, options={"memory": 900.0})
    compare(sys, population_of({k: cases[k] for k in ("bolus", "infusion")}), ("ode",))


def test_zero_order_absorption():
    doses = [
        dose(0, ADDL=1, II=9),
        *observation(1, 2.3, 4, 11),
        dose(12, SS=2, II=2),
        *observation(13, 20),
        dose(21, RATE=50),
        *observation(22, 24),
    ]
    sys = system(1, absorption="zero-order", parameters={"duration": 2.3, "lag0": 0.3, "f0": 0.9})
    compare(sys, population_of({1: doses, 2: CASES["additional"]}), options={"memory": 400.0})


def test_by_hand():
    """A bolus and an infusion, one compartment; an oral dose at steady state."""
    k, ka = 2.7 / 31.0, 1.3
    iv, oral = system(1), system(1, True)

    rows = {1: [dose(0), *observation(2.0)], 2: [dose(0, RATE=50), *observation(1.0, 5.0)]}
    found = run("superposition", iv, packed(population_of(rows), iv.compartments))[..., 0]
    np.testing.assert_allclose(found[0, 1], 100 * np.exp(-2 * k))
    np.testing.assert_allclose(found[1, 1], 50 / k * (1 - np.exp(-k)))
    np.testing.assert_allclose(found[1, 2], 50 / k * (1 - np.exp(-2 * k)) * np.exp(-3 * k))
    rows = {1: [dose(0, SS=1, II=12), *observation(4.0)]}
    found = run("superposition", oral, packed(population_of(rows), oral.compartments))[0, 1, 1]
    repeated = np.exp(-k * 4) / (1 - np.exp(-k * 12)) - np.exp(-ka * 4) / (1 - np.exp(-ka * 12))
    np.testing.assert_allclose(found, 100 * ka / (ka - k) * repeated)


def test_unknown_settings():
    with pytest.raises(ModelError, match="absorption"):
        OneCompartment(absorption="second-order")
    with pytest.raises(ModelError, match="parameters"):
        TwoCompartment(parameters="micro")
