"""The events of every subject: the clock, the administrations, and the order of what happens at the same time."""

from __future__ import annotations

import numpy as np

from deepnlme.data.records import Records

MARK, DOSE, END, RESET, STEADY, PAD = 0, 1, 2, 3, 4, 5
"""What an event on the timeline is: a record, the start of a dose, the end of an infusion, a reset, the record of a
steady-state dose, nothing."""

_SAME_TIME = 1e-13
"""Relative difference below which an additional dose and a record are at the same time (rounding of TIME + n II)."""


def position_in_group(groups: np.ndarray) -> np.ndarray:
    """Running number of each entry within its (contiguous, sorted) group."""
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    first = np.r_[0, np.flatnonzero(np.diff(groups)) + 1]
    return np.arange(len(groups)) - np.repeat(first, np.diff(np.r_[first, len(groups)]))


def padded_index(groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """[n_groups, width] positions into the entries, padded with the group's last one, and which are valid."""
    count = np.bincount(groups, minlength=n_groups)
    start = np.r_[0, np.cumsum(count)[:-1]]
    slot = np.arange(int(count.max(initial=0)))[None, :]
    valid = slot < count[:, None]
    index = start[:, None] + np.minimum(slot, np.maximum(count[:, None] - 1, 0))
    return np.minimum(index, max(len(groups) - 1, 0)), valid


def continuous_clock(r: Records, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Time that never decreases within a subject, and what was added to the data's time to reach it."""
    offset = np.zeros(len(r.time))
    back = np.flatnonzero((np.diff(r.time) < 0) & (np.diff(r.subject) == 0)) + 1
    for i in back:  # rare: only where a reset restarts the clock
        offset[i : starts[r.subject[i] + 1]] += r.time[i - 1] - r.time[i]
    clock = r.time + offset
    for s in np.unique(r.subject[back]):  # rounding must not put a reset before the record that it follows
        here = slice(starts[s], starts[s + 1])
        clock[here] = np.maximum.accumulate(clock[here])
        offset[here] = clock[here] - r.time[here]
    return clock, offset


def expand_doses(
    r: Records, starts: np.ndarray, cmt: np.ndarray, segment: np.ndarray, clock: np.ndarray
) -> dict[str, np.ndarray]:
    """Every administration, additional doses included, as flat arrays sorted by subject, record, number."""
    main = np.flatnonzero(r.doses)
    last = clock[starts[1:] - 1][r.subject[main]]
    # additional doses after the subject's last record have no effect on anything
    useful = np.zeros(len(main), dtype=np.int64)
    has = r.addl[main] > 0
    useful[has] = np.minimum(r.addl[main][has], np.floor((last[has] - clock[main][has]) / r.ii[main][has] + 1e-9))
    record = np.repeat(main, 1 + useful)
    number = np.arange(len(record)) - np.repeat(np.cumsum(1 + useful) - (1 + useful), 1 + useful)
    extra = number > 0
    time = clock[record] + np.where(extra, number * r.ii[record], 0.0)
    effect = record - starts[r.subject[record]]
    for s in np.unique(r.subject[record[extra]]):
        here = np.flatnonzero(extra & (r.subject[record] == s))
        time[here], effect[here] = _among_records(time[here], clock[starts[s] : starts[s + 1]])
    return {
        "subject": r.subject[record],
        "record": record - starts[r.subject[record]],
        "effect": effect,
        "time": time,
        "amount": r.amt[record],
        "rate": r.rate[record],
        "duration": r.duration[record],
        "cmt": cmt[record],
        "segment": segment[record],
        "additional": extra,
        "ss": np.where(extra, 0, r.ss[record]),
        "ii": r.ii[record],
    }


def _among_records(time: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times of additional doses, equal to a record's where only rounding separates them; first record not before."""
    after = np.minimum(np.searchsorted(records, time), len(records) - 1)
    for near in (records[np.maximum(after - 1, 0)], records[after]):
        time = np.where(np.abs(near - time) <= _SAME_TIME * np.maximum(np.abs(time), 1.0), near, time)
    return time, np.minimum(np.searchsorted(records, time), len(records) - 1)


def occasion_numbers(r: Records) -> np.ndarray:
    """Occasions numbered from 0 within each subject, in order of appearance."""
    first = np.flatnonzero(np.r_[True, (np.diff(r.subject) != 0) | (np.diff(r.occasion) != 0)])
    seen: dict[tuple[int, int], int] = {}
    count: dict[int, int] = {}
    numbers = []
    for i in first:  # once per change of occasion, at packing only
        key = (int(r.subject[i]), int(r.occasion[i]))
        if key not in seen:
            seen[key] = count.get(key[0], 0)
            count[key[0]] = seen[key] + 1
        numbers.append(seen[key])
    return np.repeat(np.array(numbers, dtype=np.int64), np.diff(np.r_[first, len(r.subject)]))


def order_events(
    r: Records,
    n: int,
    starts: np.ndarray,
    doses: dict[str, np.ndarray],
    infusion: np.ndarray,
    resets: np.ndarray,
    marked: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Events of each row in the order that decides ties at equal times: see `deepnlme.dynamics.timeline`."""
    subject, key, kind, ref = [], [], [], []

    def add(who: np.ndarray, order: np.ndarray, what: int, index: np.ndarray) -> None:
        subject.append(who)
        key.append(order)
        kind.append(np.full(len(who), what))
        ref.append(index)

    record = np.arange(len(r.subject)) - starts[r.subject]
    index_in_row = position_in_group(doses["subject"])
    add(doses["subject"][infusion], np.full(int(infusion.sum()), -2), END, index_in_row[infusion])
    add(doses["subject"], np.where(doses["additional"], -1, 4 * doses["record"] + 2), DOSE, index_in_row)
    steady = np.flatnonzero(doses["ss"] > 0)
    add(doses["subject"][steady], 4 * doses["record"][steady] + 1, STEADY, index_in_row[steady])
    add(r.subject[marked], 4 * record[marked] + 3, MARK, record[marked])
    add(r.subject[resets], 4 * record[resets], RESET, position_in_group(r.subject[resets]))
    who, order = np.concatenate(subject), np.concatenate(key)
    rank = np.lexsort((order, who))
    position, valid = padded_index(who[rank], n)
    kinds = np.where(valid, np.concatenate(kind)[rank][position], PAD)
    return kinds, np.where(valid, np.concatenate(ref)[rank][position], 0)
