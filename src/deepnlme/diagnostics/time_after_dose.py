"""Time since the last dose."""

from __future__ import annotations

import numpy as np

from deepnlme.data import Records


def time_after_dose(records: Records) -> np.ndarray:
    """Time since the last dose of the subject at every record, additional doses (ADDL) included; lag times are not.

    The order of the records decides at the same time, as for the doses themselves; an additional dose at the time of
    a record comes before it. Before the first dose (and after a reset, until the next one) it is 0.

    Args:
        records: The records.

    Returns:
        Times (float [N]) [unit of time of the data].
    """
    out = np.zeros(len(records))
    resets = np.isin(records.evid, (3, 4))
    starts = records.starts
    for i in range(records.n_subjects):
        here = slice(starts[i], starts[i + 1])
        time, segment = records.time[here], np.cumsum(resets[here])
        dose = np.flatnonzero(records.doses[here])
        if not len(dose):
            continue
        first, ii, addl = time[dose], records.ii[here][dose], records.addl[here][dose]
        since = time[:, None] - first[None, :]
        given = (np.arange(len(time))[:, None] >= dose[None, :]) & (segment[:, None] == segment[dose][None, :])
        apart = np.where(ii > 0, ii, np.inf)
        number = np.minimum(np.floor(since / apart + 1e-9), addl)
        last = np.where(given, since - np.where(addl > 0, number * np.where(ii > 0, ii, 0.0), 0.0), np.inf)
        least = last.min(1)
        out[here] = np.where(np.isfinite(least), np.maximum(least, 0.0), 0.0)
    return out
