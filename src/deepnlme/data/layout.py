"""What a model needs to know of the data, and how compartments and endpoints are matched with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepnlme.data.population import Population
from deepnlme.errors import DataError


@dataclass(frozen=True)
class Layout:
    """What a model needs to know of the data to pack it.

    Attributes:
        compartments: Names, in the order of NONMEM's numbers.
        dose_compartment: Where doses without CMT go.
        endpoints: Names of the observed quantities.
        covariates: Names of the covariates to pack.
        occasions: Whether occasions matter.
        any_infusion: Whether doses without RATE may become infusions (a modelled duration).
        tensors: Names of the tensors to pack.
    """

    compartments: tuple[str, ...]
    dose_compartment: int
    endpoints: tuple[str, ...]
    covariates: tuple[str, ...]
    occasions: bool = False
    any_infusion: bool = False
    tensors: tuple[str, ...] = ()


def _where(population: Population, record: int) -> str:
    r = population.records
    return f"subject {population.ids[r.subject[record]]}, row {r.row[record]} (time {r.time[record]:g})"


def compartment_index(population: Population, layout: Layout) -> np.ndarray:
    """Index of the compartment of every record's dose, [N_records]; -1 for records that do not dose."""
    r = population.records
    out = np.full(len(r.time), -1)
    dosing = np.isin(r.evid, (1, 4))
    for text in np.unique(r.cmt[dosing]):
        rows = np.flatnonzero(dosing & (r.cmt == text))
        number = int(text) if text.isdigit() else None
        if text in ("", "0"):
            index = layout.dose_compartment
        elif text in layout.compartments:
            index = layout.compartments.index(text)
        elif number is not None and 1 <= number <= len(layout.compartments):
            index = number - 1
        else:
            named = ", ".join(f"{i + 1} ({c})" for i, c in enumerate(layout.compartments)) or "(none)"
            raise DataError(
                f"Invalid `CMT`: got {text} for {_where(population, rows[0])}, expected one of {named}: "
                "the compartments of the model's dynamics."
            )
        out[rows] = index
    if dosing.any() and not layout.compartments:
        raise DataError(
            f"Invalid dose for {_where(population, int(np.flatnonzero(dosing)[0]))}: the model has no dynamics, so a "
            "dose has nowhere to go. Declare dynamics, or drop the dose records."
        )
    return out


def endpoint_index(population: Population, layout: Layout) -> np.ndarray:
    """Index of the endpoint of every observation, [N_records]; -1 for records that are not observations.

    Names are matched as they are; endpoints that are numbers 1, 2, ... are matched with the model's by position. A
    single endpoint without a name, or with a number, is the model's single one; a model's single endpoint ``dv`` is
    whatever the data have.
    """
    r = population.records
    out = np.full(len(r.time), -1)
    rows = np.flatnonzero(r.observed)
    found = [str(text) for text in np.unique(r.endpoint[rows])]
    numbered = all(t.isdigit() and 1 <= int(t) <= len(layout.endpoints) for t in found)
    anything = layout.endpoints == ("dv",)
    for text in found:
        here = rows[r.endpoint[rows] == text]
        if text in layout.endpoints:
            index = layout.endpoints.index(text)
        elif len(layout.endpoints) == 1 and len(found) == 1 and (text == "" or text.isdigit() or anything):
            index = 0
        elif text != "" and numbered:
            index = int(text) - 1
        else:
            raise DataError(
                f"Invalid endpoint: got {text or '(none)'!r} for {_where(population, int(here[0]))}, expected one of "
                f"{', '.join(layout.endpoints)}: the names that the model's `observe` returns. "
                'Give read_nonmem endpoints={1: "%s", ...}, or select the records.' % layout.endpoints[0]
            )
        out[here] = index
    return out
