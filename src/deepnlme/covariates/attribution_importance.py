"""How much worse subjects left out are predicted when a covariate is replaced: importance, and a test of it.

With a network g that was learned without subject i, the loss of i in effect e is that of what its data say of it,
l_ie(g) = -log N(y_ie; g_e, Omega_ee + V_iee), y and V being the unshrunk estimate and its variance, Omega the residual
one. Each effect is judged alone: in the density of all effects together, where errors of estimates are correlated, a
covariate of one effect would make up in another for what a penalty left of it.

A covariate of effect e is replaced in g_e alone, by values that say nothing new about the subject: those of other
subjects (permutation), or draws given the other covariates. The importance is the mean rise of 2 sum_i l_ie.

Drawn given the others, it is a test of "no relation given the other covariates": without one, the true values are a
draw as good as any, and the rank of their loss among those of the draws is uniform. With folds the network of one fold
has seen the true values of the others, which makes the test slightly conservative.

Source: Breiman 2001, Mach Learn 45:5 (permutation); Candes et al. 2018, J R Stat Soc B 80:551 (draws given the others);
Tansey et al. 2022, J Comput Graph Stat 31:151 (the holdout randomisation test).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from deepnlme.covariates.attribution_learning import Crossed
from deepnlme.covariates.augment_inputs import Inputs
from deepnlme.covariates.augment_regression import Task

ROWS = 100_000
"""Rows that a network sees at once."""


def places(inputs: Inputs, covariate: str) -> list[int]:
    """Positions of a covariate's inputs."""
    return [i for i, column in enumerate(inputs.columns) if column.covariate == covariate]


def encoded(inputs: Inputs, covariate: str, values: np.ndarray) -> np.ndarray:
    """The inputs of values of a covariate, [..., columns]."""
    columns = [inputs.columns[i] for i in places(inputs, covariate)]
    return np.stack([values if c.code is None else (values == c.code).astype(float) for c in columns], -1)


def rises(task: Task, found: Crossed, i: int, at: list[int], replaced: np.ndarray) -> np.ndarray:
    """Rise of 2 sum_i l_ie over the subjects left out, [M], when inputs of one effect are replaced.

    Args:
        task: Inputs and targets.
        found: What was learned without each fold.
        i: Position of the effect among those learned.
        at: Positions of the inputs.
        replaced: [M, S, len(at)] what stands there instead.
    """
    e = task.chosen[i]
    y, v = task.targets.unshrunk()
    weight = 1.0 / (found.omega[e, e] + v[:, e])
    slope = weight * (found.left_out[:, e] - y[:, e])
    out = np.zeros(len(replaced))
    for test, predictor in found.models:
        for part in _parts(len(replaced), len(test)):
            x = np.repeat(task.x[None, test], len(replaced[part]), 0)
            x[:, :, at] = replaced[part][:, test]
            g = predictor.effect(i, x.reshape(-1, x.shape[-1])).reshape(x.shape[:2])
            change = g - found.left_out[test, e]
            out[part] += 2.0 * (change * slope[test] + 0.5 * weight[test] * change**2).sum(1)
    return out


def _parts(draws: int, subjects: int) -> Iterator[slice]:
    step = max(ROWS // max(subjects, 1), 1)
    return (slice(at, at + step) for at in range(0, draws, step))


def p_value(rise: np.ndarray) -> float:
    """(1 + how many draws lose no more than the truth) / (1 + draws)."""
    return float((1 + np.sum(rise <= 0.0)) / (1 + len(rise)))


# ---- what stands in a covariate's place -------------------------------------------------------------------------


def permuted(values: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Values of other subjects, [M, S]."""
    return values[np.argsort(generator.random((draws, len(values))), axis=1)]


def given_others(
    values: np.ndarray, others: np.ndarray, categorical: bool, draws: int, generator: np.random.Generator
) -> np.ndarray:
    """Draws of a covariate given the others, [M, S].

    A number is its linear regression on the others plus the residual of another subject; a category has the
    probabilities of a logistic regression.

    Args:
        values: [S] its values.
        others: [S, q] inputs of the others.
        categorical: Whether the values are categories.
        draws: M.
        generator: Of random numbers.
    """
    sd = others.std(0)
    x = (others - others.mean(0))[:, sd > 0] / sd[sd > 0]
    if categorical:
        found, codes = np.unique(values, return_inverse=True)
        below = np.cumsum(_probabilities(x, codes, len(found)), axis=1)[:, :-1]
        return found[(generator.random((draws, len(values)))[..., None] > below).sum(-1)]
    expected = values.mean() + _regressed(x, values - values.mean())
    return expected + permuted(values - expected, draws, generator)


def _regressed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares; with fewer than two subjects per input ridge regression by generalised cross-validation.

    It has at most half as many degrees of freedom as subjects, so that something is left to draw.
    """
    if not x.shape[1]:
        return np.zeros(len(y))
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    u, s = u[:, s > 1e-9 * s[0]], s[s > 1e-9 * s[0]]
    along = u.T @ y
    if len(y) > 2 * (len(s) + 1):
        return u @ along
    best, out = np.inf, np.zeros(len(y))
    for penalty in np.geomspace(1e-3, 1e3, 25) * len(y):
        shrink = s**2 / (s**2 + penalty)
        if shrink.sum() > 0.5 * len(y):
            continue
        fitted = u @ (shrink * along)
        error = float(np.sum((y - fitted) ** 2)) / (len(y) - 1 - shrink.sum()) ** 2
        if error < best:
            best, out = error, fitted
    return out


def _probabilities(x: np.ndarray, codes: np.ndarray, levels: int) -> np.ndarray:
    """Of a logistic regression with weights N(0, 1) per standard deviation and free constants, [S, levels]."""
    x = np.column_stack([np.ones(len(x)), x])
    target = np.eye(levels)[codes]

    def cost(free: np.ndarray) -> tuple[float, np.ndarray]:
        w = free.reshape(-1, levels)
        log = log_softmax(x @ w, axis=1)
        slope = x.T @ (np.exp(log) - target)
        slope[1:] += w[1:]
        return float(-(target * log).sum() + 0.5 * (w[1:] ** 2).sum()), slope.ravel()

    found = minimize(cost, np.zeros(x.shape[1] * levels), jac=True, method="L-BFGS-B")
    return np.exp(log_softmax(x @ found.x.reshape(-1, levels), axis=1))
