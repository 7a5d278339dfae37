"""Times to an event: Kaplan-Meier curves of the data and of simulated sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics.cells import against
from deepnlme.diagnostics.order import interval
from deepnlme.diagnostics.replicated import Replicated
from deepnlme.errors import ModelError, invalid

POINTS = 101
"""Times at equal distances at which curves are compared, besides those of the observed events."""


def kaplan_meier(time: np.ndarray, event: np.ndarray, at: np.ndarray) -> np.ndarray:
    """S(t) = prod_{t_i <= t} (1 - d_i / n_i), events before censorings where times are equal.

    Args:
        time: Time of the event or of the censoring (float [..., n]).
        event: Whether it is an event (bool [..., n]).
        at: Times of the curve (float [G]).

    Returns:
        The curves ([..., G]).

    Source: Kaplan and Meier 1958, J Am Stat Assoc 53:457.
    """
    n = time.shape[-1]
    flat, happened = time.reshape(-1, n), event.reshape(-1, n)
    order = np.lexsort((~happened, flat), axis=-1)
    flat, happened = np.take_along_axis(flat, order, -1), np.take_along_axis(happened, order, -1)
    # d equal events in a row: (1 - 1/n)(1 - 1/(n-1))... = (n - d)/n
    survival = np.cumprod(np.where(happened, 1.0 - 1.0 / (n - np.arange(n)), 1.0), axis=-1)
    survival = np.concatenate([np.ones((len(flat), 1)), survival], axis=-1)
    before = np.stack([np.searchsorted(row, at, side="right") for row in flat])
    return np.take_along_axis(survival, before, -1).reshape(*time.shape[:-1], len(at))


def followed_until(found: Replicated, given: float | str | None) -> np.ndarray:
    """Until when each subject was observed, or would have been (float [N]).

    A subject whose time is censored was observed until then. For one with an event it is `given`; None is no end. As
    curves are compared up to the longest time in the data, an end that is the same for all makes no difference; one
    that differs between subjects makes the intervals wider.

    Raises:
        ModelError: A number or covariate that does not suit.
    """
    texts = found.simulation.population.categories
    covariates = {name: values for name, values in found.records.covariates.items() if name not in texts}
    if isinstance(given, str):
        if given not in covariates:
            expected = f"It is a time, or a covariate: {', '.join(covariates) or '(none in the data)'}"
            raise ModelError(invalid("follow_up", repr(given), expected))
        end = covariates[given][found.record]
    elif given is None:
        end = np.full(len(found.y), np.inf)
    elif isinstance(given, bool) or not isinstance(given, int | float | np.number) or not given > 0:
        raise ModelError(invalid("follow_up", repr(given), "It is a time, a covariate or None"))
    else:
        end = np.full(len(found.y), float(given))
    early = np.flatnonzero((found.cens == 0) & (found.y > end))
    if len(early):
        i = early[0]
        expected = f"The event of this subject was observed at {found.y[i]:g}"
        raise ModelError(invalid("follow_up", f"{end[i]:g}", expected, f"subject {found.ids[i]}"))
    return np.where(found.cens < 0, found.y, end)


def check_events(found: Replicated) -> None:
    """Refuse what is no time to one event.

    Raises:
        ModelError: Several times for a subject, a time that is not positive or that is censored from above.
    """
    several = np.flatnonzero(np.diff(found.subject) == 0)
    if len(several):
        where = f"subject {found.ids[several[0]]}"
        fix = "Several events per subject are not covered; use kind='continuous' for measurements"
        raise ModelError(invalid("kind", "'event'", "Each subject has one time here", where, fix))
    if (found.y <= 0).any():
        i = int(np.flatnonzero(found.y <= 0)[0])
        expected = "A time to an event is positive"
        raise ModelError(invalid(found.endpoint, f"{found.y[i]:g}", expected, f"subject {found.ids[i]}"))
    if (found.cens > 0).any():
        i = int(np.flatnonzero(found.cens > 0)[0])
        expected = "Curves of Kaplan and Meier need CENS=0 (event) or CENS=-1 (none until then)"
        raise ModelError(invalid("CENS", 1, expected, f"subject {found.ids[i]}"))


def survival_table(
    found: Replicated, labels: tuple[str, ...], stratum: np.ndarray, end: np.ndarray, level: float
) -> pd.DataFrame:
    """Kaplan-Meier curve of each stratum, and the interval of those of simulated sets censored at the follow-up.

    Args:
        found: The times.
        labels: Of the strata.
        stratum: Of each subject ([N]).
        end: Follow-up of each subject ([N]).
        level: Of the interval.

    Returns:
        STRATUM TIME AT_RISK OBSERVED SIM_LOW SIM_MEDIAN SIM_HIGH OUTSIDE; AT_RISK counts the observed subjects.
    """
    rows: list[dict[str, Any]] = []
    for s, label in enumerate(labels):
        own = np.flatnonzero(stratum == s)
        time, event = found.y[own], found.cens[own] == 0
        at = np.unique(np.concatenate([np.linspace(0.0, time.max(), POINTS), time[event]]))
        observed = kaplan_meier(time, event, at)
        drawn, until = found.simulated[:, own], end[own]
        ends = interval(kaplan_meier(np.minimum(drawn, until), drawn <= until, at), level)
        risk = (time[:, None] >= at).sum(0)
        for g, t in enumerate(at):
            first = {"STRATUM": label, "TIME": float(t), "AT_RISK": int(risk[g])}
            rows.append(first | against((observed[g], *(e[g] for e in ends))))
    return pd.DataFrame(rows)
