"""Uncertainty of the estimates in a simulation: a vector of parameters for every replicate."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.parameters import ParameterSpace, Positive

WIDEST = 3.0
"""Standard error of a logarithm beyond which the normal approximation is no approximation: +-2 of them are a factor
of 400 either way."""
ADVICE = (
    "Repair it (fit.with_covariance(), another model), or give draws: uncertainty=dn.bootstrap(fit).draws, or those of "
    "a posterior, a DataFrame with a column for each parameter"
)


def parameter_draws(fit: Fit, replicates: int, uncertainty: Any, seed: int) -> np.ndarray:
    """Free parameters of every replicate, [R, P].

    Args:
        fit: The fit.
        replicates: R.
        uncertainty: True for draws from the covariance matrix (`covariance_draws`), a table of draws (`tabulated`), or
            what has one as `draws`; if it also has `free_draws` [n, P] (a bootstrap, SIR), these, as they hold the
            weights of networks.
        seed: Of the draws.

    Raises:
        ModelError: No covariance matrix to draw from, or a table that does not fit the model.
    """
    if uncertainty is True:
        return covariance_draws(fit, replicates, seed)
    found = given(fit, uncertainty)
    if replicates == len(found):
        return found
    # every row equally often, as nearly as the numbers allow, in an order of its own
    generator = np.random.default_rng([seed, 3])
    rounds = [generator.permutation(len(found)) for _ in range(-(-replicates // len(found)))]
    return found[np.concatenate(rounds)[:replicates]]


def given(fit: Fit, uncertainty: Any) -> np.ndarray:
    """The draws that the user gives as free vectors, [n, P]."""
    table = getattr(uncertainty, "draws", uncertainty)
    free = getattr(uncertainty, "free_draws", None)
    if (
        isinstance(table, pd.DataFrame)
        and isinstance(free, np.ndarray)
        and free.shape[1:] == fit.free.shape
        and len(free)
    ):
        tabulated(fit, table.iloc[:1])  # the parameters of the same model
        return free
    if not isinstance(table, pd.DataFrame):
        raise ModelError(
            f"Invalid `uncertainty`: got {type(uncertainty).__name__}, expected None, True (the covariance matrix of "
            "the fit) or a DataFrame of draws with a column for each parameter."
        )
    return tabulated(fit, table)


def covariance_draws(fit: Fit, replicates: int, seed: int) -> np.ndarray:
    """u ~ N(u_hat, C) on the free scale, [R, P]: variances stay positive and bounded parameters within their bounds.

    Raises:
        ModelError: The fit has no covariance step, or it failed.
    """
    step = fit.covariance
    if step is None:
        raise ModelError(f"Invalid `uncertainty`: got True, but the fit has no covariance step. {ADVICE}.")
    if not step.ok:
        raise ModelError(
            f"Invalid `uncertainty`: got True, but there is no covariance matrix. {step.message} {ADVICE}."
        )
    if step.warning:
        why = step.warning.removeprefix("warning: ")
        raise ModelError(f"Invalid `uncertainty`: got True, but the standard errors mean nothing: {why}. {ADVICE}.")
    values, vectors = np.linalg.eigh(step.free) if len(step.free) else (np.zeros(0), np.zeros((0, 0)))
    if not np.isfinite(values).all() or values.min(initial=0.0) < -1e-8 * values.max(initial=0.0):
        raise ModelError(
            "Invalid `uncertainty`: got True, but the covariance matrix of the estimates is not positive semidefinite "
            f"(smallest eigenvalue {values.min():.3g}). {ADVICE}."
        )
    _check_determined(fit.joint.space, np.sqrt(np.diag(step.free)))
    standard = np.random.default_rng([seed, 2]).standard_normal((replicates, len(values)))
    return fit.free + (standard * np.sqrt(values.clip(0.0))) @ vectors.T


def _check_determined(space: ParameterSpace, se: np.ndarray) -> None:
    """Refuse a normal distribution so wide on the scale of logarithms that draws from it mean nothing."""
    logs = [(i, name) for i, name in enumerate(space.free_theta) if isinstance(space.parameters[name], Positive)]
    at = len(space.free_theta)
    for name, group in space.groups.items():
        roots = np.cumsum([0, *range(2, group.size + 1)]) if group.block else np.arange(group.free_size)
        logs += [(at + int(i), name) for i in roots if group.free_size]
        at += group.free_size
    for i, name in logs:
        if se[i] > WIDEST:
            raise ModelError(
                f"Invalid `uncertainty`: got True, but the data do not determine `{name}` (standard error {se[i]:.3g} "
                f"on the log scale). Fix or drop it, or use a diagonal Omega. {ADVICE}."
            )


def tabulated(fit: Fit, table: pd.DataFrame) -> np.ndarray:
    """The rows of a table of natural parameters as free vectors, [rows, P].

    Weights of networks, which have no columns, stay at the estimates.

    Raises:
        ModelError: An unknown or missing column, or a value that a parameter cannot have; names the row.
    """
    space = fit.joint.space
    unknown = [str(name) for name in table.columns if name not in space.all_names]
    missing = [name for name in space.names if name not in table.columns]
    if unknown or missing or not len(table):
        got = f"the column {unknown[0]!r}" if unknown else f"no column {missing[0]!r}" if missing else "no row"
        raise ModelError(
            f"Invalid `uncertainty`: got {got}, expected a row for each draw and the columns {', '.join(space.names)}. "
            "A parameter that is to stay at its estimate has the same number in every row."
        )
    for name in table.columns:
        if name not in space.names and not np.allclose(table[name], fit.estimates[name], rtol=1e-8):
            raise ModelError(
                f"Invalid `uncertainty`: got draws of `{name}`, which is fixed at {fit.estimates[name]:g}. "
                "Leave the column out, or fit a model that estimates it."
            )
    weights = {name: fit.weights[name] for name in space.weights}
    out = np.empty((len(table), space.size))
    for i, row in enumerate(table.loc[:, list(space.names)].to_dict(orient="records")):
        try:
            out[i] = space.initial({**_whole(space, row), **weights})
        except ModelError as error:
            raise ModelError(f"Invalid `uncertainty`, row {table.index[i]}: {error}") from None
    return out


def _whole(space: ParameterSpace, row: dict) -> dict[str, Any]:
    """The values of one draw by name; a full Omega that is singular but for rounding becomes positive definite."""
    bad = [n for n, value in row.items() if not (isinstance(value, numbers.Real) and np.isfinite(float(value)))]
    if bad:
        raise ModelError(
            f"got {row[bad[0]]!r} for `{bad[0]}`, expected a finite number. Leave failed draws out: dropna()."
        )
    out: dict[str, Any] = {str(name): float(value) for name, value in row.items()}
    for name, group in space.groups.items():
        if not group.block or not group.free_size:
            continue
        omega, labels = np.zeros((group.size, group.size)), group.labels(name)
        for i in range(group.size):
            for j in range(i + 1):
                key = f"omega[{labels[i]}]" if i == j else f"omega[{labels[i]},{labels[j]}]"
                omega[i, j] = omega[j, i] = out.pop(key)
        values, vectors = np.linalg.eigh(omega)
        if -1e-8 * values.max() < values.min() < 1e-10 * values.max():
            omega = (vectors * values.clip(1e-10 * values.max())) @ vectors.T
            omega = 0.5 * (omega + omega.T)
        out[name] = omega
    return out
