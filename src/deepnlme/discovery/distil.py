"""A learned function written as a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepnlme.discovery.distillation import Distillation, ranked
from deepnlme.discovery.forms import constant_names, library
from deepnlme.discovery.formula import Formula
from deepnlme.discovery.points import Points
from deepnlme.discovery.symbolic import regressor, searched
from deepnlme.discovery.visited import check_names, check_network, visited
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit

MOST = 500
"""Points used; from more, so many are drawn."""
TOLERANCE = 0.02
"""Error relative to the spread of the network at which a formula is as good as the network."""


def distil(
    fit: Fit,
    network: str,
    names: Sequence[str] | None = None,
    *,
    output: int | None = None,
    baseline: Mapping[str, float] | None = None,
    search: bool = True,
    evaluations: int = 50_000,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Distillation:
    """Formulas that do what a network does where the data have been.

    The network is looked at over the region that it visited (`visited`), each place as often as the subjects were there
    in time. Candidates are the forms of pharmacology (constant, linear, power, Emax, sigmoid Emax, exponential,
    log-linear, inhibitory Imax, Michaelis-Menten; of each input, the others absent or linear) and the formulas that a
    symbolic regression finds, made of + - * / powers, exp, log and sqrt; the constants of all are those that come
    closest in the mean square. What is best for the data is known only after `candidate.into(fit)` is fitted:
    `refitted` does that for all of them.

    Args:
        fit: The fit.
        network: Its name.
        names: Of its inputs, in the order of the calls; x1, x2, ... by default.
        output: Which output, from 0; needed where there are several.
        baseline: Inputs where the function counts as zero: for a model that uses differences only, as in
            ``theta.effect(cp) - theta.effect(0.0)``, give {"cp": 0.0}. An additive constant then has no meaning, and
            formulas have none.
        search: Also search by symbolic regression (extra `discovery`); without it only the forms.
        evaluations: Formulas tried in each of the three searches.
        tolerance: The error, relative to the spread of the network, at which a formula is as good as the network: the
            simplest such formula is the knee of the front.
        seed: Of the search, and of the points drawn where there are many.

    Returns:
        The candidates, the simplest first, with the Pareto front and its knee.

    Raises:
        ModelError: Not a fit, no such network, arguments out of range.
        MissingExtraError: pyoperon is not installed, and `search` is not False.
    """
    check_network(fit, network)
    declared = fit.model.networks[network]
    inputs = check_names(names, declared.inputs, network)
    _check_symbols(inputs)
    output = checked_output(output, declared.outputs, network)
    base = checked_baseline(baseline, inputs)
    _check_numbers(evaluations, tolerance, seed)
    if search:
        regressor()
    points = points_of(fit, network, inputs, output, base, seed)
    found = library(points)
    if search and np.ptp(points.y) > 0:
        found = _different([*found, *searched(points, evaluations, seed)], points)
    return ranked(network, output, found, points, tolerance)


def points_of(
    fit: Fit, network: str, names: tuple[str, ...], output: int, baseline: np.ndarray | None, seed: int
) -> Points:
    """Points of one output over the region visited, less its value at the baseline."""
    table = visited(fit, network, list(names))
    x = table[list(names)].to_numpy(float)
    y = table["OUTPUT" if fit.model.networks[network].outputs == 1 else f"OUTPUT{output + 1}"].to_numpy(float)
    good = np.isfinite(x).all(1) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(y) > MOST:
        drawn = np.sort(np.random.default_rng([seed, len(y)]).choice(len(y), MOST, replace=False))
        x, y = x[drawn], y[drawn]
    if baseline is not None:
        there = fit.networks[network](*baseline.tolist())
        y = y - (there[output] if isinstance(there, tuple) else there)
    return Points(names, x, y, baseline)


def _different(found: list[Formula], points: Points) -> list[Formula]:
    """Of formulas of the same size with the same values only the first, which a form of the library is."""
    kept: list[tuple[Formula, np.ndarray]] = []
    for formula in found:
        values = points.values(formula)
        same = (np.abs(values - v).max() < 1e-6 * points.spread and f.complexity <= formula.complexity for f, v in kept)
        if not any(same):
            kept.append((formula, values))
    return [formula for formula, _ in kept]


def checked_output(output: int | None, outputs: int, network: str) -> int:
    """Which output is meant.

    Raises:
        ModelError: None of them, or not said which.
    """
    if output is None and outputs == 1:
        return 0
    if output is None or output not in range(outputs) or isinstance(output, bool):
        fix = f"Choose one, such as output={outputs - 1}"
        expected = f"The network `{network}` has {outputs} outputs, 0 to {outputs - 1}"
        raise ModelError(invalid("output", repr(output), expected, fix=fix if outputs > 1 else "Leave it out"))
    return int(output)


def checked_baseline(baseline: Mapping[str, float] | None, names: tuple[str, ...]) -> np.ndarray | None:
    """The inputs at which the function counts as zero, in order.

    Raises:
        ModelError: Not a number for every input.
    """
    if baseline is None:
        return None
    example = ", ".join(f'"{n}": 0.0' for n in names)
    if not isinstance(baseline, Mapping) or set(baseline) != set(names):
        raise ModelError(
            invalid("baseline", repr(baseline), "It has a number for every input", fix=f"Use {{{example}}}")
        )
    try:
        out = np.array([float(baseline[n]) for n in names])
    except (TypeError, ValueError):
        out = np.array([np.nan])
    if not np.isfinite(out).all():
        raise ModelError(invalid("baseline", repr(baseline), "It has finite numbers", fix=f"Use {{{example}}}"))
    return out


def _check_symbols(inputs: tuple[str, ...]) -> None:
    """Refuse names of inputs that mean something else in a formula.

    Raises:
        ModelError: The name of a constant or of a function.
    """
    for name in inputs:
        if name in constant_names(inputs) | {"exp", "log", "sqrt"}:
            expected = "In formulas that is a function or a constant"
            raise ModelError(invalid("names", repr(name), expected, fix=f"Call it {name}_in, for example"))


def _check_numbers(evaluations: Any, tolerance: Any, seed: Any) -> None:
    for name, value, least in (("evaluations", evaluations, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ModelError(invalid(name, repr(value), f"It is a whole number of at least {least}"))
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise ModelError(invalid("tolerance", repr(tolerance), "It is a number from 0 to below 1, such as 0.01"))
