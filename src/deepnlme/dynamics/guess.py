"""First guesses of a trajectory: by an explicit solver, coarsely, and by interpolation on a finer mesh.

Collocation equations of a nonlinear system can have more than one solution (saturable elimination has one with negative
amounts). An explicit solver finds only the true one; Newton's method starts from it, and its result must stay near it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchdiffeq import odeint

from deepnlme.dynamics.mesh import Mesh
from deepnlme.dynamics.radau import Radau
from deepnlme.dynamics.steps import Path, Steps
from deepnlme.dynamics.trajectory import Trajectory

MAX_EXPLICIT = 400
"""Steps of the explicit solver on one step of the mesh; rows that need more are guessed by the events alone."""


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
        rtol: Relative tolerance, also of the largest amount given.
    """
    steps = Steps.on(trajectory, mesh, method)
    size = torch.maximum(trajectory.start.abs().amax(), trajectory.add.abs().amax())
    if trajectory.rate is not None:
        size = torch.maximum(size, (trajectory.rate.abs() * trajectory.length.unsqueeze(-1)).amax())
    atol = max(float(rtol * 1e-2 * size), 1e-300)
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
    steps: Steps, g: int, x: Tensor, dt: Tensor, grid: Tensor, given_up: Tensor, rtol: float, atol: float
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
            path = odeint(slope, safe, grid, rtol=rtol, atol=atol, method="dopri5", options=options)
            given_up = given_up | ~torch.isfinite(path).all(-1).all(0)[0]
            return path, given_up
        except AssertionError:  # torchdiffeq: a step of size zero, or too many steps
            worst = norm.worst[0] if norm.worst is not None else torch.ones_like(given_up, dtype=x.dtype)
            worst = torch.where(given_up, torch.full_like(worst, -1.0), worst)
            given_up = given_up | (worst >= 0.1 * worst.max())
    return torch.ones_like(x).expand(len(grid), *x.shape), given_up


def standing_path(trajectory: Trajectory, mesh: Mesh, stages: int) -> Path:
    """The state moved by the events only."""
    rows = mesh.piece.shape[0]
    x, states = trajectory.start.expand(1, rows, -1), []
    for e in range(trajectory.length.shape[-1]):
        states.append(x)
        x = x * trajectory.keep[..., e].unsqueeze(-1) + trajectory.add[:, :, e]
    every = torch.stack([s.expand(1, rows, -1) for s in states], 2)
    x = every.gather(2, mesh.piece[None, :, :, None].expand(1, rows, -1, every.shape[-1]))
    return Path(x, x.unsqueeze(-2).expand(-1, -1, -1, stages, -1))


def interpolated_path(path: Path, mesh: Mesh, finer: Mesh, parts: Tensor, method: Radau) -> Path:
    """The polynomials of the old steps at the nodes of a finer mesh.

    Args:
        path: On `mesh`.
        mesh, finer: The old and the new mesh.
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
