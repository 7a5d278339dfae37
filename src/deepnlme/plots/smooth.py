"""A smooth line through points, for the eye."""

from __future__ import annotations

import numpy as np

MOST = 5_000
"""Points beyond which every second, third, ... of them in order of position is used."""


def local_linear(x: np.ndarray, y: np.ndarray, at: np.ndarray, share: float = 0.6) -> np.ndarray:
    """Locally weighted linear regression with tricube weights over the nearest `share` of the points.

    Args:
        x: Positions (float [N]).
        y: Values (float [N]).
        at: Positions of the line (float [M]).
        share: Part of the points that counts at each position.

    Returns:
        The line at `at` (float [M]).

    Source: Cleveland 1979, J Am Stat Assoc 74:829 (without the robustness iterations).
    """
    if len(x) > MOST:
        kept = np.argsort(x)[:: -(-len(x) // MOST)]
        x, y = x[kept], y[kept]
    n = max(min(int(np.ceil(share * len(x))), len(x)), 2)
    distance = np.abs(at[:, None] - x[None, :])
    reach = np.sort(distance, 1)[:, n - 1 : n]
    reach = np.where(reach > 0, reach, 1.0)
    weight = np.clip(1.0 - (distance / reach) ** 3, 0.0, None) ** 3
    weight = np.where(weight.sum(1, keepdims=True) > 0, weight, 1.0)
    weight = weight / weight.sum(1, keepdims=True)
    mx, my = weight @ x, weight @ y
    dx = x[None, :] - mx[:, None]
    spread = (weight * dx**2).sum(1)
    slope = (weight * dx * (y[None, :] - my[:, None])).sum(1) / np.where(spread > 0, spread, 1.0)
    return my + slope * (at - mx)
