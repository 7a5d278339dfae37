"""Any linear system by the matrix exponential."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.dynamics.compartments import Entries
from deepnlme.errors import ModelError

OUT = "out"
"""Destination of what leaves the body."""


@dataclass(frozen=True)
class LinearSystem:
    """Amounts that move between named compartments at rates proportional to the amount: x' = K x + input.

    Solved by the matrix exponential, E(tau) = exp(K tau); an infusion by that of [[K, I], [0, 0]].

    Args:
        *compartments: Names, in the order of NONMEM's numbers; doses without CMT go to the first.
        rates: Function of the individual parameters that returns {(from, to): rate constant [1/time]}; `to` is a
            compartment or "out". Entries not named are zero.

    Example:
        >>> transit = LinearSystem(
        ...     "depot", "transit", "central",
        ...     rates=lambda p: {
        ...         ("depot", "transit"): p.ktr, ("transit", "central"): p.ktr, ("central", "out"): p.cl / p.v
        ...     },
        ... )
        >>> transit.compartments
        ('depot', 'transit', 'central')
    """

    compartments: tuple[str, ...]
    rates: Callable[[Any], Mapping[tuple[str, str], Tensor]]

    def __init__(self, *compartments: str, rates: Callable[[Any], Mapping[tuple[str, str], Tensor]]):
        if not compartments or len(set(compartments)) != len(compartments) or OUT in compartments:
            raise ModelError(
                f"Invalid compartments: got {compartments!r}, expected different names, none of them {OUT!r}."
            )
        object.__setattr__(self, "compartments", tuple(compartments))
        object.__setattr__(self, "rates", rates)

    absorption = None
    requires: tuple[str, ...] = ()

    def matrix(self, p: Any) -> Tensor:
        """K, [*lead, n, n], from the rates; `lead` is their broadcast shape."""
        n = len(self.compartments)
        position = {name: i for i, name in enumerate(self.compartments)}
        entries: dict[tuple[int, int], Tensor] = {}
        for key, value in self.rates(p).items():
            if not (isinstance(key, tuple) and len(key) == 2 and key[0] in position and key[1] in (*position, OUT)):
                raise ModelError(
                    f"Invalid rate: got {key!r}, expected (from, to) with compartments "
                    f"{', '.join(self.compartments)} (to may be {OUT!r})."
                )
            if key[0] == key[1]:
                raise ModelError(f"Invalid rate: got {key!r}, expected two different compartments.")
            rate = torch.as_tensor(value, dtype=torch.float64)
            i = position[key[0]]
            entries[i, i] = entries[i, i] - rate if (i, i) in entries else -rate
            if key[1] != OUT:
                j = position[key[1]]
                entries[j, i] = entries[j, i] + rate if (j, i) in entries else rate
        if not entries:
            raise ModelError("Invalid rates: the function returned none, expected {(from, to): rate}.")
        lead = np.broadcast_shapes(*(v.shape for v in entries.values()))
        device = next((v.device for v in entries.values() if v.dim()), None)
        zero = torch.zeros((), dtype=torch.float64, device=device)
        rows = [[entries.get((i, j), zero).to(zero.device).expand(lead) for j in range(n)] for i in range(n)]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def transfer(self, p: Any, tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """E(tau) = exp(K tau), the columns asked for."""
        matrix = torch.linalg.matrix_exp(self.matrix(p) * tau[..., None, None])
        return {(i, j): matrix[..., i, j] for j in columns for i in range(len(self.compartments))}

    def forced(self, p: Any, tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """Q(tau) = int_0^tau exp(K s) ds, the upper right block of exp([[K, I], [0, 0]] tau)."""
        k = self.matrix(p)
        n = k.shape[-1]
        eye = torch.eye(n, dtype=k.dtype, device=k.device).expand_as(k)
        block = torch.cat([torch.cat([k, eye], -1), torch.zeros_like(torch.cat([k, eye], -1))], -2)
        q = torch.linalg.matrix_exp(block * tau[..., None, None])[..., :n, n:]
        return {(i, j): q[..., i, j] for j in columns for i in range(n)}

    def equilibrium(self, p: Any, columns: tuple[int, ...]) -> Entries:
        """-K^-1: amounts under a constant infusion of unit rate; not finite where nothing leaves the body."""
        q = -torch.linalg.inv_ex(self.matrix(p)).inverse
        return {(i, j): q[..., i, j] for j in columns for i in range(len(self.compartments))}
