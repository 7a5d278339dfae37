"""Prediction and variability correction of observed and simulated values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deepnlme.diagnostics.replicated import Replicated
from deepnlme.errors import ModelError, invalid

TINY = 1e-6
"""Share of the largest PRED - bound of an endpoint below which a ratio to PRED - bound says nothing."""


@dataclass(frozen=True)
class Correction:
    """What is done to each observation and its simulated values: y -> shift + slope y.

    Attributes:
        shift: [N].
        slope: [N], positive.
        uncorrected: [N] observations that stay as they are, for their PRED is at the lower bound.
    """

    shift: np.ndarray
    slope: np.ndarray
    uncorrected: np.ndarray

    @classmethod
    def none(cls, n: int) -> Correction:
        """Nothing is done."""
        return cls(np.zeros(n), np.ones(n), np.zeros(n, dtype=bool))

    def of(self, values: np.ndarray) -> np.ndarray:
        """Corrected values, [..., N]; infinite ones stay infinite."""
        return self.shift + self.slope * values


def prediction_correction(
    pred: np.ndarray, cell: np.ndarray, bound: float = 0.0, additive: bool = False, who: np.ndarray | None = None
) -> Correction:
    """Bring the observations of a bin to the prediction that is typical of it.

    pcY = lb + (Y - lb) (PREDbin - lb) / (PRED - lb), and for data on the logarithmic scale
    pcY = Y + (PREDbin - PRED); PREDbin is the median of PRED in the bin and lb the lower bound of the data. Where
    PRED - lb is below 1e-6 of its largest value (before the first dose) the ratio says nothing: Y stays as it is.

    Args:
        pred: PRED (float [N]).
        cell: Bin of each observation (int [N]).
        bound: lb.
        additive: The data are logarithms.
        who: Identifiers for the messages ([N]).

    Raises:
        ModelError: PRED below the lower bound.

    Source: Bergstrand, Hooker, Wallin, Karlsson 2011, AAPS J 13:143.
    """
    typical = _medians(pred, cell)
    if additive:
        return Correction(typical - pred, np.ones(len(pred)), np.zeros(len(pred), dtype=bool))
    over = pred - bound
    least = TINY * np.abs(over).max(initial=0.0)
    low = np.flatnonzero(over < -least)
    if len(low):
        where = "" if who is None else f"subject {who[low[0]]}"
        fix = "Give the lower bound of the data (lower_bound=-100), or log=True for data that are logarithms"
        expected = f"Prediction correction needs PRED above the lower bound, {bound:g}"
        raise ModelError(invalid("PRED", f"{pred[low[0]]:.4g}", expected, where, fix))
    stays = (over <= least) | (typical - bound <= least)
    slope = np.where(stays, 1.0, (typical - bound) / np.where(stays, 1.0, over))
    return Correction(bound - bound * slope, slope, stays)


def variability_correction(first: Correction, pred: np.ndarray, cell: np.ndarray, simulated: np.ndarray) -> Correction:
    """Bring the spread of prediction-corrected values to the one that is typical of the bin, too.

    pvcY = PREDbin + (pcY - PREDbin) sd_bin / sd, sd the standard deviation of the prediction-corrected simulated values
    of the observation, sd_bin the median of them in the bin. Observations without spread, and those that the prediction
    correction has left alone, stay as they are.

    Args:
        first: The prediction correction.
        pred: PRED (float [N]).
        cell: Bin of each observation (int [N]).
        simulated: Simulated values (float [R, N]), not corrected.

    Source: Bergstrand, Hooker, Wallin, Karlsson 2011, AAPS J 13:143.
    """
    sd = first.slope * simulated.std(0, ddof=1)
    ratio = np.where(sd > 0, _medians(sd, cell) / np.where(sd > 0, sd, 1.0), 1.0)
    ratio = np.where((ratio > 0) & ~first.uncorrected, ratio, 1.0)
    centre = _medians(pred, cell)
    return replace(first, shift=centre + ratio * (first.shift - centre), slope=ratio * first.slope)


def correction_of(
    found: Replicated, cell: np.ndarray, prediction: bool, variability: bool, bound: float, log: bool
) -> Correction:
    """The correction that was asked for.

    Raises:
        ModelError: Variability correction without prediction correction, or as of `prediction_correction`.
    """
    if not prediction:
        if variability:
            expected = "It goes with prediction correction"
            raise ModelError(
                invalid("variability_corrected", True, expected, "", "Use prediction_corrected=True as well")
            )
        return Correction.none(len(found.y))
    if isinstance(bound, bool) or not isinstance(bound, int | float | np.number) or not np.isfinite(bound):
        raise ModelError(invalid("lower_bound", repr(bound), "It is a number"))
    pred = found.pred()
    first = prediction_correction(pred, cell, bound, log, found.ids)
    return variability_correction(first, pred, cell, found.simulated) if variability else first


def _medians(values: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Median of each observation's bin (float [N])."""
    out = np.empty(len(values))
    for c in np.unique(cell):
        out[cell == c] = np.median(values[cell == c])
    return out
