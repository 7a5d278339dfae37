"""Deliberately slow and simple references, which share no algebra with the package.

`simulate` walks through one subject's records in the order of the file, one event after another, and moves the state
between events by scipy's matrix exponential or by an ODE solver. Steady state is reached by giving many doses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

Parameters = dict[str, float]
Move = Callable[[np.ndarray, np.ndarray, float, float, Parameters], np.ndarray]
"""move(x, input rate, time, time to move, parameters) -> x."""


def move_linear(matrix: Callable[[Parameters], np.ndarray]) -> Move:
    """x' = K x + input, by the matrix exponential of [[K, input], [0, 0]]."""

    def move(x: np.ndarray, rate: np.ndarray, t: float, dt: float, p: Parameters) -> np.ndarray:
        n = len(x)
        block = np.zeros((n + 1, n + 1))
        block[:n, :n], block[:n, n] = matrix(p), rate
        return (expm(block * dt) @ np.r_[x, 1.0])[:n]

    return move


def move_ode(field: Callable[[float, np.ndarray, Parameters], np.ndarray], rtol: float = 1e-11) -> Move:
    """x' = field(t, x, p) + input, by DOP853."""

    def move(x: np.ndarray, rate: np.ndarray, t: float, dt: float, p: Parameters) -> np.ndarray:
        if dt == 0.0:
            return x
        found = solve_ivp(lambda s, y: field(s, y, p) + rate, (t, t + dt), x, "DOP853", rtol=rtol, atol=1e-13)
        return found.y[:, -1]

    return move


def compartment_matrix(k: float, exchange: tuple[tuple[float, float], ...] = (), ka: float | None = None) -> np.ndarray:
    """Rate matrix of a mammillary model; depot first where there is a ka."""
    n, first = 1 + len(exchange) + (ka is not None), int(ka is not None)
    m = np.zeros((n, n))
    m[first, first] -= k
    for i, (out, back) in enumerate(exchange):
        j = first + 1 + i
        m[first, first] -= out
        m[j, first] += out
        m[j, j] -= back
        m[first, j] += back
    if ka is not None:
        m[0, 0] -= ka
        m[1, 0] += ka
    return m


@dataclass
class Row:
    """One record: its data items, and the parameters at it and over the interval that ends at it."""

    time: float
    evid: int = 0
    amt: float = 0.0
    rate: float = 0.0
    ii: float = 0.0
    addl: int = 0
    ss: int = 0
    cmt: int = 0
    at: Parameters = field(default_factory=dict)
    over: Parameters = field(default_factory=dict)


@dataclass
class _Dose:
    arrival: float
    amount: float
    rate: float
    duration: float
    cmt: int


def _given(rows: list[Row], time: float) -> float:
    """The time of a dose; a record's time where only rounding is between them."""
    return next((row.time for row in rows if abs(row.time - time) < 1e-12 * max(1.0, abs(time))), time)


@dataclass
class Oracle:
    """A subject's system.

    Controls are read from the parameters: lag<c>, f<c>, r<c>, d<c> for compartment c. `always` names compartments
    whose bolus doses enter over d<c>.
    """

    move: Move
    n: int
    initial: Callable[[Parameters], Any] = lambda p: 0.0
    always: tuple[int, ...] = ()
    memory: float = 400.0
    """For how long before a steady-state dose the same doses are given."""

    def simulate(self, rows: list[Row]) -> np.ndarray:
        """State after every record, [N, n]."""
        state = self._start(rows[0].at)
        now, pending, running = rows[0].time, [], []
        out = []
        for i, row in enumerate(rows):
            if row.evid in (3, 4):
                state, now, pending, running = self._start(row.at), row.time, [], []
            else:
                state = self._advance(state, now, row.time, pending, running, row.over)
                now = row.time
            if row.evid in (1, 4):
                if row.ss:
                    reached, still = self._steady(row)
                    if row.ss == 1:
                        state, pending[:], running[:] = reached, [], []
                    else:
                        state = state + reached
                    running += still
                if not (row.ss and row.amt == 0):
                    for number in range(1 + row.addl):
                        given = _given(rows, row.time + number * row.ii)
                        pending.append(self._dose(row, given, self._in_effect(rows, i, number)))
                    main = pending[-1 - row.addl]
                    if main.arrival == row.time:
                        pending.remove(main)
                        state = self._give(main, state, running)
            out.append(state)
        return np.array(out)

    def _start(self, p: Parameters) -> np.ndarray:
        return np.zeros(self.n) + self.initial(p)

    @staticmethod
    def _in_effect(rows: list[Row], i: int, number: int) -> Parameters:
        """Parameters when a dose is given: at its record; for additional doses those over the interval they fall in."""
        if number == 0:
            return rows[i].at
        when = _given(rows, rows[i].time + number * rows[i].ii)
        last = rows[i].over
        for row in rows[i + 1 :]:
            if row.evid in (3, 4):
                break
            last = row.over
            if row.time >= when:
                break
        return last

    def _dose(self, row: Row, given: float, p: Parameters) -> _Dose:
        c = row.cmt
        amount = row.amt * p.get(f"f{c}", 1.0)
        arrival = given + row.at.get(f"lag{c}", 0.0)
        rate, duration = row.rate, 0.0
        if rate == -1:
            rate = p[f"r{c}"]
        if row.rate == -2 or (rate == 0 and c in self.always):
            duration = p[f"d{c}"]
            rate = amount / duration
        elif rate > 0:
            duration = amount / rate
        return _Dose(arrival, amount, rate, duration, c)

    def _give(self, dose: _Dose, state: np.ndarray, running: list[tuple[float, np.ndarray]]) -> np.ndarray:
        into = np.eye(self.n)[dose.cmt]
        if dose.duration > 0:
            running.append((dose.arrival + dose.duration, dose.rate * into))
            return state
        return state + dose.amount * into

    def _advance(
        self,
        state: np.ndarray,
        now: float,
        until: float,
        pending: list[_Dose],
        running: list[tuple[float, np.ndarray]],
        p: Parameters,
    ) -> np.ndarray:
        while True:
            stop = min([until, *(d.arrival for d in pending), *(end for end, _ in running)])
            rate = sum((r for _, r in running), np.zeros(self.n))
            if stop > now:
                state = self.move(state, rate, now, stop - now, p)
                now = stop
            running[:] = [pair for pair in running if pair[0] > now]
            for dose in [d for d in pending if d.arrival <= now]:
                pending.remove(dose)
                state = self._give(dose, state, running)
            if now >= until and not any(end <= now for end, _ in running):
                return state

    def _steady(self, row: Row) -> tuple[np.ndarray, list[tuple[float, np.ndarray]]]:
        """State at the record, and infusions still running there, after many doses of the same kind before."""
        running: list[tuple[float, np.ndarray]] = []
        if row.amt == 0:
            return self.move(np.zeros(self.n), row.rate * np.eye(self.n)[row.cmt], row.time, self.memory, row.at), []
        cycles = math.ceil(self.memory / row.ii)
        main = self._dose(row, row.time, row.at)
        pending = [
            _Dose(main.arrival - j * row.ii, main.amount, main.rate, main.duration, main.cmt)
            for j in range(cycles, 0, -1)
        ]
        state = self._start(row.at) if self.memory_of_initial else np.zeros(self.n)
        state = self._advance(state, pending[0].arrival, row.time, pending, running, row.at)
        return state, running

    memory_of_initial: bool = False
    """Whether the many doses begin at the initial state (nonlinear systems) or at zero."""
