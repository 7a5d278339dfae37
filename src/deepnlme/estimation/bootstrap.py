"""The nonparametric bootstrap: subjects drawn with replacement, the model fitted again.

Source: Efron 1979, Ann Statist 7:1; Parke, Holford, Charles 1999, Comput Methods Programs Biomed 59:19.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from deepnlme.data import Population
from deepnlme.data.tensors import take_tensors
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation.draws import draws_table, natural_draws, rendered
from deepnlme.estimation.refit import Refit, refit, require_estimates
from deepnlme.estimation.refit_store import RefitStore
from deepnlme.estimation.result import Fit

FEW = 0.9
"""Share of refits that converged below which the table warns."""


@dataclass(frozen=True)
class Bootstrap:
    """What a bootstrap has found. `print(bootstrap)` shows the table.

    Attributes:
        fit: The fit of all subjects.
        free: [n, P] estimates of each sample on the free scale; NaN where a refit gave none.
        ofv: [n] OFV of each sample; not comparable from one to another.
        status: [n] "converged", or what went wrong.
        asked: Samples asked for; more than n after an interruption.
        seed: Of the resampling.
        stratify: The covariate within whose groups subjects were drawn, or None.
        keep_failed: Whether refits that gave estimates without converging are among the draws.
    """

    fit: Fit
    free: np.ndarray
    ofv: np.ndarray
    status: tuple[str, ...]
    asked: int
    seed: int
    stratify: str | None
    keep_failed: bool

    @property
    def converged(self) -> np.ndarray:
        """Whether each sample's refit converged, [n]."""
        return np.array([status == "converged" for status in self.status], dtype=bool)

    @property
    def kept(self) -> np.ndarray:
        """Whether each sample is among the draws, [n]."""
        return np.isfinite(self.free).all(1) & (self.converged | self.keep_failed)

    @property
    def free_draws(self) -> np.ndarray:
        """The draws on the free scale, weights of networks among them, [m, P]."""
        return self.free[self.kept]

    @property
    def draws(self) -> pd.DataFrame:
        """The draws on the natural scale: one row per sample that is kept, one column per estimated parameter."""
        return natural_draws(self.fit.joint.space, self.free_draws)

    def samples(self) -> pd.DataFrame:
        """Every sample: SAMPLE, STATUS, OFV and the estimates."""
        table = natural_draws(self.fit.joint.space, self.free)
        head = pd.DataFrame({"SAMPLE": np.arange(1, len(self.free) + 1), "STATUS": self.status, "OFV": self.ofv})
        return pd.concat([head, table], axis=1)

    def table(self) -> pd.DataFrame:
        """One row per parameter: Estimate, Bias, Bias%, SE, CI95 low, Median, CI95 high (percentiles of the draws)."""
        return draws_table(self.draws, self.fit.estimates)

    def __str__(self) -> str:
        done, good = len(self.status), int(self.converged.sum())
        among = f", drawn within groups of {self.stratify}" if self.stratify else ""
        lines = [f"Bootstrap of {self.fit!r}: {done} samples{among}, {good} converged"]
        if done < self.asked:
            lines.append(f"interrupted: {self.asked - done} of {self.asked} samples were not fitted")
        failed = Counter(status for status in self.status if status != "converged")
        lines += [f"{count} failed: {status}" for status, count in failed.most_common()]
        if failed:
            lost = "among the draws where they gave estimates" if self.keep_failed else "left out of the draws"
            lines.append(f"samples that did not converge are {lost}")
        if done and good < FEW * done:
            lines.append("warning: many refits failed; the intervals may be too narrow, and the model too rich")
        return "\n".join(lines) + "\n\n" + rendered(self.table())

    def __repr__(self) -> str:
        return f"<Bootstrap {len(self.status)} samples, {int(self.converged.sum())} converged>"


def bootstrap(
    fit: Fit,
    samples: int = 200,
    seed: int = 0,
    *,
    stratify: str | None = None,
    keep_failed: bool = False,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Bootstrap:
    """Resample subjects with replacement and fit the model to every sample, from the estimates.

    Sample b is drawn by the generator of (seed, b): the same call gives the same samples, and more samples go on from
    fewer. Ctrl-C returns what has been fitted so far.

    Args:
        fit: The fit; its model, method and options are used, without a covariance step.
        samples: Number of samples; 200 are enough for standard errors, 1000 for 95% intervals.
        seed: Of the resampling.
        stratify: A covariate of few values: each sample has as many subjects of each value (that of a subject's first
            record) as the data.
        keep_failed: Also use the estimates of refits that did not converge.
        checkpoint: File that keeps every sample as it is done; the same call goes on from it.
        progress: Show a progress bar.

    Returns:
        The bootstrap: `draws`, `table()`, `status`.

    Raises:
        ModelError: Not a fit with estimates, or arguments out of range; a checkpoint of another fit.
        DataError: No such covariate, or one of too many values; a checkpoint of other data.
    """
    require_estimates(fit, "A bootstrap")
    check_count("samples", samples)
    check_count("seed", seed, 0)
    groups = _strata(fit.population, stratify)
    store = RefitStore.open(checkpoint, fit, {"kind": "bootstrap", "seed": seed, "stratify": stratify})
    done: list[Refit] = [Refit(*row) for row in store.rows[:samples]]
    bar = tqdm(total=samples, initial=len(done), disable=not progress, desc="bootstrap", leave=False)
    try:
        for number in range(len(done), samples):
            drawn = _drawn(groups, np.random.default_rng([seed, number]))
            found = refit(fit, resampled(fit.population, drawn), fit.evaluation.z[0][drawn])
            done.append(Refit(found.free, found.ofv, found.status))
            store.add(found.free, found.ofv, found.status)
            bar.update()
    except KeyboardInterrupt:
        if not done:
            raise
    finally:
        bar.close()
    free, ofv = np.stack([d.free for d in done]), np.array([d.ofv for d in done])
    return Bootstrap(fit, free, ofv, tuple(d.status for d in done), samples, seed, stratify, keep_failed)


def resampled(population: Population, subjects: np.ndarray) -> Population:
    """The population of these subjects, who may repeat, with new ids 1 .. S.

    Args:
        population: The data.
        subjects: Positions, [S].
    """
    return Population.from_records(
        population.records.take_subjects(subjects),
        list(range(1, len(subjects) + 1)),
        categories=population.categories,
        occasions=population.occasions,
        interpolation=population.interpolation,
        tensors=take_tensors(population.tensors, subjects),
    )


def _drawn(groups: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """As many subjects of each group as it has, with replacement."""
    return np.concatenate([group[generator.integers(len(group), size=len(group))] for group in groups])


def _strata(population: Population, stratify: str | None) -> list[np.ndarray]:
    """Positions of the subjects of each group."""
    everyone = np.arange(len(population))
    if stratify is None:
        return [everyone]
    covariates = population.records.covariates
    if not isinstance(stratify, str) or stratify not in covariates:
        named = ", ".join(covariates) or "none: read_nonmem(..., covariates=[...])"
        raise DataError(invalid("stratify", repr(stratify), f"It is a covariate of the population ({named})"))
    value = covariates[stratify][population.starts[:-1]]
    levels, which = np.unique(value, return_inverse=True)
    if 2 * len(levels) > len(population) and len(levels) > 1:
        got = f"{stratify!r} with {len(levels)} values for {len(population)} subjects"
        fix = "Use a covariate with few values, or make one by cutting this one into bands"
        raise DataError(invalid("stratify", got, "Groups need several subjects each", fix=fix))
    return [everyone[which == i] for i in range(len(levels))]


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
        ModelError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ModelError(invalid(name, repr(value), f"It is a whole number of at least {least}"))
