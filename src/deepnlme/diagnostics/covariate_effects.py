"""What covariates do to individual parameters: ratios to a reference subject, for a forest plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepnlme.axes import Names
from deepnlme.diagnostics.arguments import check_level, check_whole
from deepnlme.diagnostics.covariate_cases import Case, cases_of, reference_of, shown, virtual_subjects
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.joint import Joint
from deepnlme.joint.calling import model_arithmetic
from deepnlme.simulation.uncertainty import parameter_draws

ROWS = 50_000
"""Subjects and draws computed at a time (bounds memory)."""
SAME = 1e-12
"""A ratio nearer to 1 is no effect."""


def covariate_effects(
    fit: Fit,
    covariates: Mapping[str, Any] | Sequence[str] | None = None,
    quantities: Sequence[str] | Mapping[str, Callable[[Any], Any]] | None = None,
    reference: Mapping[str, Any] | None = None,
    *,
    level: float = 0.9,
    draws: int = 1000,
    uncertainty: Any = True,
    between: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Ratio of individual parameters at values of one covariate to those of a reference subject, at eta = 0.

    RATIO = g(x, theta_hat) / g(x_ref, theta_hat) with g an individual parameter or a function of them; LOW and HIGH are
    quantiles of the same ratio over draws of theta. Covariates are changed one at a time, the others stay at the
    reference. `plot_covariate_effects` draws the table.

    Args:
        fit: The fit.
        covariates: Values by name, ``{"wt": [50, 90], "sex": ["female"]}``; or names. Where no values are given: of a
            number the 5th and 95th percentile over the subjects (first records), of a text and of a number with at
            most five different values the levels other than the reference.
        quantities: Names of parameters that the model's `individual` returns; or functions of them by name,
            ``{"AUC": lambda p: 100 / p.cl}``. Default: for each covariate the parameters that it changes.
        reference: Values of the reference subject by name. Default: the median of a number, the most frequent
            value of a text and of a number with at most five different values.
        level: Probability inside the interval.
        draws: Draws of the parameters.
        uncertainty: True: draws from the covariance matrix of the fit, on the free scale; a DataFrame of draws (a
            bootstrap, a posterior) with a column for each parameter; None: estimates as known.
        between: The interval of a subject with random effects of its own, eta ~ N(0, Omega), instead of eta = 0.
        seed: Of the draws.

    Returns:
        COVARIATE VALUE PARAMETER RATIO LOW HIGH, in the order of the parameters; LOW and HIGH are NaN without any
        draws. ``attrs`` has the reference subject, the level and `between`.

    Raises:
        DataError: An unknown covariate, or a value that it cannot have.
        ModelError: No covariance matrix to draw from, an unknown parameter, a reference that is not positive, or no
            effect at all.

    Source: Marier et al. 2022, CPT Pharmacometrics Syst Pharmacol 11:1283 (forest plots of covariate effects).
    """
    _check(fit, level, draws, between, seed)
    basis = reference_of(fit.population, reference or {})
    cases = cases_of(fit.population, covariates, basis)
    free = fit.free[None] if uncertainty is None else parameter_draws(fit, draws, uncertainty, seed)
    if between and len(free) == 1:
        free = np.repeat(free, draws, 0)
    joint = Joint(fit.model, virtual_subjects(fit.population, basis, cases), slots="records")
    standard = np.random.default_rng([seed, 5]).standard_normal((len(free), joint.k)) * between
    estimate = _ratios(joint, fit.free[None], np.zeros((1, joint.k)), quantities)
    drawn = _ratios(joint, free, standard, quantities)
    table = _table(cases, estimate, drawn, level, all_rows=quantities is not None)
    table.attrs.update(reference=shown(fit.population, basis), level=level, between=between)
    return table


def _check(fit: Any, level: Any, draws: Any, between: Any, seed: Any) -> None:
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is what dn.fit or dn.evaluate_ofv returns"))
    check_level(level)
    check_whole("draws", draws, 2, "Use uncertainty=None for no interval")
    check_whole("seed", seed, 0)
    if between and not fit.method.uses_omega:
        expected = f"{fit.method.name} does not estimate Omega"
        raise ModelError(invalid("between", "True", expected, fix="Fit with dn.FOCE(), or use between=False"))


def _ratios(joint: Joint, free: np.ndarray, standard: np.ndarray, quantities: Any) -> dict[str, np.ndarray]:
    """Ratio to the reference by quantity, [D, cases].

    Args:
        joint: The reference and the cases, n subjects.
        free: [D, P].
        standard: [D, k] whitened random effects of the cases; the reference has none.
        quantities: See `covariate_effects`.
    """
    size = max(1, ROWS // len(joint.population))
    parts = [
        _quantities(_individual(joint, free[start : start + size], standard[start : start + size]), quantities)
        for start in range(0, len(free), size)
    ]
    return {name: _ratio(name, np.concatenate([part[name] for part in parts])) for name in parts[0]}


def _ratio(name: str, value: np.ndarray) -> np.ndarray:
    """Values [D, n] divided by the first of each draw; 1 where it is equal, whatever its sign."""
    basis, others = value[:, :1], value[:, 1:]
    same = np.abs(others - basis) <= SAME * np.abs(basis)
    if not ((basis > 0) | same.all(1, keepdims=True)).all():
        fix = "Choose others with `quantities`, or a function of them that is positive"
        got = f"{basis[~(basis > 0)][0]:g}"
        raise ModelError(invalid(name, got, "A ratio needs a positive reference", "the reference subject", fix))
    return np.where(same, 1.0, others / np.where(basis > 0, basis, 1.0))


def _individual(joint: Joint, free: np.ndarray, standard: np.ndarray) -> dict[str, np.ndarray]:
    """Individual parameters of every draw and subject by name: [D, n], and [D, n, M] for vectors."""
    d, n = len(free), len(joint.population)
    if d > 1 and joint.space.row_size < joint.space.size:  # weights that all rows share: one draw at a time
        each = [_individual(joint, free[i : i + 1], standard[i : i + 1]) for i in range(d)]
        return {name: np.concatenate([found[name] for found in each]) for name in each[0]}
    batch = joint.batch.take(torch.arange(n).repeat(d))
    z = np.repeat(standard[:, None], n, 1)
    z[:, 0] = 0.0
    with torch.no_grad(), model_arithmetic():
        values = joint.space.values(torch.tensor(np.repeat(free, n, 0), dtype=torch.float64).unsqueeze(0))
        _, p, _, _ = joint.parameters(values, torch.tensor(z.reshape(1, d * n, -1)), batch)
    out = {}
    for name, value in p.items():
        flat = value[0, :, 0]
        out[name] = flat.expand(d * n, *flat.shape[1:]).reshape(d, n, *flat.shape[1:]).numpy()
    return out


def _quantities(p: dict[str, np.ndarray], wanted: Any) -> dict[str, np.ndarray]:
    """The quantities asked for, each [D, n]."""
    scalars = {name: value for name, value in p.items() if value.ndim == 2}
    if wanted is None:
        return scalars
    if not isinstance(wanted, Mapping):
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        unknown = [name for name in names if name not in scalars]
        if unknown or not names:
            got = repr(unknown[0]) if unknown else "none"
            expected = f"The model's individual parameters are {', '.join(scalars) or '(none)'}"
            fix = 'Give functions of them by name: {"AUC": lambda p: 100 / p.cl}'
            raise ModelError(invalid("quantities", got, expected, fix=fix))
        return {name: scalars[name] for name in names}
    shape = next(iter(p.values())).shape[:2]
    out = {}
    for name, function in wanted.items():
        if not callable(function):
            expected = "It is a function of the parameters, as lambda p: 100 / p.cl"
            raise ModelError(invalid(f"quantities[{name!r}]", repr(function), expected))
        value = np.asarray(function(Names("p", p)), dtype=float)
        if value.shape not in (shape, ()):
            expected = "The function makes one number for each subject from p, as lambda p: 100 / p.cl"
            raise ModelError(invalid(f"quantities[{name!r}]", f"an array of shape {value.shape}", expected))
        out[str(name)] = np.broadcast_to(value, shape)
    return out


def _table(
    cases: Sequence[Case],
    estimate: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
    level: float,
    all_rows: bool,
) -> pd.DataFrame:
    rows = []
    for name, ratio in estimate.items():
        ends = np.full((2, len(cases)), np.nan)
        if len(drawn[name]) > 1:
            ends = np.quantile(drawn[name], [0.5 * (1 - level), 0.5 * (1 + level)], axis=0)
        moved = np.any(np.abs(np.concatenate([ratio, drawn[name]]) - 1.0) > SAME, axis=0).tolist()
        effective = {case.covariate for case, has in zip(cases, moved, strict=True) if has}
        for i, case in enumerate(cases):
            if all_rows or case.covariate in effective:
                rows.append((case.covariate, case.value, name, ratio[0, i], ends[0, i], ends[1, i]))
    if not rows:
        names = ", ".join(dict.fromkeys(case.covariate for case in cases))
        expected = "At least one individual parameter depends on a covariate"
        raise ModelError(invalid("covariates", names, expected, "this model", "Use covariates that `individual` reads"))
    return pd.DataFrame(rows, columns=["COVARIATE", "VALUE", "PARAMETER", "RATIO", "LOW", "HIGH"])
