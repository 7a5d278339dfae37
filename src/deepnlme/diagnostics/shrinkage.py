"""How far estimates of individual effects and residuals are shrunken towards zero.

Source: Savic, Karlsson 2009, AAPS J 11:558; the definitions are NONMEM's.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit

COLUMNS = ("Kind", "N", "SD%", "VR%", "EBV SD%", "EBV VR%", "ETABAR", "SE", "P", "P (t)")


def shrinkage(fit: Fit) -> pd.DataFrame:
    """Shrinkage of every random effect and of the residuals of every endpoint, and whether effects average to zero.

    Of an effect with variance omega2, EBEs eta_i and their conditional variances v_i: SD% = 100 (1 - sd(eta_i)/omega),
    VR% = 100 (1 - var(eta_i)/omega2), EBV VR% = 100 mean(v_i)/omega2, EBV SD% = 100 (1 - sqrt(1 - EBV VR/100)). Of
    residuals: SD% = 100 (1 - sqrt(mean(IWRES^2))), VR% = 100 (1 - mean(IWRES^2)). ETABAR is the mean of the EBEs, SE
    that of the mean, P of the hypothesis that it is zero, from the normal law as NONMEM has it, and from Student's t.

    Effects by occasion are taken over all occasions that subjects have, as in `Fit.shrinkage`. The variance divides by
    N - 1 (NONMEM 7.5 and SE by N, which differs below about 50 subjects). The table shows NaN where a column does not
    apply: an omega of zero, an endpoint without normal residuals.

    Args:
        fit: A fit, or a model evaluated at given values.

    Returns:
        One row per random effect (Kind "eta") and per endpoint (Kind "eps"), with the columns of `COLUMNS`.

    Raises:
        ModelError: Not a fit.
    """
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit", fix="Use the result of dn.fit"))
    rows = [_eta(name, *found, float(fit.omega.loc[name, name])) for name, found in _pooled(fit).items()]
    table = fit.predictions()
    endpoints = fit.joint.endpoints
    for name in endpoints:
        own = table.loc[table["DVID"] == name] if len(endpoints) > 1 else table
        rows.append(_eps(name, own["IWRES"].dropna().to_numpy(float)))
    return pd.DataFrame(rows, columns=["Name", *COLUMNS]).set_index("Name")


def _pooled(fit: Fit) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """EBEs and their conditional variances by effect, occasions that a subject does not have left out."""
    if not fit.joint.k or not fit.method.uses_omega:
        return {}
    found = fit.ebes
    last = fit.joint.batch.occasion.max(1).values.numpy()
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for i, label in enumerate(found.names):
        name, _, occasion = label.partition("@")
        has = last >= int(occasion) - 1 if occasion else np.ones(len(last), dtype=bool)
        parts.setdefault(name, []).append((found.eta[has, i], found.covariance[has, i, i]))
    return {name: tuple(np.concatenate(p) for p in zip(*pieces, strict=True)) for name, pieces in parts.items()}  # type: ignore[misc]


def _eta(name: str, eta: np.ndarray, conditional: np.ndarray, variance: float) -> dict[str, object]:
    n = len(eta)
    row: dict[str, object] = {"Name": name, "Kind": "eta", "N": n}
    if not variance > 0 or n < 2:
        return row
    kept = float(eta.var(ddof=1)) / variance
    explained = float(conditional.mean()) / variance
    mean, error = float(eta.mean()), float(eta.std()) / math.sqrt(n)
    score = abs(mean) / error if error > 0 else math.nan
    return row | {
        "SD%": 100.0 * (1.0 - math.sqrt(kept)),
        "VR%": 100.0 * (1.0 - kept),
        "EBV SD%": 100.0 * (1.0 - math.sqrt(max(1.0 - explained, 0.0))),
        "EBV VR%": 100.0 * explained,
        "ETABAR": mean,
        "SE": error,
        "P": float(2.0 * norm.sf(score)),
        "P (t)": float(2.0 * t.sf(score * math.sqrt((n - 1) / n), n - 1)),
    }


def _eps(name: str, iwres: np.ndarray) -> dict[str, object]:
    row: dict[str, object] = {"Name": name, "Kind": "eps", "N": len(iwres)}
    if not len(iwres):
        return row
    square = float(np.mean(iwres**2))
    return row | {"SD%": 100.0 * (1.0 - math.sqrt(square)), "VR%": 100.0 * (1.0 - square)}
