"""Differential equations on each row's own timeline, solved by torchdiffeq or for all steps at once.

Every stretch between two events is mapped to the unit interval, x' = dt_e (f(t_(e-1) + s dt_e, x) + rate_e), so that
one batched solve serves all rows although their times differ; because dt and the times are differentiable, so is the
solution in lag times, durations and rates (the jumps included).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered
from deepnlme.dynamics.failure import Failure, find_failure
from deepnlme.dynamics.parallel import ParallelInTime
from deepnlme.dynamics.solver import Pieces, Solver
from deepnlme.dynamics.steady_linear import has_steady_doses
from deepnlme.dynamics.steady_ode import steady_states
from deepnlme.dynamics.timeline import Timeline, build_timeline, gather_time, initial_states
from deepnlme.dynamics.trajectory import Trajectory
from deepnlme.dynamics.vector_field import VectorField


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
    order: int = 3,
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
        initial: Compartment index -> initial value at the records, [K, R, 1 or T] (also set by a reset).
        compartments: Names of the states.
        order: Highest derivative that will be taken.

    Returns:
        One tensor [K, R, N] per compartment.
    """
    n = len(compartments)
    field, line, start = _prepared(dynamics, solver, theta, p_interval, p_record, batch, doses, initial, compartments)
    if isinstance(solver, ParallelInTime):
        x = solver.solve(_trajectory(field, p_interval, batch, line, start), order)
    else:
        x = _integrate(field, solver, p_interval, batch, line, start)
    return [gather_time(x[..., i], line.slot) for i in range(n)]


def explain_ode(
    dynamics: Any,
    solver: Solver,
    theta: Names,
    p_interval: Names,
    p_record: Names,
    batch: Batch,
    doses: Administered,
    initial: Mapping[int, Tensor],
    compartments: tuple[str, ...],
    row: int,
) -> Failure | None:
    """Why a row has no solution; arguments as of `solve_ode`."""
    field, line, start = _prepared(dynamics, solver, theta, p_interval, p_record, batch, doses, initial, compartments)
    return find_failure(_trajectory(field, p_interval, batch, line, start), row)


def _prepared(
    dynamics: Any,
    solver: Solver,
    theta: Names,
    p_interval: Names,
    p_record: Names,
    batch: Batch,
    doses: Administered,
    initial: Mapping[int, Tensor],
    compartments: tuple[str, ...],
) -> tuple[VectorField, Timeline, Tensor]:
    """The vector field, the timeline of every row, and the states at its beginning."""
    n = len(compartments)
    field = VectorField(dynamics, theta, compartments)
    shapes = [v.shape[:2] for names in (theta, p_interval, p_record) for v in names.values()]
    starts = initial_states(initial, n, batch)
    lead = np.broadcast_shapes((1, batch.rows), *shapes, doses.start.shape[:2], starts.shape[:2])
    start = starts[:, :, 0].expand(*lead, n)
    overlap = steady = None
    if has_steady_doses(batch):
        overlap, steady = steady_states(field, solver, p_record, batch, doses, start)
    return field, build_timeline(batch, doses, n, starts, overlap, steady), start


def _integrate(field: VectorField, solver: Solver, p: Names, batch: Batch, line: Timeline, start: Tensor) -> Tensor:
    """State after every event up to the last that is read, [K, R, E, n].

    Stretches without a jump between them are solved in one go; those that no row moves over cost nothing.
    """
    lead = np.broadcast_shapes(start.shape[:2], line.dt.shape[:2])
    events = int(line.slot.max()) + 1 if line.slot.numel() else 0
    jumps = line.jump.flatten(0, 1).any(0).tolist()
    moves = (line.dt > 0).flatten(0, 1).any(0).tolist()
    moving = [e for e in range(events) if moves[e]]
    pieces = _pieces(field, p, batch, line, moving)
    x = start.expand(*lead, start.shape[-1])
    states: list[Tensor] = []
    solved = e = 0
    while e < events:
        last = e
        while not jumps[last] and last + 1 < events:
            last += 1
        todo = sum(moves[e : last + 1])
        path = iter(solver.flow(pieces, x, solved, solved + todo - 1).unbind(0)) if todo else iter(())
        solved += todo
        for i in range(e, last + 1):
            x = next(path) if moves[i] else x
            states.append(x)
        if jumps[last]:
            keep = line.keep[..., last].unsqueeze(-1)
            x = states[-1] = torch.where(keep > 0, x, torch.zeros_like(x)) + line.add[..., last, :]
        e = last + 1
    return torch.stack([s.expand(*lead, start.shape[-1]) for s in states], 2) if states else x.unsqueeze(2)


def _pieces(field: VectorField, p: Names, batch: Batch, line: Timeline, moving: list[int]) -> Pieces:
    """The stretches that end at the events `moving`."""
    index = torch.tensor(moving, dtype=torch.int64, device=batch.device)
    record = line.record.index_select(-1, index)
    dt = line.dt.index_select(-1, index)
    begin = line.time.index_select(-1, index) - dt - gather_time(batch.offset.unsqueeze(0), record)
    rate = None if line.rate is None else line.rate.index_select(2, index)
    if all(v.shape[2] == 1 for v in p.values()):
        return Pieces(field, [p] * len(moving), begin, dt, rate)
    at = {k: gather_time(v, record) for k, v in p.items()}
    parameters = [
        Names("p", {k: v[:, :, e : e + 1] if v.shape[2] > 1 else v for k, v in at.items()}) for e in range(len(moving))
    ]
    return Pieces(field, parameters, begin, dt, rate)


def _trajectory(field: VectorField, p: Names, batch: Batch, line: Timeline, start: Tensor) -> Trajectory:
    """The whole timeline of every row; what comes after the last event that is read takes no time."""
    last = line.slot.amax(-1, keepdim=True) if line.slot.shape[-1] else torch.zeros_like(line.record[..., :1])
    read = torch.arange(line.dt.shape[-1], device=line.dt.device) <= last
    dt = torch.where(read, line.dt, torch.zeros_like(line.dt))
    begin = line.time - line.dt - gather_time(batch.offset.unsqueeze(0), line.record)
    return Trajectory(
        field,
        Names("p", {k: gather_time(v, line.record) for k, v in p.items()}),
        begin,
        dt,
        line.rate,
        line.keep,
        line.add,
        start,
        batch.memory,
        batch.place,
    )
