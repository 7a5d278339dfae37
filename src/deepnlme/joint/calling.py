"""How the methods of a model are called: in float64, and with plain Python refused."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deepnlme.errors import DeepNLMEError, ModelError

METHODS = ("individual", "observe", "dynamics", "initial", "dosing", "rates")


@contextmanager
def model_arithmetic() -> Iterator[None]:
    """Numbers made inside a model are float64, and torch's distributions do not raise for parameters out of range.

    ``torch.where(cond, 0.1, 0.3)`` would otherwise be float32. A search may pass through parameters that a distribution
    cannot have; it then needs a number that is not finite and a step to take back, not an error.
    """
    kind, checks = torch.get_default_dtype(), torch.distributions.Distribution._validate_args
    torch.set_default_dtype(torch.float64)
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.set_default_dtype(kind)
        torch.distributions.Distribution.set_default_validate_args(checks)


@contextmanager
def plain_python_refused() -> Iterator[None]:
    """Errors that a model's methods raise become a `ModelError` that names the method and the usual cause."""
    try:
        yield
    except DeepNLMEError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name in (*METHODS, "<lambda>")]
        where = f"`{frames[-1].name}`, line {frames[-1].lineno} ({frames[-1].line})" if frames else "one of its methods"
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ModelError(
            f"Invalid model: {where} raised {reason}. "
            "Inside a model every name is a batch of scalars: use torch functions (torch.exp, torch.clamp) instead of "
            "math, numpy, min and max, and torch.where instead of if."
        ) from error
