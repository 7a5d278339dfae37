"""The page: sections as one HTML text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from deepnlme.errors import MissingExtraError
from deepnlme.report.elements import Block, Items, Listing, Missing, Part, Picture, Table, Text

NUMERIC = re.compile(r"^[\s\d.,+\-\u2013\u221e()<>=e%]*(to[\s\d.,+\-\u221e()e]*)?$|^fixed$|^[a-z]+ [+-]\d+\.\d+$")
"""What stands at the right of its column."""

WIDE = 10
"""Columns from which on a table is set smaller on paper."""


SHORT = 20
"""Rows up to which a table stays on one page."""


def environment() -> Any:
    """The jinja2 environment, everything escaped.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def render(parts: Sequence[Part], head: dict[str, str], left_out: Sequence[str]) -> str:
    """The page as HTML.

    Args:
        parts: Sections in order.
        head: title, author, date and the line that says what was run.
        left_out: Titles of what was not asked for.
    """
    folder = files("deepnlme.report")
    template = environment().from_string(folder.joinpath("page.html").read_text(encoding="utf-8"))
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    counts = {"Table": 0, "Figure": 0}
    sections = [_section(part, (i + 1,), counts) for i, part in enumerate(parts)]
    return template.render(sections=sections, head=head, left_out=left_out, style=style)


def _section(part: Part, number: tuple[int, ...], counts: dict[str, int]) -> dict[str, Any]:
    """A part with its number; tables and figures are counted in the order of the page."""
    return {
        "name": part.name,
        "number": ".".join(map(str, number)),
        "level": len(number) + 1,
        "title": part.title,
        "lead": part.lead,
        "blocks": [_block(block, counts) for block in part.blocks],
        "parts": [_section(inner, (*number, i + 1), counts) for i, inner in enumerate(part.parts)],
    }


def _block(block: Block, counts: dict[str, int]) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"kind": "text", "paragraphs": block.paragraphs}
    if isinstance(block, Missing):
        return {"kind": "missing", "text": block.text}
    if isinstance(block, Items):
        return {"kind": "items", "items": block.items, "alert": block.alert, "title": block.title}
    if isinstance(block, Listing):
        return {"kind": "listing", "code": block.code, "caption": block.caption}
    if isinstance(block, Picture):
        return {"kind": "picture", "label": _label("Figure", counts), "picture": block}
    return {"kind": "table", "label": _label("Table", counts), **_table(block)}


def _label(kind: str, counts: dict[str, int]) -> str:
    counts[kind] += 1
    return f"{kind} {counts[kind]}"


def _table(table: Table) -> dict[str, Any]:
    frame = table.frame
    right = [_is_number(frame.iloc[:, j].tolist()) for j in range(frame.shape[1])]
    rows = [
        [{"text": str(frame.iat[i, j]), "bold": (i, j) in table.bold} for j in range(frame.shape[1])]
        for i in range(len(frame))
    ]
    return {
        "columns": [str(c) for c in frame.columns],
        "right": right,
        "rows": rows,
        "caption": table.caption,
        "note": table.note,
        "wide": frame.shape[1] >= WIDE,
        "short": len(frame) <= SHORT,
    }


def _is_number(cells: list[str]) -> bool:
    return bool(cells) and all(NUMERIC.match(str(cell)) for cell in cells)
