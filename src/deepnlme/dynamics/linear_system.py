"""Any linear system by the matrix exponential."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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

    def matrix(self, p: Any, lead: tuple[int, ...], like: Tensor) -> Tensor:
        """K, [*lead, n, n], from the rates; `lead` is the broadcast shape of the parameters."""
        n = len(self.compartments)
        position = {name: i for i, name in enumerate(self.compartments)}
        zero = torch.zeros(lead, dtype=like.dtype, device=like.device)
        rows: list[list[Tensor]] = [[zero] * n for _ in range(n)]
        for key, rate in self.rates(p).items():
            if not (isinstance(key, tuple) and len(key) == 2 and key[0] in position and key[1] in (*position, OUT)):
                raise ModelError(
                    f"Invalid rate: got {key!r}, expected (from, to) with compartments "
                    f"{', '.join(self.compartments)} (to may be {OUT!r})."
                )
            i = position[key[0]]
            rows[i][i] = rows[i][i] - rate
            if key[1] != OUT:
                rows[position[key[1]]][i] = rows[position[key[1]]][i] + rate
        return torch.stack([torch.stack([v.expand(lead) for v in row], -1) for row in rows], -2)

    def _matrix_for(self, p: Any, tau: Tensor | None) -> Tensor:
        shapes = [v.shape for v in p.values() if isinstance(v, Tensor)]
        lead = torch.broadcast_shapes(*shapes)
        like = tau if tau is not None else next(v for v in p.values() if isinstance(v, Tensor))
        return self.matrix(p, tuple(lead), like)

    def transfer(self, p: Any, tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """E(tau) = exp(K tau), the columns asked for."""
        matrix = torch.linalg.matrix_exp(self._matrix_for(p, tau) * tau[..., None, None])
        return {(i, j): matrix[..., i, j] for j in columns for i in range(len(self.compartments))}

    def forced(self, p: Any, tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """Q(tau) = int_0^tau exp(K s) ds, the upper right block of exp([[K, I], [0, 0]] tau)."""
        k = self._matrix_for(p, tau)
        n = k.shape[-1]
        eye = torch.eye(n, dtype=k.dtype, device=k.device).expand_as(k)
        block = torch.cat([torch.cat([k, eye], -1), torch.zeros_like(torch.cat([k, eye], -1))], -2)
        q = torch.linalg.matrix_exp(block * tau[..., None, None])[..., :n, n:]
        return {(i, j): q[..., i, j] for j in columns for i in range(n)}

    def equilibrium(self, p: Any, columns: tuple[int, ...]) -> Entries:
        """-K^-1: amounts under a constant infusion of unit rate."""
        q = -torch.linalg.inv(self._matrix_for(p, None))
        return {(i, j): q[..., i, j] for j in columns for i in range(len(self.compartments))}
