"""Bins on an axis: where they end, and which observations they hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepnlme.errors import ModelError, invalid

RULES = ("auto", "quantile", "time", "kmeans", "jenks", "unique")
"""The names of the rules."""

LEAST = 5
"""Observations that a bin must hold."""

PER_BIN, FEWEST, MOST = 15, 3, 12
"""Where the number of bins is not given: observations in each, and the range of the number."""

NOMINAL = 15
"""Distinct positions up to which "auto" takes each as a bin."""

NEAR = 0.3
"""How far "auto" looks for a gap, as a share of a bin's count."""

GROUPS = 1_000
"""Distinct positions beyond which "kmeans" puts neighbours together first."""


def bin_edges(x: np.ndarray, bins: Any = "auto", number: int | None = None, where: str = "") -> np.ndarray:
    """Edges of B bins; a bin holds edge[b] <= x < edge[b + 1], the last one its upper edge too.

    - "quantile": equal counts, as far as ties allow;
    - "time": equal widths;
    - "kmeans" (or "jenks", the same in one dimension): the partition with the least sum of squares within bins, found
      exactly by dynamic programming;
    - "unique": each distinct position;
    - "auto": "unique" if there are at most 15 distinct positions, each with at least 5 observations; else about equal
      counts, each edge in the widest gap within 30% of a bin's count from where "quantile" would have it;
    - an integer: so many by "auto"; numbers: the edges themselves.

    "auto" and "quantile" make fewer bins than asked for where ties would leave one with fewer than 5 observations.

    Edges that a rule finds lie half way between neighbouring observations (with "time" at equal distances).

    Args:
        x: Positions (float [N]).
        bins: The rule.
        number: Number of bins for all but "unique"; by default one for 15 observations, 3 to 12.
        where: What the messages name, such as a stratum.

    Returns:
        The edges (float [B + 1]), increasing.

    Raises:
        ModelError: An unknown rule, edges that do not increase or leave observations out.

    Source: Lavielle and Bleakley 2011, J Pharmacokinet Pharmacodyn 38:861 (least squares within bins);
        Wang and Song 2011, R Journal 3:29 (exact k-means in one dimension).
    """
    if isinstance(bins, int | np.integer) and not isinstance(bins, bool):
        bins, number = "auto", int(bins)
    if not isinstance(bins, str):
        return _given_edges(x, bins, where)
    if bins not in RULES:
        expected = f"A rule is one of {', '.join(RULES)}, a number of bins, or their edges"
        raise ModelError(invalid("bins", repr(bins), expected, where))
    if number is not None and (not isinstance(number, int | np.integer) or number < 1):
        raise ModelError(invalid("bins", repr(number), "The number of bins is a whole number, 1 or more", where))
    values, counts = np.unique(x, return_counts=True)
    few = len(values) <= NOMINAL and counts.min() >= LEAST
    if bins == "unique" or (bins == "auto" and number is None and few):
        return _around(values, np.arange(1, len(values)))
    if number is None:
        number = int(np.clip(len(x) // PER_BIN, FEWEST, MOST))
        number = max(min(number, len(x) // LEAST), 1)
    number = min(number, len(values))
    if bins == "time":
        low, high = values[0], values[-1]
        return np.linspace(low, high, number + 1) if high > low else np.array([low, high])
    if bins in ("kmeans", "jenks"):
        return _around(values, _least_squares(values, counts, number))
    cut = _equal_counts(counts, number, None if bins == "quantile" else values)
    return _around(values, _with_enough(counts, cut))


def assign(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each position (int64 [N]); -1 outside the edges."""
    index = np.searchsorted(edges, x, side="right") - 1
    index = np.where(x == edges[-1], len(edges) - 2, index)
    return np.where((x < edges[0]) | (x > edges[-1]), -1, index)


def check_bins(index: np.ndarray, edges: np.ndarray, where: str = "", least: int = LEAST) -> None:
    """Refuse bins that hold too few observations.

    Raises:
        ModelError: Naming the first such bin, its neighbour and what to do.
    """
    counts = np.bincount(index, minlength=len(edges) - 1)
    for b in np.flatnonzero(counts < least):
        got = "an empty bin" if not counts[b] else f"a bin with {counts[b]} observation{'s' if counts[b] > 1 else ''}"
        place = f"bin {b + 1} ({edges[b]:g} to {edges[b + 1]:g})" + (f" of {where}" if where else "")
        other = f"bin {b}" if b else "the next one"
        fix = f"Merge it with {other} (give the edges), ask for fewer bins, or use bins='auto'"
        if len(counts) == 1:
            fix = "Take strata with more observations" if where else "There are too few observations for bins"
        raise ModelError(invalid("bins", got, f"Each bin needs at least {least} observations", place, fix))


def _given_edges(x: np.ndarray, bins: Any, where: str) -> np.ndarray:
    try:
        edges = np.asarray(bins, dtype=np.float64)
    except (TypeError, ValueError):
        edges = np.zeros(0)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        expected = f"Edges are two or more increasing numbers; a rule is one of {', '.join(RULES)}"
        raise ModelError(invalid("bins", repr(bins), expected, where))
    outside = int(((x < edges[0]) | (x > edges[-1])).sum())
    if outside:
        got = f"edges from {edges[0]:g} to {edges[-1]:g}"
        expected = f"{outside} observations lie outside, between {x.min():g} and {x.max():g}"
        raise ModelError(invalid("bins", got, expected, where, "Let the edges cover all observations"))
    return edges


def _around(values: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Edges from the positions, in the distinct values, at which bins begin."""
    inner = 0.5 * (values[cut - 1] + values[cut])
    return np.concatenate([values[:1], inner, values[-1:]])


def _equal_counts(counts: np.ndarray, number: int, values: np.ndarray | None = None) -> np.ndarray:
    """First distinct value of every bin but the first: equal counts as far as ties allow, or gaps near there."""
    below = np.cumsum(counts)[:-1]  # observations before the 2nd, 3rd, ... distinct value
    size = counts.sum() / number
    cut = []
    for wanted in size * np.arange(1, number) if len(below) else ():
        near = np.flatnonzero(np.abs(below - wanted) <= NEAR * size)
        if values is None or not len(near):
            cut.append(1 + int(np.abs(below - wanted).argmin()))
        else:
            cut.append(1 + int(near[(values[near + 1] - values[near]).argmax()]))
    return np.unique(np.array(cut, dtype=np.int64))


def _with_enough(counts: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The cuts without those that leave a bin with too few observations; it is merged with its smaller neighbour."""
    kept = list(cut)
    while kept:
        held = np.add.reduceat(counts, [0, *kept])
        smallest = int(held.argmin())
        if held[smallest] >= LEAST:
            break
        left = held[smallest - 1] if smallest else np.inf
        right = held[smallest + 1] if smallest + 1 < len(held) else np.inf
        del kept[smallest - 1 if left <= right else smallest]
    return np.array(kept, dtype=np.int64)


def _least_squares(values: np.ndarray, counts: np.ndarray, number: int) -> np.ndarray:
    """First distinct value of every bin but the first, of the partition with the least sum of squares."""
    start = np.arange(len(values))
    if len(values) > GROUPS:
        start = np.unique(np.concatenate([[0], _equal_counts(counts, GROUPS)]))
    weight = np.add.reduceat(counts, start).astype(float)
    total = np.add.reduceat(counts * (values - values.mean()), start)
    square = np.add.reduceat(counts * (values - values.mean()) ** 2, start)
    w, s, q = (np.concatenate([[0.0], np.cumsum(v)]) for v in (weight, total, square))
    n = len(start)
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = q[None, :] - q[:, None] - (s[None, :] - s[:, None]) ** 2 / (w[None, :] - w[:, None])
    cost = np.where(np.arange(n + 1)[:, None] < np.arange(n + 1)[None, :], cost, np.inf)  # [from, to)
    best, last = cost[0].copy(), []
    for _ in range(min(number, n) - 1):
        through = best[:, None] + cost
        last.append(through.argmin(0))
        best = through.min(0)
    cut, end = [], n
    for choice in reversed(last):
        end = int(choice[end])
        cut.append(end)
    return start[np.array(cut[::-1], dtype=np.int64)]
