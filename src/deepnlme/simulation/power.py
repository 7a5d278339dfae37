"""Power of a test over replicated virtual trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError, invalid
from deepnlme.simulation.proportions import check_share, clopper_pearson
from deepnlme.simulation.result import Simulation


@dataclass(frozen=True)
class Power:
    """What a test found in replicated trials.

    Attributes:
        power: Share of the trials in which the test rejected; a trial whose test failed counts as not rejected.
        low, high: Exact (Clopper-Pearson) confidence interval of the power.
        rejected: Number of trials in which the test rejected.
        trials: Number of trials, those whose test failed among them.
        failures: What went wrong, by replicate (counted from 1), where a test failed.
        p_values: p-value of each trial, NaN where there is none ([R]).
        alpha: Level of the test.
        level: Confidence level.
    """

    power: float
    low: float
    high: float
    rejected: int
    trials: int
    failures: dict[int, str]
    p_values: np.ndarray
    alpha: float
    level: float

    @property
    def failed(self) -> int:
        """Number of trials whose test failed."""
        return len(self.failures)

    def __str__(self) -> str:
        text = (
            f"power {self.power:.3f} ({100 * self.level:g}% CI {self.low:.3f} - {self.high:.3f}): "
            f"rejected in {self.rejected} of {self.trials} trials at alpha {self.alpha:g}"
        )
        if self.failures:
            replicate, reason = next(iter(self.failures.items()))
            text += (
                f"\nthe test failed in {self.failed} trials, counted as not rejected; in trial {replicate}: {reason}"
            )
        return text


def trial_power(
    sim: Simulation | pd.DataFrame,
    test: Callable[[pd.DataFrame], Any],
    alpha: float = 0.05,
    level: float = 0.95,
) -> Power:
    """Power of a test: the share of replicated trials in which it rejects.

    Under a null hypothesis (no effect in the model that was simulated) it is the type-I error.

    Args:
        sim: A simulation whose replicates are trials; or a table with a column REP, such as `exposure` gives.
        test: Called once for each trial with its table, as `Simulation.table` gives (or the rows of the given table),
            returns a p-value, or a bool that says whether it rejects.
        alpha: The test rejects when p <= alpha.
        level: Confidence level of the power's interval.

    Returns:
        The power with its interval, and how many tests failed (raised an error or returned NaN).

    Raises:
        ModelError: The test returns something else, or failed in every trial.
    """
    check_share("alpha", alpha)
    check_share("level", level)
    if not callable(test):
        raise ModelError(invalid("test", repr(test), "It is a function of a trial's table that returns a p-value"))
    p_values, rejected, failures = [], [], {}
    for replicate, table in _trials(sim):
        try:
            answer = test(table)
        except Exception as error:
            failures[replicate] = f"{type(error).__name__}: {error}"
            answer = np.nan
        p, rejects = _judged(answer, alpha, replicate)
        p_values.append(p)
        rejected.append(rejects)
        if rejects is None:
            failures.setdefault(replicate, "the p-value is NaN")
    trials, count = len(p_values), sum(bool(r) for r in rejected)
    if len(failures) == trials:
        got = f"a failure in each of {trials} trials"
        raise ModelError(invalid("test", got, f"In the first: {next(iter(failures.values()))}"))
    low, high = clopper_pearson(count, trials, level)
    return Power(count / trials, low, high, count, trials, failures, np.array(p_values), alpha, level)


def _trials(sim: Any) -> Iterator[tuple[int, pd.DataFrame]]:
    """Replicate (from 1) and table of each trial."""
    if isinstance(sim, Simulation):
        for i in range(sim.replicates):
            yield i + 1, sim.table(i)
    elif isinstance(sim, pd.DataFrame) and "REP" in sim.columns and len(sim):
        for replicate, rows in sim.groupby("REP", sort=True).indices.items():
            yield int(replicate), sim.iloc[rows].reset_index(drop=True)  # type: ignore[arg-type]
    else:
        got = "a table without REP or rows" if isinstance(sim, pd.DataFrame) else type(sim).__name__
        raise ModelError(invalid("sim", got, "It is a Simulation, or a table with a column REP"))


def _judged(answer: Any, alpha: float, replicate: int) -> tuple[float, bool | None]:
    """The p-value (NaN where the test gave none) and whether it rejects (None where the test failed)."""
    if isinstance(answer, bool | np.bool_):
        return float("nan"), bool(answer)
    if not isinstance(answer, int | float | np.integer | np.floating) or answer < 0 or answer > 1:
        expected = "A test returns a p-value between 0 and 1, or whether it rejects"
        raise ModelError(invalid("test", repr(answer), expected, f"replicate {replicate}"))
    return float(answer), None if np.isnan(answer) else bool(answer <= alpha)
