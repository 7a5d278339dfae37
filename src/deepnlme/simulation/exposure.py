"""Exposure of every simulated subject: area, extremes and time above a threshold, over an interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError, invalid
from deepnlme.simulation.result import Simulation

METHODS = ("linear", "linear-up log-down")
NUMBERS = 1_000_000
"""Values in one chunk of curves (bounds memory)."""


def exposure(
    sim: Simulation,
    endpoint: str | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    threshold: float | None = None,
    of: str = "ipred",
    method: str = "linear",
) -> pd.DataFrame:
    """What each simulated subject was exposed to between `start` and `end`.

    Between two simulated times a curve is taken to be straight, or with ``"linear-up log-down"`` exponential where it
    falls and is positive: for areas, values at the ends of the interval and crossings of the threshold alike. How fine
    the simulated times are is therefore how accurate AUC, CMAX and TMAX are.

    A simulated time that has a dose too is *after* the dose. Let an interval that ends with a bolus end just before it
    (a simulated time of 167.999 and ``end=167.999`` for a bolus at 168), or CTROUGH is the peak.

    In an adaptive trial the individual curve of a subject that has left goes on, without further doses.

    Args:
        sim: A simulation; subjects may have different times.
        endpoint: The endpoint, the first by default.
        start: Beginning of the interval [time]; by default each subject's first simulated time.
        end: End of the interval [time]; by default each subject's last simulated time.
        threshold: Also give the time above this value [unit of the endpoint].
        of: "ipred" for the individual curve, "dv" for the simulated observations with their residual error.
        method: "linear" or "linear-up log-down".

    Returns:
        One row for each replicate and subject, R S in all: REP, ID, the covariates at the subject's first record, AUC
        [unit time], CMAX [unit], TMAX [time], CMIN [unit], CAVG = AUC / (end - start) [unit], CTROUGH, the value at
        the end [unit], and with a threshold T_ABOVE [time] and T_ABOVE_PCT [% of the interval]. NaN where the curve is.

    Raises:
        ModelError: No such endpoint or values, fewer than two times, or an interval that the times do not cover.
    """
    if not isinstance(sim, Simulation):
        raise ModelError(invalid("sim", type(sim).__name__, "It is what dn.simulate returns"))
    _check(of, method, threshold)
    source = sim.ipred if of == "ipred" else sim.dv
    if source is None:
        fix = 'Simulate with residual=True, or use of="ipred"'
        raise ModelError(invalid("of", "'dv'", "The simulation has no residual error", fix=fix))
    index = _padded(sim, endpoint)
    times = sim.time[index]
    low, high = _interval(sim, times, start, end)
    measures = ["AUC", "CMAX", "TMAX", "CMIN", "CAVG", "CTROUGH"]
    measures += [] if threshold is None else ["T_ABOVE", "T_ABOVE_PCT"]
    found = {name: np.empty((sim.replicates, len(index))) for name in measures}
    for replicates, subjects in _chunks(sim.replicates, *index.shape):
        curves = source[replicates, index[subjects].ravel()].reshape(-1, *index[subjects].shape)
        pieces = _Pieces.of(times[subjects], low[subjects], high[subjects], curves, method != "linear")
        for name, values in _measures(pieces, high[subjects] - low[subjects], threshold).items():
            found[name][replicates, subjects] = values
    return _frame(sim, found)


@dataclass(frozen=True)
class _Pieces:
    """The pieces of curves between two times each, cut at the ends of the interval.

    Attributes:
        begin, length: Time at which a piece begins, and how long it is; 0 outside the interval ([s, T-1]).
        left, right: Values at its ends ([r, s, T-1]).
        falling: Whether it is exponential instead of straight ([r, s, T-1]), or None if no piece is.
    """

    begin: np.ndarray
    length: np.ndarray
    left: np.ndarray
    right: np.ndarray
    falling: np.ndarray | None

    @classmethod
    def of(cls, times: np.ndarray, low: np.ndarray, high: np.ndarray, curves: np.ndarray, log_down: bool) -> _Pieces:
        """The pieces of curves [r, s, T] at times [s, T] between low and high [s]."""
        begin = np.clip(times[:, :-1], low[:, None], high[:, None])
        until = np.clip(times[:, 1:], low[:, None], high[:, None])
        whole = np.diff(times, axis=1)
        safe = np.where(whole > 0, whole, 1.0)
        first, last = (begin - times[:, :-1]) / safe, (until - times[:, :-1]) / safe
        v0, v1 = curves[..., :-1], curves[..., 1:]
        falling = (v1 < v0) & (v1 > 0) if log_down else None
        if not first.any() and np.all(last[whole > 0] == 1.0):
            return cls(begin, until - begin, v0, v1, falling)
        left, right = ((1.0 - w) * v0 + w * v1 for w in (first, last))
        if falling is not None:
            ratio = np.divide(v1, v0, out=np.ones_like(v0), where=falling)
            left = np.where(falling, v0 * ratio**first, left)
            right = np.where(falling, v0 * ratio**last, right)
        return cls(begin, until - begin, left, right, falling)

    def logarithm(self, over: np.ndarray, under: np.ndarray | float) -> np.ndarray:
        """log(over / under) where a piece is exponential, 1 elsewhere."""
        assert self.falling is not None
        good = self.falling & (np.asarray(under) > 0)
        return np.log(np.divide(over, under, out=np.full_like(over, np.e), where=good))


def _measures(pieces: _Pieces, span: np.ndarray, threshold: float | None) -> dict[str, np.ndarray]:
    """The measures of curves, [r, s] each."""
    inside = pieces.length > 0
    top = np.where(inside, np.maximum(pieces.left, pieces.right), -np.inf)
    bottom = np.where(inside, np.minimum(pieces.left, pieces.right), np.inf)
    area = np.where(inside, _means(pieces) * pieces.length, 0.0).sum(-1)
    cmax, cmin = top.max(-1), bottom.min(-1)
    peak = top.argmax(-1)[..., None]
    at_end = np.take_along_axis(pieces.right > pieces.left, peak, -1)[..., 0]
    begin, length = (
        np.take_along_axis(np.broadcast_to(x, top.shape), peak, -1)[..., 0] for x in (pieces.begin, pieces.length)
    )
    final = pieces.length.shape[-1] - 1 - np.argmax(inside[:, ::-1], axis=-1)
    trough = np.take_along_axis(pieces.right, np.broadcast_to(final[:, None], (*cmax.shape, 1)), -1)[..., 0]
    out = {
        "AUC": area,
        "CMAX": cmax,
        "TMAX": np.where(np.isnan(cmax), np.nan, begin + np.where(at_end, length, 0.0)),
        "CMIN": cmin,
        "CAVG": area / span,
        "CTROUGH": trough,
    }
    if threshold is not None:
        above = np.where(inside, _shares(pieces, threshold) * pieces.length, 0.0).sum(-1)
        out |= {"T_ABOVE": above, "T_ABOVE_PCT": 100.0 * above / span}
    return out


def _means(pieces: _Pieces) -> np.ndarray:
    """Mean value over each piece."""
    straight = 0.5 * (pieces.left + pieces.right)
    if pieces.falling is None:
        return straight
    log = pieces.logarithm(pieces.left, pieces.right)
    curved = pieces.falling & (log > 1e-6)  # below, both formulas agree to rounding
    return np.where(curved, np.divide(pieces.left - pieces.right, log, out=np.zeros_like(log), where=curved), straight)


def _shares(pieces: _Pieces, threshold: float) -> np.ndarray:
    """Share of each piece that is at or above the threshold."""
    top, bottom = np.maximum(pieces.left, pieces.right), np.minimum(pieces.left, pieces.right)
    flat = top == bottom
    drop = np.where(flat, 1.0, top - bottom)
    share = np.where(flat, np.where(top >= threshold, 1.0, 0.0), (top - threshold) / drop)
    if pieces.falling is not None and threshold > 0:
        good = pieces.falling & ~flat
        log = np.where(good, pieces.logarithm(top, bottom), 1.0)
        share = np.where(good, pieces.logarithm(top, threshold) / log, share)
    return np.where(np.isnan(top), np.nan, np.clip(share, 0.0, 1.0))


def _check(of: str, method: str, threshold: float | None) -> None:
    if of not in ("ipred", "dv"):
        raise ModelError(invalid("of", repr(of), 'It is "ipred" or "dv"'))
    if method not in METHODS:
        raise ModelError(invalid("method", repr(method), f"It is one of {', '.join(map(repr, METHODS))}"))
    number = isinstance(threshold, int | float | np.integer | np.floating) and not isinstance(threshold, bool)
    if threshold is not None and not (number and np.isfinite(threshold)):
        raise ModelError(invalid("threshold", repr(threshold), "It is one finite number, or None"))


def _padded(sim: Simulation, endpoint: str | None) -> np.ndarray:
    """Rows of each subject, the last one repeated where others have more ([S, T])."""
    rows = sim.rows(endpoint)
    counts = np.bincount(sim.subject[rows], minlength=len(sim.population))
    few = np.flatnonzero(counts < 2)
    if len(few):
        where = f"subject {sim.population.ids[few[0]]}"
        fix = "Simulate on a grid: times=np.linspace(0, 24, 97)"
        raise ModelError(invalid("sim", f"{counts[few[0]]} time(s)", "An exposure needs two or more", where, fix))
    starts = np.cumsum(counts) - counts
    index = rows[starts[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)]
    back = np.flatnonzero((np.diff(sim.time[index], axis=1) < 0).any(axis=1))
    if len(back):
        where = f"subject {sim.population.ids[back[0]]}"
        expected = "An exposure needs one clock, and its times go back (a reset that starts time again)"
        raise ModelError(invalid("sim", "times that decrease", expected, where))
    return index


def _interval(sim: Simulation, times: np.ndarray, start: Any, end: Any) -> tuple[np.ndarray, np.ndarray]:
    """The interval of each subject ([S] each)."""
    bounds = []
    for name, given, own in (("start", start, times[:, 0]), ("end", end, times[:, -1])):
        number = isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool)
        if given is not None and not (number and np.isfinite(given)):
            raise ModelError(invalid(name, repr(given), "It is a time, or None"))
        bounds.append(own if given is None else np.full(len(times), float(given)))
    low, high = bounds
    slack = 1e-9 * np.maximum(np.abs(times[:, 0]), np.abs(times[:, -1]))
    for name, value, out in (("start", low, low < times[:, 0] - slack), ("end", high, high > times[:, -1] + slack)):
        bad = np.flatnonzero(out)
        if len(bad):
            i = bad[0]
            where = f"subject {sim.population.ids[i]}"
            expected = f"Its simulated times are {times[i, 0]:g} to {times[i, -1]:g}"
            fix = "Simulate a grid that covers the interval"
            raise ModelError(invalid(name, f"{value[i]:g}", expected, where, fix))
    low, high = np.maximum(low, times[:, 0]), np.minimum(high, times[:, -1])
    empty = np.flatnonzero(low >= high)
    if len(empty):
        where = f"subject {sim.population.ids[empty[0]]}"
        got = f"start {low[empty[0]]:g} and end {high[empty[0]]:g}"
        raise ModelError(invalid("end", got, "The interval ends after it starts", where))
    return low, high


def _chunks(replicates: int, subjects: int, times: int) -> Iterator[tuple[slice, slice]]:
    """Slices of replicates and of subjects, `NUMBERS` values or fewer in each where possible."""
    across = max(1, min(subjects, NUMBERS // times))
    down = max(1, NUMBERS // (times * across))
    for r in range(0, replicates, down):
        for s in range(0, subjects, across):
            yield slice(r, r + down), slice(s, s + across)


def _frame(sim: Simulation, found: dict[str, np.ndarray]) -> pd.DataFrame:
    r, s = sim.replicates, len(sim.population)
    ids = np.array(sim.population.ids, dtype=object if isinstance(sim.population.ids[0], str) else None)
    columns: dict[str, Any] = {"REP": np.repeat(np.arange(r) + 1, s), "ID": np.tile(ids, r)}
    for name, values in sim.baseline().items():
        if name in found or name in columns:
            fix = "Give the covariate another name"
            raise ModelError(invalid("covariates", repr(name), "This is the name of an exposure", fix=fix))
        columns[name] = np.tile(values, r)
    return pd.DataFrame(columns | {name: values.ravel() for name, values in found.items()})
