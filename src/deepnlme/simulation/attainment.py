"""Target attainment: the share of simulated subjects whose exposure meets a target."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError, invalid
from deepnlme.simulation.proportions import check_share, wilson

OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}

Target = Mapping[str, Any] | Callable[[pd.DataFrame], Any]
"""A target: ranges or comparisons by column, or a function of the table."""


def target_attainment(
    exposures: pd.DataFrame,
    target: Target,
    by: str | Sequence[str] | None = "arm",
    level: float = 0.95,
) -> pd.DataFrame:
    """The share of subjects that meet a target, with its precision.

    Two intervals answer two questions:

    - LOW, HIGH: how precisely the simulation knows the proportion (Monte-Carlo error; shrinks as more is simulated).
      Wilson's interval of the proportion over all replicates. Where replicates differ by more than their subjects
      explain, because each has its own parameters, subjects count as fewer: N_EFFECTIVE = N / D with the design
      effect D = sum n_r (p_r - p)^2 / ((R - 1) p (1 - p)), at least 1 (Kish 1965).
    - REP_LOW, REP_HIGH: what one trial of this size will show (does not shrink with more replicates). The central
      interval of the proportions p_r of the replicates, REP_MEDIAN their median. With ``uncertainty=`` in `simulate`
      it holds the uncertainty of the parameters and of who takes part; without, only the latter. With many subjects
      in each replicate, what remains is the uncertainty of the parameters.

    Args:
        exposures: One row for each replicate and subject, as `exposure` gives; a table without REP is one replicate.
        target: By column a range ``(low, high)``, both included and None for an open end, or a comparison
            ``(">=", 50)``; all must hold. Or a function of the table that returns a bool for each row.
        by: Column or columns whose groups are told apart; "arm" only where there is one; None for all together.
        level: Confidence level, and content of the interval between replicates.

    Returns:
        One row for each group, in order of appearance: the columns `by`, N (subjects of all replicates whose exposure
        is known), MISSING (those whose is not), PROPORTION, N_EFFECTIVE, LOW, HIGH, and with several replicates
        REPLICATES, REP_MEDIAN, REP_LOW, REP_HIGH.

    Raises:
        ModelError: An unknown column, a target that is none, or a group in which no exposure is known.

    Example:
        >>> table = pd.DataFrame(dict(ID=range(4), arm=["a", "a", "b", "b"], AUC=[300.0, 450.0, 500.0, 550.0]))
        >>> target_attainment(table, {"AUC": (400, 600)})[["arm", "N", "PROPORTION"]]
          arm  N  PROPORTION
        0   a  2         0.5
        1   b  2         1.0
    """
    if not isinstance(exposures, pd.DataFrame):
        got = type(exposures).__name__
        raise ModelError(invalid("exposures", got, "It is the table that dn.exposure returns"))
    check_share("level", level)
    columns = _groups(exposures, by)
    met, known = attained(exposures, target)
    replicate = exposures["REP"].to_numpy() if "REP" in exposures else np.ones(len(exposures), dtype=int)
    if not columns:
        return pd.DataFrame([_summary(met, known, replicate, level, "the table")])
    group = exposures.groupby(columns, sort=False, observed=True, dropna=False).ngroup().to_numpy()
    first = exposures[columns].iloc[np.unique(group, return_index=True)[1]].reset_index(drop=True)
    rows = []
    for i, labels in enumerate(first.to_dict("records")):
        here = group == i
        where = ", ".join(f"{name} {value}" for name, value in labels.items())
        rows.append(_summary(met[here], known[here], replicate[here], level, where))
    return pd.concat([first, pd.DataFrame(rows)], axis=1)


def attained(exposures: pd.DataFrame, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row meets the target, and whether that is known: no value that counts is NaN (bool [N] each).

    Raises:
        ModelError: An unknown column, or a target that is none.
    """
    n = len(exposures)
    if not n:
        raise ModelError(invalid("exposures", "no rows", "There is something to judge"))
    if not isinstance(target, Mapping):
        return _called(exposures, target)
    if not target:
        raise ModelError(invalid("target", "an empty dict", "A target names a column: {'AUC': (400, 600)}"))
    met, known = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    for name, condition in target.items():
        if name not in exposures.columns:
            expected = f"The table has {', '.join(map(str, exposures.columns))}"
            fix = "Give dn.exposure a threshold" if str(name).startswith("T_ABOVE") else ""
            raise ModelError(invalid("target", repr(name), expected, fix=fix))
        if not pd.api.types.is_numeric_dtype(exposures[name].dtype):
            raise ModelError(invalid("target", repr(name), "A target is about a column of numbers"))
        values = exposures[name].to_numpy(dtype=np.float64)
        met &= _holds(str(name), values, condition)
        known &= ~np.isnan(values)
    return met & known, known


def describe(target: Target) -> str:
    """The target in words."""
    if not isinstance(target, Mapping):
        return getattr(target, "__name__", "target").replace("<lambda>", "target")
    parts = []
    for name, condition in target.items():
        if isinstance(condition[0], str):
            parts.append(f"{name} {condition[0]} {condition[1]:g}")
        else:
            low, high = condition
            ends = (f"{low:g} <= " if low is not None else "", f" <= {high:g}" if high is not None else "")
            parts.append(f"{ends[0]}{name}{ends[1]}")
    return " and ".join(parts)


def _called(exposures: pd.DataFrame, target: Any) -> tuple[np.ndarray, np.ndarray]:
    if not callable(target):
        expected = "It is a dict such as {'AUC': (400, 600)} or {'T_ABOVE_PCT': ('>=', 50)}, or a function of the table"
        raise ModelError(invalid("target", repr(target), expected))
    result = np.asarray(target(exposures))
    if result.dtype != bool or result.shape != (len(exposures),):
        got = f"{result.dtype} of shape {result.shape} from the function"
        raise ModelError(invalid("target", got, f"It returns a bool for each of the {len(exposures)} rows"))
    measures = [c for c in exposures.columns if pd.api.types.is_float_dtype(exposures[c].dtype)]
    known = np.asarray(exposures[measures].notna().all(axis=1), dtype=bool)
    return np.logical_and(result, known), known


def _holds(name: str, values: np.ndarray, condition: Any) -> np.ndarray:
    pair = isinstance(condition, tuple | list) and len(condition) == 2
    if pair and isinstance(condition[0], str) and condition[0] in OPERATORS and _is_number(condition[1]):
        return OPERATORS[condition[0]](values, condition[1])
    if pair and all(end is None or _is_number(end) for end in condition) and tuple(condition) != (None, None):
        low = -np.inf if condition[0] is None else condition[0]
        high = np.inf if condition[1] is None else condition[1]
        if low > high:
            raise ModelError(invalid("target", repr(condition), "A range is (low, high)", name))
        return (values >= low) & (values <= high)
    expected = f"It is a range (low, high), None for an open end, or one of {' '.join(OPERATORS)} and a number"
    raise ModelError(invalid("target", repr(condition), expected, name))


def _groups(exposures: pd.DataFrame, by: Any) -> list[str]:
    if by is None or (by == "arm" and "arm" not in exposures.columns):
        return []
    names = list(by) if isinstance(by, list | tuple) else [by]
    for name in names:
        if name not in exposures.columns:
            expected = f"The table has {', '.join(map(str, exposures.columns))}"
            raise ModelError(invalid("by", repr(name), expected))
    return names


def _summary(met: np.ndarray, known: np.ndarray, replicate: np.ndarray, level: float, where: str) -> dict[str, Any]:
    """One row of the table: that of one group."""
    codes = np.unique(replicate, return_inverse=True)[1]
    several = codes.max() > 0
    k, n = np.bincount(codes, met), np.bincount(codes, known)
    k, n, total = k[n > 0], n[n > 0], float(n.sum())
    if not total:
        raise ModelError(invalid("exposures", "no value that is known", "There is something to judge", where))
    p = float(k.sum()) / total
    effect = 1.0
    if len(n) > 1 and 0 < p < 1:
        effect = max(1.0, float((n * (k / n - p) ** 2).sum()) / ((len(n) - 1) * p * (1 - p)))
    low, high = wilson(p * total / effect, total / effect, level)
    out = {"N": int(total), "MISSING": int(len(met) - total), "PROPORTION": p, "N_EFFECTIVE": total / effect}
    out |= {"LOW": float(low), "HIGH": float(high)}
    if several:
        rep_low, middle, rep_high = np.quantile(k / n, [0.5 * (1 - level), 0.5, 0.5 * (1 + level)])
        out |= {"REPLICATES": len(n), "REP_MEDIAN": middle, "REP_LOW": rep_low, "REP_HIGH": rep_high}
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and value == value
