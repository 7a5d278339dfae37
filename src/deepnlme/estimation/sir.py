"""Sampling importance resampling: the uncertainty of the parameters without the assumption that it is normal.

Source: Dosne, Bergstrand, Harling, Karlsson 2016, J Pharmacokinet Pharmacodyn 43:583.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import chi2
from tqdm.auto import tqdm

from deepnlme.errors import ModelError, invalid
from deepnlme.estimation.bootstrap import Bootstrap, check_count
from deepnlme.estimation.draws import draws_table, natural_draws, rendered
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.refit import require_estimates
from deepnlme.estimation.result import Fit

AT_ONCE = 50
"""Parameter vectors in one evaluation of the objective."""

LEAST_EFFECTIVE = 0.1
"""Effective share of the samples below which the result warns."""

PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the quantiles by which distributions of dOFV are compared."""


@dataclass(frozen=True)
class SIR:
    """What sampling importance resampling has found. `print(sir)` shows the table.

    Attributes:
        fit: The fit.
        free: [M, P] samples of the proposal on the free scale.
        dofv: [M] OFV (and penalty of priors) above that of the fit; infinite where it could not be computed.
        log_weights: [M] log of the importance ratios, likelihood over proposal, up to a constant.
        chosen: [m] positions of the resampled samples, which may repeat.
        inflation: Of the proposal's covariance.
        seed: Of the draws.
    """

    fit: Fit
    free: np.ndarray
    dofv: np.ndarray
    log_weights: np.ndarray
    chosen: np.ndarray
    inflation: float
    seed: int

    @cached_property
    def weights(self) -> np.ndarray:
        """Importance ratios that add up to one, [M]."""
        return _normalised(self.log_weights)

    @property
    def effective_samples(self) -> float:
        """1 / sum of the squared weights: as many draws from the likelihood itself would say as much."""
        return float(1.0 / np.sum(self.weights**2))

    @property
    def free_draws(self) -> np.ndarray:
        """The draws on the free scale, weights of networks among them, [m, P]."""
        return self.free[self.chosen]

    @property
    def draws(self) -> pd.DataFrame:
        """The draws on the natural scale: one row per resample, one column per estimated parameter."""
        return natural_draws(self.fit.joint.space, self.free_draws)

    def table(self) -> pd.DataFrame:
        """One row per parameter: Estimate, Bias, Bias%, SE, CI95 low, Median, CI95 high (percentiles of the draws)."""
        return draws_table(self.draws, self.fit.estimates)

    def dofv_table(self) -> pd.DataFrame:
        """Quantiles of dOFV of proposal and resamples beside chi2, the law that theory gives; a row per probability.

        The mean of a chi2 is its degrees of freedom: about P for the resamples. A proposal whose
        quantiles are below those of the resamples is too narrow: inflate it. One far above wastes samples.
        """
        finite = self.dofv[np.isfinite(self.dofv)]
        return pd.DataFrame(
            {
                "Proposal": [*np.quantile(finite, PROBABILITIES), finite.mean()],
                "Resamples": [*np.quantile(self.dofv[self.chosen], PROBABILITIES), self.dofv[self.chosen].mean()],
                "chi2": [*chi2.ppf(PROBABILITIES, len(self.fit.free)), float(len(self.fit.free))],
            },
            index=pd.Index([*(f"{100 * p:g}%" for p in PROBABILITIES), "mean"], name="dOFV"),
        )

    def __str__(self) -> str:
        m = len(self.free)
        lines = [
            f"SIR of {self.fit!r}: {m} samples, {len(self.chosen)} resamples "
            f"({len(np.unique(self.chosen))} different), inflation {self.inflation:g}",
            f"effective sample size {self.effective_samples:.0f}, largest weight {100 * self.weights.max():.1f}%",
        ]
        lost = int((~np.isfinite(self.dofv)).sum())
        if lost:
            lines.append(f"{lost} samples without a likelihood (weight zero)")
        lower = float(self.dofv.min())
        if lower < -0.1:
            lines.append(f"warning: a sample is better than the fit by {-lower:.3g} OFV units; fit again from there")
        if self.effective_samples < LEAST_EFFECTIVE * m:
            lines.append("warning: few samples carry the weight; use more samples, or another inflation")
        parts = ["\n".join(lines), rendered(self.table()), rendered(self.dofv_table())]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"<SIR {len(self.free)} samples, {len(self.chosen)} resamples, effective {self.effective_samples:.0f}>"


def sir(
    fit: Fit,
    samples: int = 1000,
    resamples: int = 500,
    inflation: float = 1.0,
    seed: int = 0,
    *,
    proposal: Bootstrap | np.ndarray | None = None,
    progress: bool = True,
) -> SIR:
    """Draw parameters near the estimates and resample them with the weights that the likelihood gives.

    Samples u of a normal proposal on the free scale, N(estimates, inflation C), get the weights exp(-dOFV / 2) / q(u),
    each with its own OFV; `resamples` of them are drawn in proportion (systematic resampling, with replacement). The
    draws then have the density of the likelihood, times that of the priors, flat on the free scale: the logarithm of
    positive parameters.

    Args:
        fit: The fit, with a covariance step that succeeded or a `proposal`.
        samples: Samples of the proposal, M; one evaluation of the OFV each.
        resamples: Draws, m; M / m of 2 and more.
        inflation: Factor on the covariance of the proposal; above 1 where tails are too thin.
        seed: Of the draws.
        proposal: Where C comes from if not from the covariance step: a bootstrap (30 samples or more), or a matrix
            [P, P] on the free scale.
        progress: Show a progress bar.

    Returns:
        The draws with their weights, effective sample size and the check of dOFV.

    Raises:
        ModelError: No covariance to propose from, or arguments out of range.
    """
    require_estimates(fit, "Sampling importance resampling")
    check_count("samples", samples)
    check_count("resamples", resamples)
    check_count("seed", seed, 0)
    if isinstance(inflation, bool) or not isinstance(inflation, int | float) or not 0 < inflation < math.inf:
        raise ModelError(invalid("inflation", repr(inflation), "It is a positive number"))
    if resamples > samples:
        fix = "Ask for more samples, or fewer resamples"
        raise ModelError(invalid("resamples", resamples, f"There are {samples} samples to choose from", fix=fix))
    lower = np.linalg.cholesky(_proposal(fit, proposal)) * math.sqrt(inflation)
    generator = np.random.default_rng([seed, 0])
    white = generator.standard_normal((samples, len(fit.free)))
    free = fit.free + white @ lower.T
    dofv = _dofv(fit, free, progress)
    log_weights = -0.5 * dofv + 0.5 * (white**2).sum(1)
    if not np.isfinite(dofv).any():
        fix = "Use a smaller inflation, or another proposal"
        raise ModelError(invalid("proposal", f"{samples} samples without a likelihood", "Some need one", fix=fix))
    chosen = _systematic(_normalised(log_weights), resamples, generator)
    return SIR(fit, free, dofv, log_weights, chosen, float(inflation), seed)


def _proposal(fit: Fit, given: Bootstrap | np.ndarray | None) -> np.ndarray:
    """Covariance on the free scale, positive definite, [P, P]."""
    p = len(fit.free)
    advice = 'Use proposal= with a bootstrap (dn.bootstrap) or fit.with_covariance("R"), "S"'
    if given is None:
        if fit.covariance is None:
            fix = f"Use fit.with_covariance(). {advice}"
            raise ModelError(invalid("fit", "no covariance step", "The proposal comes from it", fix=fix))
        if not fit.covariance.ok:
            raise ModelError(invalid("fit", "a failed covariance step", fit.covariance.message, fix=advice))
        found, where = fit.covariance.free, f"the covariance step ({fit.covariance.kind})"
    elif isinstance(given, Bootstrap):
        draws = given.free_draws
        found = np.cov(draws.T).reshape(p, p) if len(draws) > 1 and draws.shape[1] == p else np.zeros((p, p))
        where = f"a bootstrap of {len(draws)} samples"
    else:
        found, where = np.asarray(given, dtype=float), "the matrix given"
        if found.shape != (p, p) or not np.allclose(found, found.T):
            raise ModelError(invalid("proposal", f"shape {found.shape}", f"It is a symmetric matrix ({p}, {p})"))
    scale = np.sqrt(np.diag(found).clip(1e-300))
    if not np.isfinite(found).all() or np.linalg.eigvalsh(found / np.outer(scale, scale)).min() < 1e-10:
        expected = "The covariance of the proposal has to be positive definite"
        raise ModelError(invalid("proposal", f"a singular matrix from {where}", expected, fix=advice))
    return found


def _dofv(fit: Fit, free: np.ndarray, progress: bool) -> np.ndarray:
    """OFV and penalty of each vector [M, P] above those of the fit, [M]; infinite where modes were not found."""
    objective = fit.objective()
    here = float(objective(fit.free).value[0])
    objective.remember()
    out = np.empty(len(free))
    with tqdm(total=len(free), disable=not progress, desc="SIR", leave=False) as bar:
        for start in range(0, len(free), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found = objective(free[part])
            lost = (found.status == EBEStatus.NOT_FINITE).any(1) | ~np.isfinite(found.value)
            out[part] = np.where(lost, math.inf, found.value - here)
            bar.update(len(found.ofv))
    return out


def _normalised(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def _systematic(weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` positions in proportion to the weights, by one uniform draw and equal steps, in random order."""
    places = (generator.random() + np.arange(count)) / count
    found = np.searchsorted(np.cumsum(weights), places * (1.0 - 1e-12), side="right")
    return generator.permutation(np.minimum(found, len(weights) - 1))
