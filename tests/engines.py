"""Runs every engine of the package on the same subjects and the same parameters, and the oracle beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

import deepnlme as dn
from deepnlme.axes import Names
from deepnlme.data.batch import Batch, Layout, pack
from deepnlme.dynamics import Dosing, ParallelInTime, TorchDiffEq, administer, scan, solve_ode, superposition
from oracles import Oracle, Row, compartment_matrix, move_linear

SOLVERS = {"ode": TorchDiffEq(rtol=1e-8, atol=1e-10), "parallel": ParallelInTime(rtol=1e-8, atol=1e-10)}


@dataclass(frozen=True)
class System:
    """One model in the forms that the engines need.

    `parameters(cov)` gives named parameters, scalars or arrays like the covariates; lag0, f0, r0, d0, ... are the
    controls of compartment 0, x0, ... its initial amount.
    """

    closed: Any
    parameters: Callable[[Mapping[str, Any]], dict[str, Any]]
    matrix: Callable[[dict[str, float]], np.ndarray]
    always: bool = False
    compartments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compartments", self.closed.compartments)

    @property
    def n(self) -> int:
        return len(self.compartments)

    def linear(self) -> dn.LinearSystem:
        names = self.compartments

        def rates(p):
            k = _torch_matrix(self.matrix, p, self.n)
            out = {}
            for i in range(self.n):
                lost = -k[i][i]
                for j in range(self.n):
                    if i != j:
                        out[names[i], names[j]] = k[j][i]
                        lost = lost - k[j][i]
                out[names[i], "out"] = lost
            return out

        return dn.LinearSystem(*names, rates=rates)

    def field(self, theta, p, t, x):
        k = _torch_matrix(self.matrix, p, self.n)
        return {
            a: sum(k[i][j] * x[b] for j, b in enumerate(self.compartments)) for i, a in enumerate(self.compartments)
        }

    def oracle(self, **options) -> Oracle:
        return Oracle(
            move_linear(self.matrix),
            self.n,
            initial=lambda p: np.array([p.get(f"x{c}", 0.0) for c in range(self.n)]),
            always=(self.compartments.index("central"),) if self.always else (),
            **options,
        )


def _torch_matrix(matrix, p, n):
    """Entries of the rate matrix as tensors, by the linearity of `compartment_matrix` in its arguments."""
    return matrix(p, torch=True)


def mammillary(closed, oral, peripherals):
    """The rate matrix of a closed form in clearances, for numbers (a matrix) or tensors (nested lists)."""

    def matrix(p, torch: bool = False):
        names = {0: ("v", ()), 1: ("v1", (("q", "v2"),)), 2: ("v1", (("q2", "v2"), ("q3", "v3")))}[peripherals]
        v, outer = p[names[0]], names[1]
        k = p["cl"] / v
        exchange = tuple((p[q] / v, p[q] / p[w]) for q, w in outer)
        ka = p["ka"] if oral else None
        if not torch:
            return compartment_matrix(k, exchange, ka)
        n, c = 1 + len(exchange) + int(oral), int(oral)
        m = [[0.0 * k for _ in range(n)] for _ in range(n)]
        m[c][c] = -k
        for i, (out, back) in enumerate(exchange):
            j = c + 1 + i
            m[c][c] = m[c][c] - out
            m[j][c], m[c][j], m[j][j] = out, back, -back
        if oral:
            m[0][0], m[1][0] = -ka, ka
        return m

    return matrix


def system(compartments: int, oral: bool = False, parameters=None, absorption=None) -> System:
    """A one-, two- or three-compartment system."""
    cls = (dn.OneCompartment, dn.TwoCompartment, dn.ThreeCompartment)[compartments - 1]
    absorption = "first-order" if oral else absorption
    closed = cls(absorption=absorption)
    values = (
        dict(cl=2.7, v=31.0),
        dict(cl=2.7, v1=6.0, q=4.0, v2=12.0),
        dict(cl=2.7, v1=6.0, q2=4.0, v2=12.0, q3=0.9, v3=18.0),
    )[compartments - 1]
    if oral:
        values["ka"] = 1.3
    given = parameters or {}

    def of(cov):
        extra = given(cov) if callable(given) else given
        return {**values, **extra}

    return System(closed, of, mammillary(closed, oral, compartments - 1), always=absorption == "zero-order")


def packed(population, compartments, slots="records", occasions=False, always=False) -> Batch:
    covariates = tuple(population.records.covariates)
    return pack(population, Layout(compartments, 0, ("dv",), covariates, occasions, any_infusion=always), slots)


def values_of(sys: System, batch: Batch, leaves=None) -> tuple[Names, Names, dict, dict, dict]:
    """Parameters at the records, over the intervals, controls at both, and initial values, as [1, R, 1 or T]."""
    shown = []
    for which in (0, 1):
        cov = {n: pair[which].unsqueeze(0) for n, pair in batch.covariates.items()}
        p = dict(sys.parameters(cov))
        if leaves:
            p.update(leaves)
        p = {
            k: v if isinstance(v, torch.Tensor) else torch.full((1, batch.rows, 1), float(v), dtype=torch.float64)
            for k, v in p.items()
        }
        shown.append(Names("p", p))
    at, over = shown
    return at, over, controls_of(sys, at), controls_of(sys, over), initial_of(sys, at)


def controls_of(sys: System, p) -> dict[int, Dosing]:
    out = {}
    for c in range(sys.n):
        lasting = "duration" if sys.always and sys.compartments[c] == "central" else f"d{c}"
        names = (f"lag{c}", f"f{c}", f"r{c}", lasting)
        parts = dict(zip(("lag", "bioavailability", "rate", "duration"), names))
        parts = {k: p[name] for k, name in parts.items() if name in p}
        if parts:
            out[c] = Dosing(**parts)
    return out


def initial_of(sys: System, p) -> dict[int, torch.Tensor]:
    return {c: p[f"x{c}"] for c in range(sys.n) if f"x{c}" in p}


ENGINES = ("superposition", "scan", "expm-superposition", "expm-scan", "ode", "parallel")


def run(engine: str, sys: System, batch: Batch, leaves=None, solvers=SOLVERS) -> torch.Tensor:
    """States [R, N, n] (K = 1) at every slot by one engine."""
    at, over, controls, interval, initial = values_of(sys, batch, leaves)
    varying = any(v.shape[2] > 1 for v in at.values())
    doses = administer(controls, batch, sys.compartments, sys.always, interval if varying else None)
    if engine in solvers:
        theta = Names("theta", {})
        states = solve_ode(sys.field, solvers[engine], theta, over, at, batch, doses, initial, sys.compartments)
    else:
        dynamics = sys.linear() if engine.startswith("expm") else sys.closed
        if engine.endswith("scan"):
            states = scan(dynamics, over, at, batch, doses, initial)
        else:
            assert not varying
            states = superposition(dynamics, at, batch, doses, initial)
    shape = torch.broadcast_shapes(*(s.shape for s in states), (1, batch.rows, batch.slot_record.shape[1]))
    return torch.stack([s.expand(shape) for s in states], -1)[0]


def rows_of(sys: System, population, subject: int, batch: Batch) -> list[Row]:
    """A subject's records as the oracle wants them."""
    r, starts = population.records, population.starts
    at, over, *_ = values_of(sys, batch)

    def pick(p, i):
        out = {k: float(v[0, subject if v.shape[1] > 1 else 0, min(i, v.shape[2] - 1)]) for k, v in p.items()}
        if "duration" in out:
            out[f"d{sys.compartments.index('central')}"] = out["duration"]
        return out

    rows = []
    for i, k in enumerate(range(starts[subject], starts[subject + 1])):
        text = str(r.cmt[k])
        cmt = 0 if text in ("", "0") else (int(text) - 1 if text.isdigit() else sys.compartments.index(text))
        rows.append(
            Row(
                r.time[k],
                int(r.evid[k]),
                r.amt[k],
                r.rate[k],
                r.ii[k],
                int(r.addl[k]),
                int(r.ss[k]),
                cmt,
                pick(at, i),
                pick(over, i),
            )
        )
    return rows


def expected(sys: System, population, batch: Batch, **options) -> list[np.ndarray]:
    """The oracle's states at every record, per subject [N_i, n]."""
    oracle = sys.oracle(**options)
    return [oracle.simulate(rows_of(sys, population, s, batch)) for s in range(len(population))]


def compare(sys: System, population, engines=ENGINES, rtol=1e-9, options=None) -> None:
    """Every engine against the oracle at every record of every subject."""
    batch = packed(population, sys.compartments, always=sys.always)
    truth = expected(sys, population, batch, **(options or {}))
    at, *_ = values_of(sys, batch)
    varying = any(v.shape[2] > 1 for v in at.values())
    for engine in engines:
        if varying and engine.endswith("superposition"):
            continue
        with torch.no_grad():
            found = run(engine, sys, batch).numpy()
        tolerance = 10 * SOLVERS[engine].tolerance if engine in SOLVERS else rtol
        for s, wanted in enumerate(truth):
            scale = max(np.abs(wanted).max(), 1e-6)
            got = found[s, : len(wanted)]
            np.testing.assert_allclose(
                got, wanted, rtol=tolerance, atol=tolerance * scale, err_msg=f"{engine}, subject {population.ids[s]}"
            )


def observation(*times: float) -> list[dict[str, Any]]:
    return [{"TIME": t} for t in times]


def dose(time: float, AMT: float = 100.0, EVID: int = 1, **items: Any) -> dict[str, Any]:
    return {"TIME": time, "EVID": EVID, "AMT": AMT, **items}


def population_of(subjects: Mapping[Any, list[dict[str, Any]]], covariate: bool = False, interpolation: str = "nocb"):
    """A population from rows by subject; with a covariate `w` that differs at every record."""
    frames = []
    for name, rows in subjects.items():
        frame = pd.DataFrame(rows)
        frame.insert(0, "ID", name)
        if covariate:
            frame["w"] = 1.0 + 0.1 * (np.arange(len(frame)) % 5) + 0.3 * (np.arange(len(frame)) % 2)
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    for name in ("EVID", "AMT", "RATE", "II", "ADDL", "SS"):
        table[name] = table[name].fillna(0) if name in table else 0
    if "CMT" in table:
        table["CMT"] = table["CMT"].fillna(0)
    table["DV"], table["MDV"] = 1.0, (table["EVID"] != 0).astype(int)
    for name in ("EVID", "ADDL", "SS"):
        table[name] = table[name].astype(int)
    return dn.read_nonmem(table, covariates=["w"] if covariate else [], interpolation=interpolation)


CASES: dict[str, list[dict[str, Any]]] = {
    "bolus": [dose(0), *observation(0, 1, 2, 5)],
    "observation first": [*observation(0), dose(0), *observation(0, 2)],
    "observed before any dose": [*observation(0, 1), dose(1), *observation(1, 2)],
    "no dose": observation(0, 3, 4),
    "infusion": [dose(0, RATE=50), *observation(0, 1, 2, 3, 8)],
    "infusion over a dose": [dose(0, RATE=20), *observation(1), dose(2), dose(3, RATE=30), *observation(3, 4, 7)],
    "several at once": [dose(0), dose(0, AMT=50, RATE=10), dose(0, CMT=2, AMT=7), *observation(0, 1, 6, 9)],
    "into the second": [dose(0, CMT=2), *observation(1), dose(2, CMT=2, RATE=30), *observation(3, 8)],
    "additional": [dose(0, II=12, ADDL=3), *observation(1, 12, 12, 20, 24, 36, 40)],
    "additional at decimal times": [dose(0.1, II=0.1, ADDL=9), *observation(0.3, 0.4, 0.7, 0.8, 1.0, 1.1, 2)],
    "additional infusions that overlap": [dose(0, II=4, ADDL=3, RATE=10), *observation(1, 5, 9, 13, 21, 30)],
    "steady state": [dose(0, II=12, SS=1), *observation(0, 1, 6, 12)],
    "steady state not at first": [*observation(0), dose(1), *observation(2), dose(3, II=6, SS=1), *observation(3, 4)],
    "steady state and additional": [dose(0, II=12, SS=1, ADDL=2), *observation(0, 1, 6, 12, 24, 30)],
    "steady infusion": [dose(0, II=12, SS=1, RATE=20), *observation(0, 1, 5, 6, 12)],
    "steady infusion longer than II": [dose(0, II=12, SS=1, RATE=4, ADDL=1), *observation(0, 1, 2, 12, 13, 25, 40)],
    "steady infusion of two II": [dose(0, II=12, SS=1, RATE=100 / 24), *observation(0, 1, 12, 13, 24, 25)],
    "constant infusion": [dose(0, AMT=0, RATE=10, SS=1), *observation(0, 1, 5)],
    "constant infusion then dose": [
        *observation(0),
        dose(2, AMT=0, RATE=10, SS=1),
        dose(2, RATE=10),
        *observation(2, 9),
    ],
    "added steady state": [dose(0), *observation(1), dose(2, II=8, SS=2), *observation(2, 3, 9)],
    "added steady infusion": [
        dose(0, RATE=20),
        *observation(1),
        dose(2, II=8, SS=2, RATE=10),
        *observation(2, 9, 13, 20),
    ],
    "two steady states": [dose(0, II=24, SS=1), dose(8, II=24, SS=2, AMT=30, ADDL=1), *observation(8, 10, 24, 40)],
    "steady state cancels": [
        dose(0, RATE=10, ADDL=3, II=12),
        *observation(1),
        dose(2, II=8, SS=1),
        *observation(2, 13, 30),
    ],
    "reset": [
        dose(0, RATE=10, ADDL=2, II=6),
        *observation(1),
        dose(3, 0, 3),
        *observation(3, 4, 12),
        dose(13),
        *observation(14),
    ],
    "reset and dose": [dose(0, RATE=10, ADDL=2, II=6), *observation(3), dose(3, 70, 4), *observation(3, 4, 12)],
    "clock restarts": [dose(0, II=5, ADDL=9), *observation(1, 10.1), dose(0.3, 60, 4), *observation(0.3, 1, 7.7)],
    "clock restarts twice": [
        dose(0.7),
        *observation(9.1),
        dose(0.2, 0, 3),
        *observation(0.2),
        dose(3.3, RATE=40),
        *observation(10.4),
        dose(0.1, 50, 4, II=0.1, ADDL=8),
        *observation(0.1, 0.4, 0.9, 3),
    ],
    "reset and steady state": [dose(0), *observation(1), dose(3, 100, 4, SS=1, II=12), *observation(3, 15)],
    "reset and added steady state": [
        dose(0),
        *observation(1),
        dose(3, 100, 4, SS=2, II=12, RATE=30),
        *observation(3, 15),
    ],
    "modelled rate": [dose(0, RATE=-1), *observation(1, 2, 9)],
    "modelled duration": [dose(0, RATE=-2, ADDL=1, II=9), *observation(1, 2, 9, 14)],
    "modelled at steady state": [
        dose(0, RATE=-2, SS=1, II=4, ADDL=1),
        *observation(0, 1, 4),
        dose(9, RATE=-1, SS=2, II=6),
        *observation(10),
    ],
    "other records": [dose(0), dose(0, 0, 2), *observation(1), dose(3, 0, 2), *observation(3)],
    "tiny interval": [
        dose(0),
        *observation(1),
        *observation(1 + 1e-15, 1 + 4e-15),
        dose(2),
        *observation(2 + 1e-15, 3),
    ],
}

LINEAR = ENGINES[:4]
