"""Differential equations on each row's own timeline, solved by torchdiffeq.

Every stretch between two events is mapped to the unit interval, x' = dt_e (f(t_(e-1) + s dt_e, x) + rate_e), so that one
batched solve serves all rows although their times differ; because dt and the times are differentiable, so is the
solution in lag times, durations and rates (the jumps included).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchdiffeq import odeint

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered, steady_dosing
from deepnlme.dynamics.timeline import Timeline, build_timeline, gather_time
from deepnlme.errors import ModelError

Field = Callable[[Names, Tensor, Tensor], Tensor]
"""f(p, t [K, R, 1], x [K, R, n]) -> [K, R, n]."""


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

    field: Field
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


def _row_norm(x: Tensor) -> Tensor:
    """RMS over the states, largest over the rows: one row's error is not averaged away by the others'."""
    return torch.sqrt((x * x).mean(-1)).max() if x.dim() else x.abs()


@dataclass(frozen=True)
class TorchDiffEq:
    """torchdiffeq's solvers.

    Args:
        method: "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8" (adaptive) or "rk4", "midpoint", "euler"
            (with `steps` per stretch between events).
        rtol: Relative tolerance.
        atol: Absolute tolerance [amount].
        steps: Steps per stretch of the fixed-step methods.

    Raises:
        ModelError: Unknown method, tolerances that are not positive.
    """

    method: str = "dopri5"
    rtol: float = 1e-8
    atol: float = 1e-10
    steps: int = 10

    _ADAPTIVE = ("dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8")
    _FIXED = ("rk4", "midpoint", "euler")

    def __post_init__(self) -> None:
        if self.method not in (*self._ADAPTIVE, *self._FIXED):
            raise ModelError(
                f"Invalid solver method: got {self.method!r}, expected one of "
                f"{', '.join((*self._ADAPTIVE, *self._FIXED))}."
            )
        if not (self.rtol > 0 and self.atol > 0 and self.steps >= 1):
            raise ModelError("Invalid solver settings: rtol and atol must be positive, steps at least 1.")

    @property
    def tolerance(self) -> float:
        """Relative tolerance."""
        return self.rtol

    def flow(self, pieces: Pieces, x: Tensor, first: int, last: int) -> Tensor:
        """States at the ends of the pieces first..last."""
        grid = torch.arange(first, last + 2, dtype=x.dtype, device=x.device)

        def slope(s: Tensor, x: Tensor) -> Tensor:
            piece = min(max(int(torch.floor(s)), first), last)
            return pieces.slope(piece, s - piece, x)

        if self.method in self._FIXED:
            fine = torch.cat(
                [(torch.arange(self.steps, dtype=x.dtype, device=x.device) / self.steps) + g for g in grid[:-1]]
                + [grid[-1:]]
            )
            out = odeint(slope, x, fine, method=self.method, options={"perturb": True})
            return out[self.steps :: self.steps]
        options: dict[str, Any] = {"norm": _row_norm}
        if last > first:
            options["jump_t"] = grid[1:-1]
        return odeint(slope, x, grid, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[1:]


def make_field(dynamics: Any, theta: Names, compartments: tuple[str, ...]) -> Field:
    """The vector field of a model's ``dynamics`` method, on stacked states."""

    def field(p: Names, t: Tensor, x: Tensor) -> Tensor:
        states = Names("x", {name: x[..., i : i + 1] for i, name in enumerate(compartments)})
        rates = dynamics(theta, p, t, states)
        if tuple(rates) != compartments and set(rates) != set(compartments):
            raise ModelError(
                f"Invalid `dynamics`: it returned derivatives of {', '.join(rates)}, expected {', '.join(compartments)}."
            )
        shape = x[..., :1].shape
        return torch.cat([torch.as_tensor(rates[name], dtype=x.dtype).expand(shape) for name in compartments], -1)

    return field


def solve_ode(
    dynamics: Any,
    solver: Solver,
    theta: Names,
    p_interval: Names,
    p_record: Names,
    batch: Batch,
    doses: Administered,
    initial: Mapping[int, Tensor],
    compartments: tuple[str, ...],
) -> list[Tensor]:
    """Amounts at every slot.

    Args:
        dynamics: The model's method (theta, p, t, x) -> derivatives by name.
        solver: The solver.
        theta: Fixed effects.
        p_interval: Individual parameters over the interval that ends at each record, [K, R, 1 or T].
        p_record: The same at each record.
        batch: Packed records.
        doses: Effective doses [K, R, D].
        initial: Compartment index -> initial value [K, R, 1].
        compartments: Names of the states.

    Returns:
        One tensor [K, R, N] per compartment.
    """
    n = len(compartments)
    field = make_field(dynamics, theta, compartments)
    shapes = [v.shape[:2] for names in (theta, p_interval, p_record) for v in names.values()]
    lead = torch.broadcast_shapes((1, batch.rows), *shapes, doses.start.shape[:2], *(v.shape[:2] for v in initial.values()))
    zero = torch.zeros(*lead, 1, dtype=batch.time.dtype, device=batch.device)
    start = torch.cat([initial.get(i, zero) + zero for i in range(n)], -1)
    overlap = steady = None
    if bool((batch.dose_ss > 0).any()):
        overlap, steady = _steady_states(field, solver, p_record, batch, doses, start)
    line = build_timeline(batch, doses, n, start, overlap, steady)
    x = _integrate(field, solver, p_interval, batch, line, start)
    return [gather_time(x[..., i], line.slot) for i in range(n)]


def _integrate(field: Field, solver: Solver, p: Names, batch: Batch, line: Timeline, start: Tensor) -> Tensor:
    """State after every event, [K, R, E, n]; stretches without a jump between them are solved in one go."""
    lead = torch.broadcast_shapes(start.shape[:2], line.dt.shape[:2])
    events, n = line.dt.shape[-1], start.shape[-1]
    offset = gather_time(batch.offset.unsqueeze(0), line.record)
    begin = torch.cat([line.time[..., :1], line.time[..., :-1]], -1) - offset
    varying = any(v.shape[2] > 1 for v in p.values())
    if varying:
        at = {k: gather_time(v, line.record) for k, v in p.items()}
        parameters = [
            Names("p", {k: v[:, :, e : e + 1] if v.shape[2] > 1 else v for k, v in at.items()}) for e in range(events)
        ]
    else:
        parameters = [p] * events
    pieces = Pieces(field, parameters, begin, line.dt, line.rate)
    jumps = ((line.keep == 0) | (line.add != 0).any(-1)).flatten(0, 1).any(0).tolist()
    moves = (line.dt > 0).flatten(0, 1).any(0).tolist()
    x = start.expand(*lead, n)
    states: list[Tensor] = []
    e = 0
    while e < events:
        last = e
        while not jumps[last] and last + 1 < events:
            last += 1
        if any(moves[e : last + 1]):
            path = solver.flow(pieces, x, e, last)
            states += list(path.unbind(0))
        else:
            states += [x] * (last - e + 1)
        if jumps[last]:
            keep = line.keep[..., last].unsqueeze(-1)
            states[-1] = keep * states[-1] + line.add[..., last, :]
        x = states[-1]
        e = last + 1
    return torch.stack([s.expand(*lead, n) for s in states], 2)


def _steady_states(
    field: Field, solver: Solver, p: Names, batch: Batch, doses: Administered, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Earlier infusions still running, and the state at each steady-state dose's record, [K, R, D, n]."""
    plan = steady_dosing(batch, doses)
    slots = torch.nonzero((batch.dose_ss > 0).any(0)).flatten().tolist()
    lead, n = start.shape[:2], start.shape[-1]
    states = [torch.zeros(*lead, n, dtype=start.dtype, device=start.device)] * batch.dose_ss.shape[1]
    span = (batch.time[:, -1:] - batch.time[:, :1]).clamp(min=1.0)
    for d in slots:
        record = batch.dose_record[:, d : d + 1]
        at = Names("p", {k: gather_time(v, record) for k, v in p.items()})
        into = torch.nn.functional.one_hot(batch.dose_cmt[:, d], n).to(start.dtype)

        def of(value: Tensor, d: int = d) -> Tensor:
            return value[..., d : d + 1]

        constant = of(plan.constant)
        period = torch.where(constant, span, of(plan.period))
        first = torch.where(constant, torch.zeros_like(period), of(plan.first))
        rate = torch.where(constant, batch.dose_rate[:, d : d + 1], of(doses.rate))
        overlap = torch.where(constant, torch.ones_like(rate), of(plan.overlap))
        bolus = torch.where((of(doses.duration) > 0) | constant, torch.zeros_like(rate), of(doses.amount)) * into
        high, low = (overlap + 1.0) * rate * into, overlap * rate * into
        begin = batch.dose_time[:, d : d + 1] - batch.offset.gather(1, record)
        move = _Mover(field, solver, at, begin.unsqueeze(0))

        def cycle(x: Tensor, move=move, bolus=bolus, first=first, period=period, high=high, low=low) -> Tensor:
            return move(move(x + bolus, first, high), period - first, low)

        active = of(plan.active).expand(*lead, 1)
        arrival = _fixed_point(cycle, start, active, solver.tolerance)
        tail = torch.where(constant, torch.zeros_like(period), period - of(doses.lag))
        arrival = torch.where(tail > 0, arrival, arrival if bool(constant.any()) else torch.full_like(arrival, torch.nan))
        tail = tail.clamp(min=0.0)
        before = torch.minimum(tail, first)
        state = move(move(arrival + bolus, before, high), tail - before, low)
        states[d] = torch.where(active, state, torch.zeros_like(state))
    return plan.overlap, torch.stack([s.expand(*lead, n) for s in states], 2)


@dataclass(frozen=True)
class _Mover:
    """Moves a state along the vector field for a time [K, R, 1] at a constant input."""

    field: Field
    solver: Solver
    p: Names
    begin: Tensor

    def __call__(self, x: Tensor, tau: Tensor, rate: Tensor) -> Tensor:
        if not bool((tau > 0).any()):
            return x
        lead = torch.broadcast_shapes(x.shape[:2], tau.shape[:2], rate.shape[:2], self.begin.shape[:2])
        x = x.expand(*lead, x.shape[-1])
        pieces = Pieces(self.field, [self.p], self.begin, tau, rate.unsqueeze(2))
        return self.solver.flow(pieces, x, 0, 0)[0]


def _fixed_point(cycle: Callable[[Tensor], Tensor], start: Tensor, active: Tensor, tolerance: float) -> Tensor:
    """x = cycle(x), differentiable to third order.

    Newton's method without a graph finds the value. Three chord steps x <- x + (I - J)^-1 (cycle(x) - x) with the
    constant J then leave the value as it is and make one more order of derivatives exact each. Rows that do not settle
    (no steady state exists) become NaN.
    """
    n = start.shape[-1]
    eye = torch.eye(n, dtype=start.dtype, device=start.device)
    x = start.detach()
    inverse = eye.expand(*start.shape[:2], n, n)
    for _ in range(50):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = cycle(leaf)
            rows = [torch.autograd.grad(value[..., i].sum(), leaf, retain_graph=i + 1 < n)[0] for i in range(n)]
        residual = (value - leaf).detach()
        matrix = torch.where(active.unsqueeze(-1), eye - torch.stack(rows, -2), eye)
        inverse = torch.linalg.inv(matrix)
        step = torch.where(active, (inverse @ residual.unsqueeze(-1)).squeeze(-1), torch.zeros_like(residual))
        x = x + step
        small = step.abs() <= 10.0 * tolerance * (x.abs() + step.abs().amax()) + 1e-12
        if bool((small | ~torch.isfinite(step)).all()):
            break
    else:
        x = torch.where(small.all(-1, keepdim=True), x, torch.full_like(x, torch.nan))
    for _ in range(3):
        x = x + torch.where(active, (inverse @ (cycle(x) - x).unsqueeze(-1)).squeeze(-1), torch.zeros_like(x))
    return x
