"""Checks of arguments that several diagnostics take."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepnlme.errors import ModelError, invalid


def check_level(level: Any) -> None:
    """Refuse what is no probability inside an interval."""
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ModelError(invalid("level", repr(level), "It is a number between 0 and 1", "", "For example 0.95"))


def check_whole(what: str, value: Any, least: int, fix: str = "") -> None:
    """Refuse what is no whole number, or one below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ModelError(invalid(what, repr(value), f"It is a whole number of at least {least}", fix=fix))


def check_mapping(what: str, value: Any, example: str) -> None:
    """Refuse what is no dictionary."""
    if not hasattr(value, "items"):
        raise ModelError(invalid(what, repr(value), "It is a dictionary by name", fix=f"For example {example}"))
