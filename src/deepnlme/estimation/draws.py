"""Draws of the parameters, one row each, and the table that sums them up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from deepnlme.parameters import ParameterSpace


def natural_draws(space: ParameterSpace, free: np.ndarray) -> pd.DataFrame:
    """Estimated parameters on the natural scale by name, one row per draw; weights of networks are not among them.

    Args:
        space: The parameter space.
        free: [n, P].
    """
    values = space.natural(torch.tensor(free, dtype=torch.float64)).numpy()
    return pd.DataFrame(values.reshape(len(free), len(space.names)), columns=list(space.names))


def draws_table(draws: pd.DataFrame, estimates: dict[str, float]) -> pd.DataFrame:
    """One row per parameter: Estimate, Bias (mean of the draws - estimate), Bias%, SE (their sd), percentiles.

    The percentiles 2.5, 50 and 97.5 are named CI95 low, Median and CI95 high. Without at least two draws they are NaN.
    """
    rows = []
    for name in draws.columns:
        estimate, values = estimates[name], draws[name].to_numpy(float)
        enough = len(values) > 1
        bias = float(values.mean()) - estimate if enough else np.nan
        low, middle, high = np.percentile(values, [2.5, 50.0, 97.5]) if enough else (np.nan,) * 3
        rows.append(
            {
                "Parameter": name,
                "Estimate": estimate,
                "Bias": bias,
                "Bias%": 100.0 * bias / abs(estimate) if estimate else np.nan,
                "SE": float(values.std(ddof=1)) if enough else np.nan,
                "CI95 low": low,
                "Median": middle,
                "CI95 high": high,
            }
        )
    return pd.DataFrame(rows).set_index("Parameter")


def rendered(table: pd.DataFrame) -> str:
    """The table as text: estimates to five digits, percentiles to four, the rest to three."""
    digits = {"Estimate": 5, "CI95 low": 4, "Median": 4, "CI95 high": 4}
    shown = pd.DataFrame(index=table.index)
    for column in table:
        n = digits.get(str(column), 3)
        shown[column] = [f"{value:.{n}g}" if np.isfinite(value) else "" for value in table[column]]
    return shown.reset_index().to_string(index=False)
