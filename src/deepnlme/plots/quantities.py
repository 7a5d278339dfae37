"""What is on the axes: the endpoint that is drawn, and the units that the declarations tell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit

_TIMES = ("s", "sec", "min", "h", "hr", "hour", "d", "day", "wk", "week", "mo", "month", "y", "yr", "year")


def check_fit(fit: object) -> None:
    """Raise ModelError unless it is a fit."""
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit", fix="Use the result of dn.fit"))


def endpoint_of(fit: Fit, endpoint: str | None) -> str:
    """The endpoint to draw: the one named, or the first.

    Raises:
        ModelError: Not a fit, or the model has no endpoint of that name.
    """
    check_fit(fit)
    names = tuple(fit.joint.endpoints)
    if endpoint is None:
        return names[0]
    if endpoint not in names:
        raise ModelError(f"Invalid `endpoint`: got {endpoint!r}, expected one of {', '.join(names)}.")
    return endpoint


def observations_of(fit: Fit, endpoint: str) -> pd.DataFrame:
    """The rows of `fit.predictions()` that belong to an endpoint."""
    table = fit.predictions()
    return table.loc[table["DVID"] == endpoint].reset_index(drop=True) if "DVID" in table else table


def censoring(table: pd.DataFrame) -> np.ndarray:
    """CENS of rows of `fit.predictions()` (int64 [N]), 0 where there is no such column."""
    return table["CENS"].to_numpy() if "CENS" in table else np.zeros(len(table), dtype=np.int64)


def units_of(fit: Fit, endpoint: str, units: Mapping[str, str] | None) -> dict[str, str]:
    """Units of ``time`` and ``dv`` [text, empty where not known].

    Time: the unit of time by which declared units divide ("L/h", "1/h"), where they all agree. The observation: the
    unit of the declared standard deviations (`sd`, or a name that ends in `_sd`; with several endpoints those whose
    name begins with the endpoint's), where they all agree.

    Args:
        fit: The fit.
        endpoint: The endpoint drawn.
        units: Units that override, by "time" and "dv".

    Raises:
        ModelError: A key other than these two.
    """
    unknown = set(units or {}) - {"time", "dv"}
    if unknown:
        raise ModelError(f"Invalid `units`: got {sorted(unknown)[0]!r}, expected the keys 'time' and 'dv'.")
    declared = {name: p.unit for name, p in fit.model.parameters.items() if p.unit}
    times = {part for unit in declared.values() for part in unit.split("/")[1:] if part in _TIMES}
    spreads = {n: u for n, u in declared.items() if n == "sd" or n.endswith("_sd")}
    if len(fit.joint.endpoints) > 1:
        spreads = {n: u for n, u in spreads.items() if n.startswith(endpoint)}
    amounts = set(spreads.values())
    found = {
        "time": times.pop() if len(times) == 1 else "",
        "dv": amounts.pop() if len(amounts) == 1 else "",
    }
    return {**found, **(units or {})}


def name_of(fit: Fit, endpoint: str) -> str:
    """How the observed quantity is called on an axis: DV, or the endpoint's name if there are several."""
    return "DV" if endpoint == "dv" and len(fit.joint.endpoints) == 1 else endpoint
