"""What a learned function does along each of its inputs: partial dependence, and the curve of every individual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.discovery.distil import checked_baseline, checked_output
from deepnlme.discovery.visited import check_names, check_network, visited
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Bootstrap, Fit
from deepnlme.estimation.fitted_network import FittedNetwork

ROWS = 20
"""Places of each subject that a curve is the mean of, at most: evenly spaced among those visited."""


@dataclass(frozen=True)
class EffectCurves:
    """A learned function along each input, over the region that the data visited.

    Attributes:
        network: Name of the network.
        inputs: Names of its inputs.
        average: One row per input and value: INPUT VALUE EFFECT LOW HIGH; the mean over the subjects, and a band.
        individual: One row per input, value and subject: INPUT VALUE ID EFFECT.
        visited: What the network saw, as `visited` returns it.
        level: Probability inside the band.
        band: What it is: "bootstrap" (uncertainty of the average) or "subjects" (their spread).
    """

    network: str
    inputs: tuple[str, ...]
    average: pd.DataFrame
    individual: pd.DataFrame
    visited: pd.DataFrame
    level: float
    band: str

    def __repr__(self) -> str:
        return f"<EffectCurves of `{self.network}` along {', '.join(self.inputs)}, band of {self.band}>"


def effect_curves(
    fit: Fit,
    network: str,
    names: Sequence[str] | None = None,
    *,
    output: int | None = None,
    baseline: Mapping[str, float] | None = None,
    bootstrap: Bootstrap | None = None,
    points: int = 41,
    level: float = 0.9,
) -> EffectCurves:
    """Partial dependence of a network on each input, with the curve of every individual.

    The curve of a subject along an input is the mean of the network over the places that the subject visited, with that
    input replaced by the value on the axis and the others left as they were. The average curve is the mean over the
    subjects. Values go from the least to the largest that any subject visited. Where inputs move together, as a
    concentration and its effect do, curves pass through places where nobody has been.

    Args:
        fit: The fit.
        network: Its name.
        names: Of its inputs, in the order of the calls; x1, x2, ... by default.
        output: Which output, from 0; needed where there are several.
        baseline: Inputs where the function counts as zero, as in `distil`.
        bootstrap: A bootstrap of the fit: the band is the uncertainty of the average curve. Without it the band is the
            spread of the individual curves.
        points: Values of each input.
        level: Probability inside the band.

    Raises:
        ModelError: Not a fit, no such network, another fit's bootstrap, arguments out of range.
    """
    check_network(fit, network)
    declared = fit.model.networks[network]
    inputs = check_names(names, declared.inputs, network)
    output = checked_output(output, declared.outputs, network)
    base = checked_baseline(baseline, inputs)
    _check(fit, network, bootstrap, points, level)
    table = visited(fit, network, list(inputs))
    places = _places(table)
    who, ids = pd.factorize(places["ID"])
    x = places[list(inputs)].to_numpy(float)
    weights = [fit.weights[network]]
    if bootstrap is not None:
        weights += list(bootstrap.free_draws[:, fit.joint.space.weights[network]])
    functions = [FittedNetwork(network, declared, w) for w in weights]
    averages, individuals = [], []
    for i, name in enumerate(inputs):
        values = np.linspace(x[:, i].min(), x[:, i].max(), points)
        curves = [_curves(f, x, i, values, who, output, base) for f in functions]
        drawn = np.stack([c.mean(0) for c in curves[1:]]) if bootstrap is not None else curves[0]
        low, high = np.quantile(drawn, [0.5 * (1 - level), 0.5 * (1 + level)], axis=0)
        columns = {"INPUT": name, "VALUE": values, "EFFECT": curves[0].mean(0), "LOW": low, "HIGH": high}
        averages.append(pd.DataFrame(columns))
        at = np.tile(values, len(ids))
        own = {"INPUT": name, "VALUE": at, "ID": np.repeat(np.asarray(ids, dtype=object), points)}
        individuals.append(pd.DataFrame({**own, "EFFECT": curves[0].ravel()}))
    average, individual = (pd.concat(parts, ignore_index=True) for parts in (averages, individuals))
    band = "subjects" if bootstrap is None else "bootstrap"
    return EffectCurves(network, inputs, average, individual, table, level, band)


def _places(table: pd.DataFrame) -> pd.DataFrame:
    """Some places of every subject."""
    parts = []
    for _, own in table.groupby("ID", sort=False):
        index = np.unique(np.linspace(0, len(own) - 1, min(len(own), ROWS)).round().astype(int))
        parts.append(own.iloc[index])
    return pd.concat(parts, ignore_index=True)


def _curves(
    function: FittedNetwork,
    x: np.ndarray,
    column: int,
    values: np.ndarray,
    who: np.ndarray,
    output: int,
    baseline: np.ndarray | None,
) -> np.ndarray:
    """The curve of every subject, [S, values]."""
    at = [np.broadcast_to(values if i == column else x[:, i, None], (len(x), len(values))) for i in range(x.shape[1])]
    found = _one(function(*at), output)
    if baseline is not None:
        found = found - _one(function(*baseline.tolist()), output)
    count = np.bincount(who)
    out = np.zeros((len(count), len(values)))
    np.add.at(out, who, found)
    return out / count[:, None]


def _one(found: Any, output: int) -> Any:
    return found[output] if isinstance(found, tuple) else found


def _check(fit: Fit, network: str, bootstrap: Any, points: Any, level: Any) -> None:
    if isinstance(points, bool) or not isinstance(points, int | np.integer) or points < 2:
        raise ModelError(invalid("points", repr(points), "It is a whole number of at least 2"))
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ModelError(invalid("level", repr(level), "It is a number between 0 and 1, such as 0.9"))
    if bootstrap is None:
        return
    if not isinstance(bootstrap, Bootstrap) or bootstrap.fit is not fit:
        got = f"that of {bootstrap.fit!r}" if isinstance(bootstrap, Bootstrap) else type(bootstrap).__name__
        raise ModelError(invalid("bootstrap", got, "It is the bootstrap of this fit", fix="Use dn.bootstrap(fit)"))
    if network not in fit.joint.space.weights or not len(bootstrap.free_draws):
        got = "one without draws of the network"
        raise ModelError(invalid("bootstrap", got, "The weights are estimated, and samples converged"))
