"""Solvers of the pieces of a timeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchdiffeq import odeint

from deepnlme.axes import Names
from deepnlme.dynamics.vector_field import VectorField
from deepnlme.errors import ModelError


class Solver(Protocol):
    """Integrates the pieces of a timeline."""

    @property
    def tolerance(self) -> float:
        """Relative accuracy aimed at."""
        ...

    def flow(self, pieces: Pieces, x: Tensor, first: int, last: int) -> Tensor:
        """States at the ends of the pieces first..last, [last - first + 1, K, R, n], from the state x before them."""
        ...


@dataclass(frozen=True)
class Pieces:
    """Stretches of time, one after another: the vector field on each, mapped to the unit interval.

    Attributes:
        field: The vector field.
        parameters: Per piece the individual parameters, each [K, R, 1].
        begin: [K, R, E] the data's time at which each piece begins.
        length: [K, R, E] its length.
        rate: [K, R, E, n] infusion rate on it, or None.
    """

    field: VectorField
    parameters: list[Names]
    begin: Tensor
    length: Tensor
    rate: Tensor | None

    def slope(self, piece: int, s: Tensor | float, x: Tensor) -> Tensor:
        """dx/ds at the relative position s of a piece."""
        dt = self.length[..., piece : piece + 1]
        out = self.field(self.parameters[piece], self.begin[..., piece : piece + 1] + s * dt, x)
        if self.rate is not None:
            out = out + self.rate[..., piece, :]
        return out * dt


class _RowNorm:
    """RMS over the states, largest over the rows: one row's error is not averaged away by the others'.

    It leaves out rows that are given up, asks for smaller steps where a step left the numbers, and remembers each row's
    last value, to tell which row a solver failed on.
    """

    def __init__(self, alive: Tensor):
        self.alive = alive
        self.last = torch.zeros_like(alive, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.detach()
        value = torch.sqrt((x * x).mean(-1))
        value = torch.where(torch.isnan(value), torch.full_like(value, torch.inf), value)
        self.last = torch.where(self.alive, value, torch.zeros_like(value))
        return self.last.max()

    def worst(self) -> Tensor:
        """The rows to blame: those that left the numbers, else the one with the largest error."""
        lost = torch.isinf(self.last)
        return lost if bool(lost.any()) else self.last == self.last.max()


@dataclass(frozen=True)
class TorchDiffEq:
    """torchdiffeq's solvers.

    Args:
        method: "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8" (adaptive) or "rk4", "midpoint", "euler"
            (with `steps` per stretch between events).
        rtol: Relative tolerance.
        atol: Absolute tolerance [amount].
        steps: Steps per stretch of the fixed-step methods.
        max_steps: Steps that an adaptive method may take on one stretch; a subject that needs more becomes NaN.

    Raises:
        ModelError: Unknown method, tolerances that are not positive.
    """

    method: str = "dopri5"
    rtol: float = 1e-8
    atol: float = 1e-10
    steps: int = 10
    max_steps: int = 5000

    _ADAPTIVE = ("dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8")
    _FIXED = ("rk4", "midpoint", "euler")

    def __post_init__(self) -> None:
        if self.method not in (*self._ADAPTIVE, *self._FIXED):
            raise ModelError(
                f"Invalid solver method: got {self.method!r}, expected one of "
                f"{', '.join((*self._ADAPTIVE, *self._FIXED))}."
            )
        if not (self.rtol > 0 and self.atol > 0 and self.steps >= 1 and self.max_steps >= 1):
            raise ModelError("Invalid solver settings: rtol and atol must be positive, steps and max_steps at least 1.")

    @property
    def tolerance(self) -> float:
        """Relative tolerance."""
        return self.rtol

    def flow(self, pieces: Pieces, x: Tensor, first: int, last: int) -> Tensor:
        """States at the ends of the pieces first..last; NaN for the rows on which the solver fails."""
        known = torch.isfinite(x).all(-1) & torch.isfinite(pieces.length[..., first : last + 1]).all(-1)
        alive = known.expand(x.shape[:-1])
        while True:
            norm = _RowNorm(alive)
            try:
                path = self._solve(pieces, x, first, last, norm)
                break
            except AssertionError:  # torchdiffeq: a step of size zero, or too many steps
                alive = alive & ~norm.worst()
                if not bool(alive.any()):
                    return torch.full_like(x.detach(), torch.nan).expand(last - first + 1, *x.shape)
        if bool(alive.all()):
            return path
        return torch.where(alive.unsqueeze(-1), path, torch.full_like(path, torch.nan))

    def _solve(self, pieces: Pieces, x: Tensor, first: int, last: int, norm: _RowNorm) -> Tensor:
        """States at the ends of the pieces; rows that are given up stand still."""
        everyone = bool(norm.alive.all())
        alive = norm.alive.unsqueeze(-1)
        if not everyone:
            x = torch.where(alive, x, torch.ones_like(x))
        grid = torch.arange(first, last + 2, dtype=x.dtype, device=x.device)

        def slope(s: Tensor, x: Tensor) -> Tensor:
            piece = min(max(math.floor(float(s)), first), last)
            out = pieces.slope(piece, s - piece, x)
            return out if everyone else torch.where(alive, out, torch.zeros_like(out))

        if self.method in self._FIXED:
            parts = torch.arange(self.steps, dtype=x.dtype, device=x.device) / self.steps
            fine = torch.cat([*(parts + g for g in grid[:-1]), grid[-1:]])
            every: Any = odeint(slope, x, fine, method=self.method, options={"perturb": True})
            return every[self.steps :: self.steps]
        # every step ends at the end of a piece, so that nothing is interpolated, and begins with the next piece's field
        options = {"norm": norm, "max_num_steps": self.max_steps, "step_t": grid[-1:]}
        if last > first:
            options["jump_t"] = grid[1:-1]
        path: Any = odeint(slope, x, grid, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        return path[1:]
