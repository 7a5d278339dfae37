"""Records as a DataFrame with NONMEM's column names, which `read_nonmem` reads back to the same records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data.records import Records
from deepnlme.errors import DataError, invalid

ITEMS = (
    *("ID", "TIME", "DV", "EVID", "MDV", "AMT", "RATE", "DUR", "II", "ADDL", "SS", "CMT", "DVID"),
    *("CENS", "LIMIT", "OCC"),
)
"""The columns that have a meaning of their own; no covariate takes one of these names."""


def check_covariate_names(names: Sequence[str]) -> None:
    """Raise DataError if a covariate has the name of a data item, or two differ only in case."""
    folded: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name or name.strip() != name:
            raise DataError(invalid("covariates", repr(name), "A covariate has a name"))
        if name.upper() in ITEMS:
            other = f"{name}_value"
            fix = f"Give the covariate a name of its own: covariates=['{other}'], columns={{'{other}': '{name}'}}"
            raise DataError(invalid("covariates", repr(name), "This names a data item", fix=fix))
        if name.lower() in folded:
            raise DataError(invalid("covariates", f"{name!r} twice", "Each covariate is named once, in any case"))
        folded.add(name.lower())


def to_frame(
    records: Records, ids: Sequence[Any], categories: Mapping[str, tuple[str, ...]], occasions: tuple[str, ...]
) -> pd.DataFrame:
    """Lay out records as NONMEM does, leaving out the columns that say nothing.

    Args:
        records: N records of S subjects.
        ids: Identifiers of the subjects ([S]).
        categories: Labels of the text covariates.
        occasions: Labels of the occasions; none if there are no occasions.

    Returns:
        A frame with N rows: ID TIME DV EVID MDV, those of AMT RATE DUR II ADDL SS CMT DVID CENS LIMIT OCC that
        carry something, and the covariates under their own names.
    """
    r = records
    labels = np.empty(len(ids), dtype=object)
    labels[:] = list(ids)
    all_int = all(isinstance(i, int) and abs(i) < 2**63 for i in ids)
    columns: dict[str, Any] = {
        "ID": (labels.astype(np.int64) if all_int else labels)[r.subject],
        "TIME": r.time,
        "DV": r.dv,
        "EVID": r.evid,
        "MDV": (~r.observed).astype(np.int64),
    }
    for name, values in (("AMT", r.amt), ("RATE", r.rate), ("DUR", r.duration), ("II", r.ii), ("ADDL", r.addl)):
        columns |= {name: values} if np.any(values != 0) else {}
    columns |= {"SS": r.ss} if np.any(r.ss != 0) else {}
    columns |= {"CMT": _texts(r.cmt)} if np.any(r.cmt != "") else {}
    columns |= {"DVID": _texts(r.endpoint)} if np.any(r.endpoint != "") else {}
    if np.any(r.cens != 0):
        columns |= {"CENS": r.cens}
        columns |= {"LIMIT": r.limit} if not np.all(np.isnan(r.limit)) else {}
    if occasions:
        columns["OCC"] = _texts(np.array(occasions, dtype=str)[r.occasion])
    for name, values in r.covariates.items():
        levels = categories.get(name)
        columns[name] = np.array(levels, dtype=object)[values.astype(np.int64)] if levels else values
    return pd.DataFrame({name: np.array(values) for name, values in columns.items()})


def _texts(values: np.ndarray) -> Any:
    """Texts as whole numbers where all of them are, with missing ones if some are empty."""
    present = values[values != ""]
    if all(text.isdecimal() and str(int(text)) == text for text in np.unique(present).tolist()):
        numbers = [int(text) if text else None for text in values.tolist()]
        return pd.array(numbers, dtype="Int64") if len(present) < len(values) else np.array(numbers, dtype=np.int64)
    texts = np.empty(len(values), dtype=object)
    texts[:] = [text or None for text in values.tolist()]
    return texts
