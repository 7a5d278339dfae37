"""What a report is made of: parts with a title and a sentence that says what is seen, holding blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from deepnlme.errors import DeepNLMEError, MissingExtraError
from deepnlme.plots.style import pyplot


@dataclass(frozen=True)
class Text:
    """Paragraphs; an empty line begins a new one."""

    text: str

    @property
    def paragraphs(self) -> list[str]:
        """Its paragraphs, those without a letter left out."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Items:
    """A list; with `alert` it stands out as something to look at first."""

    items: tuple[str, ...]
    alert: bool = False
    title: str = ""


@dataclass(frozen=True)
class Missing:
    """Why something is not there."""

    text: str


@dataclass(frozen=True)
class Table:
    """Text by rows and columns; the first column names the row.

    Attributes:
        frame: Cells as they are shown.
        caption: What is shown.
        note: What has to be known to read it.
        bold: Cells (row, column) that stand out.
    """

    frame: pd.DataFrame
    caption: str
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI.

    Attributes:
        uri: The image.
        caption: What is shown.
        alt: The same for those who cannot see it.
        width, height: [CSS pixels].
    """

    uri: str
    caption: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Listing:
    """Source code."""

    code: str
    caption: str


Block = Text | Items | Missing | Table | Picture | Listing


@dataclass(frozen=True)
class Part:
    """A section.

    Attributes:
        name: By which it is asked for, and its anchor.
        title: Its heading.
        lead: What the reader sees in it, one sentence.
        blocks: Its content.
        parts: Sections inside it.
    """

    name: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
    parts: tuple[Part, ...] = ()


FAILURES = (DeepNLMEError, ArithmeticError, ValueError, RuntimeError)
"""What a computation on any data may end in."""


def attempt(what: str, build: Callable[[], Sequence[Block]]) -> list[Block]:
    """The blocks, or why they are not there: a numerical failure in one picture does not take the report with it.

    Args:
        what: What they show.
        build: Makes them.
    """
    plt = pyplot()
    before = plt.get_fignums()
    try:
        return list(build())
    except MissingExtraError:
        raise
    except FAILURES as error:
        for number in set(plt.get_fignums()) - set(before):
            plt.close(number)  # half drawn
        kind = "" if isinstance(error, DeepNLMEError) else f" {type(error).__name__}:"
        return [Missing(f"{what}: not available.{kind} {error}")]
