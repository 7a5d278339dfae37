"""Units of a network's inputs and outputs: weights of order one whatever the units of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepnlme.errors import ModelError


@dataclass(frozen=True)
class Scaling:
    """What a network sees is (input - input_center) / input_scale; what it gives is center + scale * activation.

    Each is a tuple with one number per input or output, or None where it is to be found from the data
    (until then 0 and 1 stand there).
    """

    input_center: tuple[float, ...] | None = None
    input_scale: tuple[float, ...] | None = None
    output_center: tuple[float, ...] | None = None
    output_scale: tuple[float, ...] | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be found from the data."""
        return None not in (self.input_center, self.input_scale, self.output_center, self.output_scale)

    def filled(self, **found: np.ndarray | tuple[float, ...]) -> Scaling:
        """With what is missing taken from `found`."""
        missing = {name: tuple(float(v) for v in value) for name, value in found.items() if getattr(self, name) is None}
        return replace(self, **missing)


def numbers_of(value: Any, size: int, name: str, positive: bool = False) -> tuple[float, ...] | None:
    """One number for all or one each, as a tuple of `size`; None stays None.

    Raises:
        ModelError: Another count, not finite, or not positive where it must be.
    """
    if value is None:
        return None
    try:
        found = np.broadcast_to(np.asarray(value, dtype=float), (size,))
    except (TypeError, ValueError):
        raise ModelError(f"Invalid `{name}`: got {value!r}, expected a number or {size} numbers.") from None
    if not np.isfinite(found).all() or (positive and (found <= 0).any()):
        raise ModelError(f"Invalid `{name}`: got {value!r}, expected {'positive' if positive else 'finite'} numbers.")
    return tuple(float(v) for v in found)
