"""Axes of every tensor in the package, and the namespace through which a model sees them.

A *row* is one subject under one set of population parameters. Tensors carry, from the left:

    [K, R, T]        K  direction: copies of the rows, one for each random effect that is differentiated
                     R  row
                     T  time: record, observation or event; length 1 for what is constant in time
    [K, R, T, M]     a vector of M components for each of them (``eta.latent``)

A scalar of a model always has exactly three axes and a vector four, so that the two cannot be confused;
axes of length 1 broadcast. Inside a model every name is "a batch of scalars" and no axis is ever named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deepnlme.errors import ModelError

SCALAR_NDIM = 3
"""Number of axes of a batch of scalars: direction, row, time."""


class Names(Mapping[str, Any]):
    """Read-only values by name, as attributes: ``theta.ka``, ``p.cl``, ``x.central``.

    Args:
        kind: What the names are, for error messages ("theta", "eta", ...).
        values: The values by name.

    Raises:
        ModelError: On reading a name that does not exist (the message lists those that do).
    """

    __slots__ = ("_kind", "_values")

    def __init__(self, kind: str, values: Mapping[str, Any]):
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_values", dict(values))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise ModelError(
                f"Invalid name `{self._kind}.{name}`: there is no such name, expected one of "
                f"{', '.join(self._values) or '(none)'}. {self._fix(name)}"
            ) from None

    def _fix(self, name: str) -> str:
        if self._kind == "cov":
            return (
                f'Read it with read_nonmem(..., covariates=["{name}"]), give it to virtual_population(covariates='
                f'{{"{name}": ...}}) or population.with_tensors({name}=...), or correct the spelling.'
            )
        return "Declare it or correct the spelling."

    def __setattr__(self, name: str, value: Any) -> None:
        raise ModelError(
            f"Invalid assignment to `{self._kind}.{name}`: {self._kind} is read-only. Use a local variable instead."
        )

    def __getitem__(self, name: str) -> Any:
        return self.__getattr__(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"{self._kind}({', '.join(self._values)})"
