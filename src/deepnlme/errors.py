"""The package's exceptions and the one form their messages take."""

from __future__ import annotations

from typing import Any


class DeepNLMEError(Exception):
    """Base class of every error that the package raises on purpose."""


class DataError(DeepNLMEError, ValueError):
    """A data set, subject, dose or covariate that cannot mean what it says."""


class ModelError(DeepNLMEError, ValueError):
    """A model whose declarations, values or returned names do not fit together."""


class ConvergenceError(DeepNLMEError, RuntimeError):
    """A computation that did not reach its goal.

    Args:
        message: What failed, for whom, and what to try.
        result: What had been reached when it failed, or None.

    Attributes:
        result: The partial result, or None.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class MissingExtraError(DeepNLMEError, ImportError):
    """An optional dependency that is not installed.

    Args:
        package: The package that could not be imported.
        extra: The extra of deepnlme that installs it.

    Attributes:
        extra: The extra of deepnlme that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is needed here and is not installed. Install it with: pip install 'deepnlme[{extra}]'",
            name=package,
        )
        self.extra = extra


def invalid(what: str, got: Any, expected: str, where: str = "", fix: str = "") -> str:
    """Compose an error message: what is wrong, where, what was expected, what to do.

    Args:
        what: The column, argument or parameter.
        got: The offending value, shown as `str(got)`.
        expected: The rule that it breaks, a sentence.
        where: The subject, row or parameter, such as `subject 12, row 41 (time 6.0)`.
        fix: What the user can do, a sentence.

    Returns:
        The message.

    Example:
        >>> invalid("dv", -3.2, "LogNormal needs dv > 0", "subject 12, row 41 (time 6.0)", "Set MDV=1 on that record")
        'Invalid `dv`: got -3.2 for subject 12, row 41 (time 6.0). LogNormal needs dv > 0. Set MDV=1 on that record.'
    """
    head = f"Invalid `{what}`: got {got}" + (f" for {where}" if where else "")
    return " ".join(_sentence(part) for part in (head, expected, fix) if part)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."
