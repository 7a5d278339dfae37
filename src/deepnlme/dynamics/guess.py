"""First guesses of a trajectory: by a solver that goes step by step, coarsely, and by interpolation on a finer mesh.

Collocation equations of a nonlinear system can have more than one solution (saturable elimination has one with negative
amounts). A solver that goes step by step finds only the true one; Newton's method starts from its path, and the result
must stay near it.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from deepnlme.dynamics.mesh import Mesh
from deepnlme.dynamics.radau import Radau
from deepnlme.dynamics.steps import Path, Steps
from deepnlme.dynamics.trajectory import Trajectory

MAX_EXPLICIT = 400
"""Steps of the explicit solver on one step of the mesh; rows that need more are left to LSODA."""
MAX_EVALUATIONS = 3_000
"""Evaluations of the vector field by LSODA for one step of the mesh; a row that needs more has no solution."""
HUGE = 1e12
"""A row has no solution if its state becomes so many times larger than what is given to it, or than 1."""


class _LargestRow:
    """RMS over the states, largest over the rows that have not left the numbers."""

    def __init__(self) -> None:
        self.worst: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        value = torch.sqrt((x * x).mean(-1)).nan_to_num(torch.inf, torch.inf)
        self.worst = value
        return value.max()


def explicit_path(trajectory: Trajectory, mesh: Mesh, method: Radau, rtol: float) -> tuple[Path, Tensor]:
    """The states at all nodes of a mesh by torchdiffeq's dopri5, step after step, and the rows that it gave up [R].

    Args:
        trajectory: [1, R, ...] without a graph.
        mesh: Any mesh.
        method: Whose nodes.
        rtol: Relative tolerance, and, a hundred times less, of the largest amount given to the row.
    """
    steps = Steps.on(trajectory, mesh, method)
    size = torch.maximum(trajectory.start.abs().amax(-1), trajectory.add.abs().amax((-1, -2)))
    if trajectory.rate is not None:
        size = torch.maximum(size, (trajectory.rate.abs() * trajectory.length.unsqueeze(-1)).amax((-1, -2)))
    # each row by its own amounts; a row whose amounts are not numbers is given up below and must not spoil the others
    atol = (1e-2 * rtol * size.nan_to_num(0.0, 0.0, 0.0)).clamp(min=1e-300).unsqueeze(-1)
    grid = torch.cat([steps.c.new_zeros(1), steps.c])
    x = trajectory.start.expand(1, mesh.piece.shape[0], -1)
    given_up = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    begins, nodes = [], []
    for g in range(mesh.steps):
        begins.append(x)
        dt = steps.dt[:, :, g, 0]
        if bool((dt > 0).any()):
            path, given_up = _one_step(steps, g, x, dt, grid, given_up, rtol, atol)
        else:
            path = x.unsqueeze(0).expand(len(grid), *x.shape)
        nodes.append(path[1:])
        x = path[-1] * steps.keep[:, :, g] + steps.add[:, :, g]
    stages = torch.stack(nodes, 0).permute(2, 3, 0, 1, 4)
    return Path(torch.stack(begins, 2), stages), given_up


def _one_step(
    steps: Steps, g: int, x: Tensor, dt: Tensor, grid: Tensor, given_up: Tensor, rtol: float, atol: Tensor
) -> tuple[Tensor, Tensor]:
    """States at the nodes of one step of the mesh, [s + 1, 1, R, n]; rows that fail stand still."""
    given_up = given_up | ~torch.isfinite(x).all(-1)[0]
    while not bool(given_up.all()):
        resting = given_up.view(1, -1, 1)
        norm = _LargestRow()

        def slope(s: Tensor, y: Tensor, resting: Tensor = resting) -> Tensor:
            value = steps.slope_at(g, float(s), y) * dt
            return torch.where(resting, torch.zeros_like(value), value)

        safe = torch.where(resting, torch.ones_like(x), x)
        try:
            options = {"max_num_steps": MAX_EXPLICIT, "norm": norm}
            path: Tensor = odeint(slope, safe, grid, rtol=rtol, atol=atol, method="dopri5", options=options)  # type: ignore
            given_up = given_up | ~torch.isfinite(path).all(-1).all(0)[0]
            return path, given_up
        except AssertionError:  # torchdiffeq: a step of size zero, or too many steps
            worst = norm.worst[0] if norm.worst is not None else torch.ones_like(given_up, dtype=x.dtype)
            worst = torch.where(given_up, torch.full_like(worst, -1.0), worst)
            given_up = given_up | (worst >= 0.1 * worst.max())
    return torch.ones_like(x).expand(len(grid), *x.shape), given_up


def stiff_path(trajectory: Trajectory, mesh: Mesh, method: Radau, rtol: float) -> tuple[Path, Tensor]:
    """The same by scipy's LSODA, row after row: for the few rows too stiff for an explicit solver."""
    steps = Steps.on(trajectory, mesh, method)
    rows, n = mesh.piece.shape[0], trajectory.start.shape[-1]
    states = torch.ones(1, rows, mesh.steps, method.stages + 1, n, dtype=steps.c.dtype, device=steps.c.device)
    given_up = torch.zeros(rows, dtype=torch.bool, device=steps.c.device)
    for row in range(rows):
        index = torch.tensor([row], device=given_up.device)
        one = Steps.on(trajectory.take(index), mesh.rows(index), method)
        found = _stiff_row(one, rtol)
        if found is None:
            given_up[row] = True
        else:
            states[0, row] = found
    return Path(states[..., 0, :], states[..., 1:, :]), given_up


def _stiff_row(steps: Steps, rtol: float) -> Tensor | None:
    """States at the beginning and the nodes of every step of one row, [G, s + 1, n]; None if there is no solution."""
    x = steps.trajectory.start[0, 0]
    nodes = np.append(0.0, steps.method.c)
    out = []
    largest = max(1.0, float(torch.cat([x, steps.add.flatten()]).abs().nan_to_num(0.0).max()))
    for g in range(steps.mesh.steps):
        dt = float(steps.dt[0, 0, g])

        limit = [np.inf]
        evaluations = 0

        def slope(
            s: float, y: np.ndarray, g: int = g, dt: float = dt, x: Tensor = x, limit: list[float] = limit
        ) -> np.ndarray:
            nonlocal evaluations
            evaluations += 1
            if evaluations > MAX_EVALUATIONS or np.abs(y).max() > limit[0]:
                raise OverflowError
            state = torch.as_tensor(y, dtype=x.dtype, device=x.device).view(1, 1, -1)
            return dt * steps.slope_at(g, s, state)[0, 0].cpu().numpy()

        if not bool(torch.isfinite(x).all()):
            return None
        if dt > 0:
            # what flows in counts as given: a constant production, an infusion
            inflow = float(np.abs(np.nan_to_num(slope(0.0, x.cpu().numpy()))).max())
            limit[0] = HUGE * max(largest, inflow)
            atol = max(1e-2 * rtol * float(x.abs().max()), 1e-300)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    done = solve_ivp(slope, (0.0, 1.0), x.cpu().numpy(), "LSODA", nodes, rtol=rtol, atol=atol)
            except OverflowError:
                return None
            if not done.success or not np.isfinite(done.y).all():
                return None
            path = torch.as_tensor(done.y.T.copy(), dtype=x.dtype, device=x.device)
        else:
            path = x.expand(len(nodes), -1)
        out.append(path)
        x = path[-1] * steps.keep[0, 0, g] + steps.add[0, 0, g]
    return torch.stack(out)


def interpolated_path(path: Path, mesh: Mesh, finer: Mesh, parts: Tensor, method: Radau) -> Path:
    """The polynomials of the old steps at the nodes of a finer mesh.

    Args:
        path: On `mesh`.
        mesh: The old mesh.
        finer: The new one.
        parts: [R, G] into how many each old step was cut.
        method: The collocation method.
    """
    used = torch.where(mesh.used, parts, torch.zeros_like(parts))
    ends = torch.cumsum(used, 1)
    g = torch.arange(finer.steps, device=parts.device).expand(parts.shape[0], -1)
    old = torch.searchsorted(ends, g.contiguous(), right=True).clamp(max=mesh.steps - 1)
    left, right = mesh.left.gather(1, old), mesh.right.gather(1, old)
    width = (right - left).clamp(min=1e-300)
    c = torch.tensor(method.c, dtype=left.dtype, device=left.device)
    begin = ((finer.left - left) / width).clamp(0.0, 1.0)
    nodes = begin.unsqueeze(-1) + ((finer.right - finer.left) / width).clamp(0.0, 1.0).unsqueeze(-1) * c
    places = torch.cat([begin.unsqueeze(-1), nodes], -1)
    powers = places.unsqueeze(-1) ** torch.arange(method.stages + 1, device=c.device)
    weights = powers @ torch.tensor(method.interpolation, dtype=c.dtype, device=c.device)
    known = torch.cat([path.x.unsqueeze(-2), path.stages], -2)[0]
    index = old[..., None, None].expand(*old.shape, *known.shape[2:])
    value = (weights @ known.gather(1, index)).unsqueeze(0)
    return Path(value[..., 0, :], value[..., 1:, :])
