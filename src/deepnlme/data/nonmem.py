"""Reading data sets in NONMEM's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from deepnlme.data import labels
from deepnlme.data.cells import Cells
from deepnlme.data.columns import Assignment, assign_columns
from deepnlme.data.covariates import covariate_requests, read_covariates
from deepnlme.data.population import Population
from deepnlme.data.records import Records
from deepnlme.data.subject import rules_of
from deepnlme.data.table import read_table
from deepnlme.errors import DataError, invalid


def read_nonmem(
    source: str | Path | TextIO | pd.DataFrame,
    covariates: Sequence[str] | Mapping[str, Any] = (),
    *,
    interpolation: str | Mapping[str, str] = "nocb",
    columns: Mapping[str, str | None] | None = None,
    endpoint: str | None = None,
    endpoints: Mapping[Any, str] | None = None,
    occasion: str | None = None,
    ignore: str | None = None,
    separator: str | None = None,
) -> Population:
    """Read a data set in NONMEM's format.

    A file is a header and one line per record; cells are separated by commas, semicolons, tabs or white space (as the
    header is). Column names are read in any case, with these synonyms: ID (subject, subj), TIME (t), DV (y, conc),
    EVID, MDV, AMT (amount), RATE, DUR (tinf), II, ADDL, SS, CMT (adm), DVID (ytype), CENS (blq), LIMIT, OCC. Cells that
    are empty, `.`, `NA` or `NaN` are missing. Nothing is dropped or inferred in silence: `print(population)` says it.

    - EVID absent: 1 where AMT or RATE is not 0, else 0, as NM-TRAN infers it. MDV absent: 1 where EVID is not 0.
      A record with EVID=0 and MDV=1 stays as a record without an observation.
    - CENS 1: the value is below DV (and above LIMIT, if given); -1: above DV (and below LIMIT).
    - DUR: duration of an infusion, whose rate is AMT/DUR.
    - Missing cells of RATE, DUR, II, ADDL and SS are 0, of CMT the default compartment.
    - Missing covariates are filled from the same subject's next, then previous record (NOCB), or previous, then next
      (LOCF, linear).

    Args:
        source: Path, open text file, or DataFrame.
        covariates: Names of the covariate columns (in any case; the names given here are kept). Columns of texts are
            coded by their sorted levels. As a mapping, `{"sex": {"female": 0, "male": 1}}` gives the values,
            `{"sex": ("female", "male")}` the order of the levels, `{"wt": None}` nothing more.
        interpolation: How covariates vary between records: "nocb" (NONMEM's: the value of a record holds on the
            interval that ends at it), "locf" or "linear"; one for all, or one per name.
        columns: Column by data item or covariate where the names do not say it, `{"dv": "LNDV"}`; None leaves an item
            out, `{"ss": None}`.
        endpoint: Column that tells the endpoints apart: by default DVID where there is one; "cmt" for CMT.
        endpoints: Names of the endpoints by their values in that column, `{1: "cp", 2: "pca"}`.
        occasion: Column of the occasions, by default OCC where there is one.
        ignore: Characters that mark comment lines, as NM-TRAN's IGNORE; `@` stands for any letter or @. By default
            lines that begin with # are skipped, and a file in which some records begin with a letter (so that
            NM-TRAN's usual IGNORE=@ would skip them) is refused unless the first column is one of known texts.
        separator: Character between the cells; a space stands for any white space. By default the header shows it.

    Returns:
        The population, its subjects in the order of the data.

    Raises:
        DataError: When the data do not have one clear meaning; the message names subject, row and column.

    Example:
        >>> frame = pd.DataFrame(dict(ID=[1, 1], TIME=[0, 1], AMT=[100, 0], DV=[None, 8.1], WT=[70, 70]))
        >>> print(read_nonmem(frame, covariates=["wt"]))
        Population: 1 subject, 2 records
          observations: 1, dv 8.1
          doses: 1 record, amt 100, total per subject 100
          covariate wt: 70, median 70; constant within subjects
          note: EVID inferred: 1 where AMT or RATE is not 0, else 0
          note: MDV inferred: 1 where EVID is not 0, else 0
    """
    requests = covariate_requests(covariates)
    rules = rules_of(tuple(requests), interpolation)
    table = read_table(source, ignore, separator)
    overrides, endpoint_item = _overrides(columns, endpoint, occasion, table.names)
    where = assign_columns(table.names, tuple(requests), overrides)
    used = {column for item, column in where.items.items() if item != "id"} | set(where.covariates.values())
    if table.doubt and table.names[0] not in used:
        raise DataError(table.doubt)
    if endpoint_item not in where.items and (endpoint is not None or endpoints):
        raise DataError(invalid("endpoint", repr(endpoint or "DVID"), "There is no such column"))
    cells = Cells(table)
    subject, ids = _subjects(cells, where.items["id"])
    events, notes = _events(cells, where)
    events["endpoint"] = _endpoints(cells, where, endpoint_item, endpoints, events["evid"] == 0)
    events["occasion"], occasions = _occasions(cells, where)
    values, categories, filled = read_covariates(cells, where.covariates, requests, rules, subject)
    records = Records(subject=subject, row=table.rows, covariates=values, **events)
    notes = (*table.notes, *where.notes, *notes, *filled)
    return Population.from_records(
        records, ids, categories=categories, occasions=occasions, interpolation=rules, notes=notes
    )


def _overrides(
    columns: Mapping[str, str | None] | None, endpoint: str | None, occasion: str | None, names: Sequence[str]
) -> tuple[dict[str, str | None], str]:
    """The overrides, with those of `endpoint` and `occasion`, and the item that names the endpoint."""
    overrides = dict(columns or {})
    if occasion is not None:
        overrides["occ"] = occasion
    if endpoint is None:
        return overrides, "dvid"
    if not isinstance(endpoint, str):
        raise DataError(invalid("endpoint", repr(endpoint), "It is the name of a column"))
    if endpoint.lower() == "cmt":
        return {**overrides, "dvid": None}, "cmt"
    return (overrides if endpoint.lower() == "dvid" else {**overrides, "dvid": endpoint}), "dvid"


def _subjects(cells: Cells, column: str) -> tuple[np.ndarray, list[int | str]]:
    """Index of the subject of each record, and the identifiers."""
    texts = cells.labels(column)
    if "" in texts:
        raise cells.refuse(texts.index(""), column, "Every record needs an identifier")
    known = {text: labels.identifier(text) for text in set(texts)}
    index: dict[str, int] = {}
    subject = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        if text in index and texts[i - 1] != text:
            last = max(k for k in range(i) if texts[k] == text)
            expected = "The records of a subject stand together, and its last one before is in row "
            raise cells.refuse(i, column, f"{expected}{cells.table.rows[last]}", "Sort the records by ID and TIME")
        subject[i] = index.setdefault(text, len(index))
    cells.ids = [known[text] for text in texts]
    return subject, [known[text] for text in index]


def _events(cells: Cells, where: Assignment) -> tuple[dict[str, Any], list[str]]:
    """The columns of `Records` that say what happened, and notes on what was inferred."""
    items, n, notes = where.items, len(cells.table), []
    zero, nan = np.zeros(n), np.full(n, np.nan)
    amt, rate, duration, ii = (cells.numbers(items[k]) if k in items else zero for k in ("amt", "rate", "dur", "ii"))
    addl, ss = (cells.whole(items[k]) if k in items else zero.astype(np.int64) for k in ("addl", "ss"))
    time, dv = cells.numbers(items["time"]), cells.numbers(items["dv"])
    evid = _evid(cells, where, amt, rate, notes)
    mdv = _mdv(cells, where, evid, notes)
    dose = (evid == 1) | (evid == 4)
    notes += _blank_dose_items(cells, items, dose)
    rate, duration, ii = (np.nan_to_num(values, nan=0.0, posinf=np.inf) for values in (rate, duration, ii))
    amt = np.where(np.isnan(amt) & ~dose, 0.0, amt)
    given = (duration > 0) & (rate == 0) & (amt > 0)
    rate = np.where(given, np.divide(amt, duration, out=zero.copy(), where=given), rate)
    observed = (evid == 0) & (mdv == 0)
    cens, limit = _censoring(cells, where, observed, nan, notes)
    at_zero = int(((cens == 1) & (dv == 0)).sum())
    if at_zero:
        notes.append(f"CENS=1 with DV=0 on {at_zero} record{'s' * (at_zero > 1)}: DV is the limit, so it is read as 0")
    return dict(
        time=time,
        dv=np.where(evid == 0, dv, np.nan),
        evid=evid,
        observed=observed,
        amt=amt,
        rate=rate,
        duration=duration,
        ii=ii,
        addl=addl,
        ss=ss,
        cmt=_compartments(cells, where),
        cens=cens,
        limit=limit,
    ), notes


def _evid(cells: Cells, where: Assignment, amt: np.ndarray, rate: np.ndarray, notes: list[str]) -> np.ndarray:
    if "evid" in where.items:
        fix = "Write 0 for an observation and 1 for a dose, or leave EVID out with columns={'evid': None}"
        return cells.whole(where.items["evid"], needed=np.ones(len(cells.table), dtype=bool), fix=fix)
    if "amt" in where.items or "rate" in where.items:
        notes.append("EVID inferred: 1 where AMT or RATE is not 0, else 0")
    else:
        notes.append("EVID inferred: 0, as there is no AMT")
    return ((np.nan_to_num(amt) != 0) | (np.nan_to_num(rate) != 0)).astype(np.int64)


def _mdv(cells: Cells, where: Assignment, evid: np.ndarray, notes: list[str]) -> np.ndarray:
    if "mdv" not in where.items:
        notes.append("MDV inferred: 1 where EVID is not 0, else 0")
        return (evid != 0).astype(np.int64)
    column = where.items["mdv"]
    fix = "Write 0 or 1, or leave MDV out with columns={'mdv': None}"
    mdv = cells.whole(column, needed=evid == 0, fix=fix)
    bad = np.flatnonzero((mdv != 0) & (mdv != 1))
    if len(bad):
        raise cells.refuse(int(bad[0]), column, "MDV is 0 (DV is an observation) or 1 (it is not)")
    ignored = int(((evid != 0) & (mdv == 0)).sum())
    if ignored:
        notes.append(f"MDV=0 on {ignored} record{'s' * (ignored > 1)} with EVID not 0: none of them is an observation")
    return mdv


def _blank_dose_items(cells: Cells, items: Mapping[str, str], dose: np.ndarray) -> list[str]:
    notes = []
    for item in ("rate", "dur", "ii", "addl", "ss"):
        if item in items:
            values = cells.numbers(items[item])
            blank = int((np.isnan(values) & dose).sum())
            if blank and np.any(np.nan_to_num(values) != 0):
                notes.append(f"{item.upper()} missing on {blank} dose record{'s' * (blank > 1)}: read as 0")
    return notes


def _censoring(
    cells: Cells, where: Assignment, observed: np.ndarray, nan: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    if "cens" not in where.items:
        if "limit" in where.items:
            notes.append(f"column {where.items['limit']} not used: there is no CENS")
        return np.zeros(len(nan), dtype=np.int64), nan
    fix = "Write 0 where the observation is not censored"
    cens = np.where(observed, cells.whole(where.items["cens"], needed=observed, fix=fix), 0)
    limit = cells.numbers(where.items["limit"]) if "limit" in where.items else nan
    return cens, np.where(cens != 0, limit, np.nan)


def _compartments(cells: Cells, where: Assignment) -> np.ndarray:
    """Numbers and names as text, "" for the default compartment: missing or 0."""
    if "cmt" not in where.items:
        return np.full(len(cells.table), "")
    column = where.items["cmt"]
    names = cells.labels(column, mixed=True)
    for i, name in enumerate(names):
        if labels.NUMBER.fullmatch(name) and isinstance(labels.identifier(name), str):
            raise cells.refuse(i, column, "A compartment is a whole number or a name")
    return np.array(["" if name == "0" else name for name in names], dtype=str)


def _endpoints(
    cells: Cells, where: Assignment, item: str, names: Mapping[Any, str] | None, observation: np.ndarray
) -> np.ndarray:
    """The endpoint of each record with EVID=0, "" elsewhere."""
    if item not in where.items:
        return np.full(len(observation), "")
    column = where.items[item]
    found = cells.labels(column, among=observation)
    if not names:
        return np.array(found, dtype=str)
    renamed = {labels.normalise(str(key).strip()): str(name) for key, name in names.items()} | {"": ""}
    for i, label in enumerate(found):
        if label not in renamed:
            raise cells.refuse(i, column, f"`endpoints` names {', '.join(map(str, names))}", "Name this one too")
    return np.array([renamed[label] for label in found], dtype=str)


def _occasions(cells: Cells, where: Assignment) -> tuple[np.ndarray, tuple[str, ...]]:
    """Code of the occasion of each record, and the labels of the occasions."""
    if "occ" not in where.items:
        return np.zeros(len(cells.table), dtype=np.int64), ()
    column = where.items["occ"]
    texts = cells.labels(column)
    if "" in texts:
        raise cells.refuse(texts.index(""), column, "Every record belongs to an occasion")
    levels = labels.ordered(texts)
    code = {label: position for position, label in enumerate(levels)}
    return np.array([code[text] for text in texts], dtype=np.int64), levels
