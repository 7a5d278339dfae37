"""Names that remember which of them were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepnlme.axes import Names


class Reading(Names):
    """Names that note what is read of them.

    Args:
        kind: As of `Names`.
        values: As of `Names`.
        read: Where the names go.
    """

    __slots__ = ("_read",)

    def __init__(self, kind: str, values: Mapping[str, Any], read: set[str]):
        super().__init__(kind, values)
        object.__setattr__(self, "_read", read)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        self._read.add(name)
        return value
