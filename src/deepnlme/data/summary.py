"""What a population holds, in words: the text that `print(population)` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deepnlme.data.records import Records
from deepnlme.data.tensors import Tensors, describe_tensors


def describe(
    records: Records,
    categories: Mapping[str, tuple[str, ...]],
    occasions: tuple[str, ...],
    interpolation: Mapping[str, str],
    notes: Sequence[str],
    tensors: Tensors,
) -> str:
    """Describe records: counts and ranges of everything that was read.

    Args:
        records: N records.
        categories: Labels of the text covariates.
        occasions: Labels of the occasions.
        interpolation: Rule of each covariate.
        notes: Remarks of the reader, shown at the end.
        tensors: Arrays by name, one per subject.

    Returns:
        The description, one fact a line.
    """
    lines = [f"Population: {_count(records.n_subjects, 'subject')}, {_count(len(records), 'record')}"]
    lines += _observations(records) + _doses(records) + _others(records)
    if occasions:
        lines.append(f"  occasions: {_few(occasions)}")
    lines += [_covariate(records, name, categories.get(name), rule) for name, rule in interpolation.items()]
    lines += describe_tensors(tensors)
    return "\n".join(lines + [f"  note: {note}" for note in notes])


def time_varying(records: Records, name: str) -> int:
    """Number of subjects in whom a covariate changes from record to record."""
    values = records.covariates[name]
    changes = (np.diff(values) != 0) & (np.diff(records.subject) == 0)
    return len(np.unique(records.subject[1:][changes]))


def _observations(r: Records) -> list[str]:
    if not r.observed.any():
        return ["  observations: none"]
    lines = []
    for endpoint in np.unique(r.endpoint[r.observed]).tolist():
        mine = r.observed & (r.endpoint == endpoint)
        exact = mine & (r.cens == 0)
        text = f"  observations{' of ' + endpoint if endpoint else ''}: {mine.sum()}"
        text += f", dv {_range(r.dv[exact])}" if exact.any() else ""
        for sign, side in ((1, "below"), (-1, "above")):
            cut = mine & (r.cens == sign)
            if cut.any():
                text += f", {cut.sum()} {side} the limit of quantification ({_range(r.dv[cut])})"
        lines.append(text)
    without = r.n_subjects - len(np.unique(r.subject[r.observed]))
    return lines + ([f"  {_count(without, 'subject')} without any observation"] if without else [])


def _doses(r: Records) -> list[str]:
    if not r.doses.any():
        return ["  doses: none"]
    times = r.addl[r.doses] + 1
    text = f"  doses: {_count(int(r.doses.sum()), 'record')}"
    extra = int(times.sum() - len(times))
    parts = [
        f"{_count(extra, 'additional dose')} by ADDL" if extra else "",
        _count(int((r.doses & (r.rate != 0)).sum()), "infusion") if np.any(r.doses & (r.rate != 0)) else "",
        f"{(r.doses & (r.ss > 0)).sum()} at steady state" if np.any(r.ss > 0) else "",
        f"amt {_range(r.amt[r.doses])}",
    ]
    totals = np.bincount(r.subject[r.doses], weights=r.amt[r.doses] * times, minlength=r.n_subjects)
    parts.append(f"total per subject {_range(totals)}")
    lines = [", ".join([text, *(part for part in parts if part)])]
    compartments = np.unique(r.cmt[r.doses]).tolist()
    return lines + (
        [f"  doses into compartment: {_few([c or 'default' for c in compartments])}"] if any(compartments) else []
    )


def _others(r: Records) -> list[str]:
    kinds = (
        (r.evid == 2, "other events (EVID=2)"),
        (r.evid == 3, "resets (EVID=3)"),
        (r.evid == 4, "resets with a dose (EVID=4), counted among the doses"),
        ((r.evid == 0) & ~r.observed, "observation records without a value (MDV=1)"),
    )
    return [f"  {text}: {mask.sum()}" for mask, text in kinds if mask.any()]


def _covariate(r: Records, name: str, levels: tuple[str, ...] | None, rule: str) -> str:
    values = r.covariates[name]
    varying = time_varying(r, name)
    first = values[np.diff(r.subject, prepend=-1) != 0]
    if levels:
        counts = np.bincount(first.astype(np.int64), minlength=len(levels))
        shown = [f"{label} = {code} in {_count(int(counts[code]), 'subject')}" for code, label in enumerate(levels)]
        text = ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
        text += " (at the first record)" if varying else ""
    else:
        text = f"{_range(values)}, median {np.median(first):.6g}"
    change = f"varies within {_count(varying, 'subject')} ({rule})" if varying else "constant within subjects"
    return f"  covariate {name}: {text}; {change}"


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _few(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f", ... ({len(items)} in all)" if len(items) > most else "")
