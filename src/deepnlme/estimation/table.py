"""The parameter table and the head of a fit, as the field reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import norm

from deepnlme.estimation.covariance import Covariance
from deepnlme.parameters import ParameterSpace, Positive

Z95 = float(norm.ppf(0.975))


def parameter_table(
    space: ParameterSpace, free: np.ndarray, covariance: Covariance | None, shrinkage: Mapping[str, float]
) -> pd.DataFrame:
    """One row per parameter: Unit, Estimate, SE, RSE%, CI95 low and high, BSV CV%, Shrinkage%, Fixed.

    The interval of a positive parameter is symmetric on its logarithm, of a bounded one on its logit, of a variance
    on its logarithm. BSV is 100 sqrt(exp(omega2) - 1), the coefficient of variation of a log-normal parameter.
    """
    natural = space.as_dict(free)
    position = {n: i for i, n in enumerate(space.names)}
    se = covariance.se if covariance is not None and covariance.ok else np.full(len(space.names), np.nan)
    rows = []
    for name in space.all_names:
        value = natural[name]
        i = position.get(name)
        error = float(se[i]) if i is not None else math.nan
        low, high = interval(space, name, value, error)
        effect = name[6:-1] if name.startswith("omega[") and "," not in name else None
        rows.append(
            {
                "Parameter": name,
                "Unit": space.parameters[name].unit if name in space.parameters else "",
                "Estimate": value,
                "SE": error,
                "RSE%": 100.0 * error / abs(value) if value else math.nan,
                "CI95 low": low,
                "CI95 high": high,
                "BSV CV%": 100.0 * math.sqrt(math.expm1(min(value, 700.0))) if effect is not None else math.nan,
                "Shrinkage%": shrinkage.get(effect, math.nan) if effect is not None else math.nan,
                "Fixed": i is None,
            }
        )
    return pd.DataFrame(rows).set_index("Parameter")


def interval(space: ParameterSpace, name: str, value: float, se: float) -> tuple[float, float]:
    """95% confidence interval of one natural parameter from its standard error."""
    if not math.isfinite(se):
        return math.nan, math.nan
    declared = space.parameters.get(name)
    if declared is None:
        if "," in name:
            return value - Z95 * se, value + Z95 * se
        width = Z95 * se / value
        return value * math.exp(-width), value * _exp(width)
    if isinstance(declared, Positive):
        width = Z95 * se / value
        return value * math.exp(-width), value * _exp(width)
    low, high = getattr(declared, "low", None), getattr(declared, "high", None)
    if low is not None and high is not None:
        span = high - low
        share = (value - low) / span
        width = Z95 * se / (span * share * (1.0 - share))
        logit = math.log(share / (1.0 - share))
        return tuple(low + span / (1.0 + _exp(-(logit + s * width))) for s in (-1, 1))  # type: ignore[return-value]
    return value - Z95 * se, value + Z95 * se


def _exp(x: float) -> float:
    """exp(x), infinite beyond the largest number: a variance near zero has an interval without an upper end."""
    return math.exp(x) if x < 700.0 else math.inf


def _number(value: float, digits: int = 4) -> str:
    return "" if not math.isfinite(value) else f"{value:.{digits}g}"


def render(table: pd.DataFrame) -> str:
    """The table as text; empty columns are left out."""
    shown = pd.DataFrame(index=table.index)
    if bool((table["Unit"] != "").any()):
        shown["Unit"] = table["Unit"]
    shown["Estimate"] = [
        f"{_number(v, 5)}{' FIX' if fixed else ''}" for v, fixed in zip(table["Estimate"], table["Fixed"], strict=True)
    ]
    if bool(table["SE"].notna().any()):
        shown["SE"] = [_number(v, 3) for v in table["SE"]]
        shown["RSE%"] = [_number(v, 3) for v in table["RSE%"]]
        shown["95% CI"] = [
            f"{_number(a)} - {_number(b)}" if math.isfinite(a) else ""
            for a, b in zip(table["CI95 low"], table["CI95 high"], strict=True)
        ]
    for column in ("BSV CV%", "Shrinkage%"):
        if bool(table[column].notna().any()):
            shown[column] = [_number(v, 3) for v in table[column]]
    return shown.reset_index().to_string(index=False)
