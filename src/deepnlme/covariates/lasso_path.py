"""The path of a group lasso on a quadratic function, such as a likelihood is near a point.

Source: Wang, Leng 2007, J Am Stat Assoc 102:1039 (least squares approximation); Zou 2006, J Am Stat Assoc 101:1418
(adaptive weights); Yuan, Lin 2006, J R Stat Soc B 68:49 (groups); Tibshirani et al. 2012, J R Stat Soc B 74:245
(screening).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

TOLERANCE = 1e-12
"""Change of a coefficient, relative to the largest one, at which the descent ends."""
LENGTH = 60
"""Most steps for the length of a group."""
SWEEPS, POLISH = 10_000, 6
"""Most sweeps over the groups at one penalty, and after how many a step of Newton's method is tried."""
ROUNDING = 1e-12
"""Excess of a slope over a threshold, relative to it, that is taken for rounding: the group is zero."""
NEARLY = 1e-6
"""Penalty, relative to the largest, below which there is none."""
ROOT, EXACT = 100, 1e-10
"""Most penalties tried for a size, and how near to it they come."""


def path(
    best: np.ndarray, curvature: np.ndarray, groups: Sequence[np.ndarray], weights: np.ndarray, penalties: np.ndarray
) -> np.ndarray:
    """Minimisers of (b - best)' H (b - best) + lambda sum_g w_g |b_g| for decreasing lambda, [L, q].

    Every lambda starts from the minimiser at the one before.

    Args:
        best: [q] unpenalised estimates.
        curvature: H [q, q], positive definite.
        groups: Positions of the coefficients of every group.
        weights: [G] of the groups.
        penalties: [L] lambda, decreasing.
    """
    right = curvature @ best
    b, out = np.zeros(len(best)), np.zeros((len(penalties), len(best)))
    for i, penalty in enumerate(penalties):
        b = out[i] = minimiser(right, curvature, groups, penalty * weights, b)
    return out


def minimiser(
    right: np.ndarray, curvature: np.ndarray, groups: Sequence[np.ndarray], thresholds: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The minimiser of b' H b - 2 right' b + sum_g threshold_g |b_g|, [q].

    Cyclic descent over the groups, each solved exactly, with steps of Newton's method in between; without a penalty a
    linear system. Only groups that are not zero are swept over; then those that are zero but may not stay so,
    |2 (right - H b)_g| > threshold_g, join them, until there is none.

    Args:
        right: [q].
        curvature: H [q, q], positive definite.
        groups: Positions of the coefficients of every group.
        thresholds: [G]; 0 for a group that is not penalised, infinite for one that stays zero.
        start: [q].
    """
    b = start.copy()
    for g, threshold in zip(groups, thresholds, strict=True):
        if math.isinf(threshold):
            b[g] = 0.0
    if not np.any((thresholds > 0) & np.isfinite(thresholds)):
        free = np.concatenate([np.zeros(0, int), *(g for g, t in zip(groups, thresholds, strict=True) if t == 0)])
        b[free] = np.linalg.solve(curvature[np.ix_(free, free)], right[free])
        return b
    rest = right - curvature @ b
    active = [i for i, g in enumerate(groups) if b[g].any()]
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    while True:
        _sweep(b, rest, curvature, groups, thresholds, active, parts)
        known = set(active)
        wrong = [i for i, g in enumerate(groups) if i not in known and _beyond(rest[g], thresholds[i])]
        if not wrong:
            return b
        active = sorted([*(i for i in active if b[groups[i]].any()), *wrong])


def within(
    right: np.ndarray,
    curvature: np.ndarray,
    groups: Sequence[np.ndarray],
    weights: np.ndarray,
    radius: float,
    start: tuple[np.ndarray, float],
) -> tuple[np.ndarray, float]:
    """The minimiser of b' H b - 2 right' b with sum_g w_g |b_g| <= radius, [q], and its lambda.

    Minimisers with a penalty lambda sum_g w_g |b_g| shrink as lambda grows; the one of this size is searched.

    Args:
        right: [q].
        curvature: H [q, q], positive definite.
        groups: Positions of the coefficients of every group.
        weights: [G]; infinite for a group that stays zero.
        radius: Positive.
        start: [q] and lambda, about right.
    """
    b = start[0]
    top = largest_penalty(2.0 * right, groups, weights)
    low, high, penalty = 0.0, top, min(max(start[1], NEARLY * top), top)
    for _ in range(ROOT):
        b = minimiser(right, curvature, groups, penalty * weights, b)
        away = size(b, groups, weights) - radius
        if abs(away) <= EXACT * radius or (away < 0 and penalty <= NEARLY * top):
            break
        low, high = (penalty, high) if away > 0 else (low, penalty)
        slope = _slope(b, curvature, groups, penalty * weights, weights)
        new = penalty - away / slope if slope < 0 else math.nan
        if not low < new < high:
            new = 0.5 * (low + high)
        penalty = max(new, NEARLY * top)
    return b, penalty


def _slope(
    b: np.ndarray, curvature: np.ndarray, groups: Sequence[np.ndarray], thresholds: np.ndarray, weights: np.ndarray
) -> float:
    """d size / d lambda at a minimiser, where no group enters or leaves; 0 where there is none."""
    active = [i for i, g in enumerate(groups) if b[g].any()]
    if not active:
        return 0.0
    _, _, hessian = _smooth(b, b, curvature, groups, thresholds, active)
    pull = np.concatenate([weights[i] * b[groups[i]] / np.linalg.norm(b[groups[i]]) for i in active])
    try:
        return -float(pull @ np.linalg.solve(hessian, pull))
    except np.linalg.LinAlgError:
        return 0.0


def size(b: np.ndarray, groups: Sequence[np.ndarray], weights: np.ndarray) -> float:
    """sum_g w_g |b_g|; groups with an infinite weight are zero."""
    lengths = np.array([float(np.linalg.norm(b[g])) for g in groups])
    used = lengths > 0
    return float(weights[used] @ lengths[used])


def _sweep(
    b: np.ndarray,
    rest: np.ndarray,
    curvature: np.ndarray,
    groups: Sequence[np.ndarray],
    thresholds: np.ndarray,
    active: Sequence[int],
    parts: dict[int, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Descend over some of the groups until they do not move; b and rest = right - H b change in place."""
    for i in active:
        if i not in parts:
            parts[i] = np.linalg.eigh(curvature[np.ix_(groups[i], groups[i])])
    for sweep in range(SWEEPS):
        moved = 0.0
        for i in active:
            g, (values, vectors) = groups[i], parts[i]
            old = b[g]
            local = rest[g] + (values * old if len(g) == 1 else curvature[np.ix_(g, g)] @ old)
            step = _group(local, values, vectors, float(thresholds[i])) - old
            size = float(np.abs(step).max())
            if size > 0.0:
                b[g] = old + step
                rest -= curvature[:, g] @ step
                moved = max(moved, size)
        if moved <= TOLERANCE * max(float(np.abs(b).max(initial=0.0)), 1e-300):
            return
        if sweep % POLISH == POLISH - 1:
            _newton(b, rest, curvature, groups, thresholds, [i for i in active if b[groups[i]].any()])


def _newton(
    b: np.ndarray,
    rest: np.ndarray,
    curvature: np.ndarray,
    groups: Sequence[np.ndarray],
    thresholds: np.ndarray,
    active: Sequence[int],
) -> None:
    """One step of Newton's method in groups that are not zero, taken in place if none of them turns round."""
    if not active:
        return
    at, slope, hessian = _smooth(b, rest, curvature, groups, thresholds, active)
    new = b.copy()
    try:
        new[at] -= np.linalg.solve(hessian, slope)
    except np.linalg.LinAlgError:
        return
    if all(float(new[groups[i]] @ b[groups[i]]) > 0 for i in active):
        rest -= curvature[:, at] @ (new[at] - b[at])
        b[at] = new[at]


def _smooth(
    b: np.ndarray,
    rest: np.ndarray,
    curvature: np.ndarray,
    groups: Sequence[np.ndarray],
    thresholds: np.ndarray,
    active: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the coefficients of groups that are not zero, and gradient and Hessian in them."""
    at = np.concatenate([groups[i] for i in active])
    slope, hessian = -2.0 * rest[at], 2.0 * curvature[np.ix_(at, at)]
    start = 0
    for i in active:
        own, part = b[groups[i]], slice(start, start + len(groups[i]))
        length = float(np.linalg.norm(own))
        slope[part] += thresholds[i] * own / length
        if len(own) > 1:
            hessian[part, part] += thresholds[i] / length * (np.eye(len(own)) - np.outer(own, own) / length**2)
        start = part.stop
    return at, slope, hessian


def _group(rest: np.ndarray, values: np.ndarray, vectors: np.ndarray, threshold: float) -> np.ndarray:
    """The minimiser of b' D b - 2 rest' b + threshold |b| with D = vectors diag(values) vectors'.

    It is zero for 2 |rest| <= threshold; else its length t solves |2 rest / (2 D t + threshold)| = 1, of which the
    inverse is nearly linear in t.
    """
    if not _beyond(rest, threshold):
        return np.zeros(len(rest))
    if len(rest) == 1:
        return np.sign(rest) * (abs(float(rest[0])) - 0.5 * threshold) / values
    local = 2.0 * (vectors.T @ rest)
    if threshold == 0.0:
        return vectors @ (local / (2.0 * values))
    t, pairs = 0.0, list(zip(local.tolist(), (2.0 * values).tolist(), strict=True))
    for _ in range(LENGTH):
        square = sum((a / (v * t + threshold)) ** 2 for a, v in pairs)
        if abs(square - 1.0) < 1e-14:
            break
        fall = sum(v * a * a / (v * t + threshold) ** 3 for a, v in pairs)
        t = max(t + (math.sqrt(square) - 1.0) * square / fall, 0.0)
    return vectors @ (local * t / (2.0 * values * t + threshold))


def _beyond(rest: np.ndarray, threshold: float) -> bool:
    """Whether a group with this slope / -2 at zero is not zero at the minimiser."""
    return 2.0 * math.sqrt(float(rest @ rest)) > (1.0 + ROUNDING) * threshold


def group_weights(best: np.ndarray, groups: Sequence[np.ndarray], power: float) -> np.ndarray:
    """Adaptive weights sqrt(size) / |best_g|^power, [G]; infinite where the estimate is zero and the power is not."""
    lengths = np.array([float(np.linalg.norm(best[g])) for g in groups])
    sizes = np.sqrt([len(g) for g in groups])
    with np.errstate(divide="ignore"):
        return sizes / lengths**power


def largest_penalty(slope: np.ndarray, groups: Sequence[np.ndarray], weights: np.ndarray) -> float:
    """The smallest lambda at which all coefficients are zero.

    Args:
        slope: [q] gradient of what is penalised where they are zero, the other parameters being at their best.
        groups: Positions of the coefficients of every group.
        weights: [G] of the groups.
    """
    return max(float(np.linalg.norm(slope[g])) / w for g, w in zip(groups, weights, strict=True))


def restricted(best: np.ndarray, curvature: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, float]:
    """The minimiser of the quadratic with all but the active coefficients at zero, and its value there.

    Args:
        best: [q].
        curvature: [q, q].
        active: [q] mask.
    """
    b = np.zeros(len(best))
    if active.any():
        on = np.ix_(active, active)
        off = np.ix_(active, ~active)
        b[active] = best[active] + np.linalg.solve(curvature[on], curvature[off] @ best[~active])
    away = b - best
    return b, float(away @ curvature @ away)
