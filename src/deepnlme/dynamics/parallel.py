"""Differential equations solved for all steps at once.

A trajectory on a fixed mesh satisfies x_g = keep_g Phi_g(x_(g-1)) + add_g, with Phi_g one Runge-Kutta step and the
events of the timeline in keep and add. Newton's method on the whole trajectory linearises every step at once, in one
batch over rows *and* steps, and solves the linear recursion; near a known trajectory (that of the last
evaluation) one or two iterations do. Time no longer runs in a loop: the number of tensor operations does not grow with
the length of the solution.

Derivatives come from the same recursion: at the solution, chord iterations with constant
matrices each make one more order of derivatives exact, so that only they are recorded for differentiation.
The mesh of each row is chosen by the embedded error estimate and then kept: the objective is smooth in the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.dynamics.mesh import Mesh, refine, uniform_mesh
from deepnlme.dynamics.recursion import Recursion
from deepnlme.dynamics.solver import Pieces
from deepnlme.dynamics.tableau import DOP853, DOPRI5, Tableau
from deepnlme.dynamics.trajectory import Trajectory, at_places, gather_places
from deepnlme.errors import ModelError

MAX_STEPS = 20_000
"""Steps of one row beyond which the problem is called too stiff for an explicit method."""


METHODS = {"dop853": DOP853, "dopri5": DOPRI5}
MAX_STEPS = 5_000
"""Steps that a row may take; a row that needs more becomes NaN (the problem is stiff)."""
FRESH, KEPT = 1.0, 8.0
"""Error over tolerance above which a step is cut: on a new mesh, and on one that is kept from the last evaluation."""


@dataclass(frozen=True)
class ParallelInTime:
    """Runge-Kutta steps on a mesh of each row's own, solved for all steps at once.

    Args:
        method: "dop853" (order 8, 12 stages) or "dopri5" (order 5, 6 stages).
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step, relative to the largest value of the state in its row.
        max_newton: Newton iterations before a trajectory is recomputed step by step.

    Raises:
        ModelError: Unknown method, tolerances that are not positive.
    """

    method: str = "dop853"
    rtol: float = 1e-7
    atol: float = 1e-9
    max_newton: int = 10

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ModelError(f"Invalid solver method: got {self.method!r}, expected one of {', '.join(METHODS)}.")
        if not (self.rtol > 0 and self.atol > 0 and self.max_newton >= 1):
            raise ModelError("Invalid solver settings: rtol and atol must be positive, max_newton at least 1.")

    @property
    def tableau(self) -> Tableau:
        """Coefficients of the method."""
        return METHODS[self.method]

    @property
    def tolerance(self) -> float:
        """Relative tolerance."""
        return self.rtol

    def flow(self, pieces: Pieces, x: Tensor, first: int, last: int) -> Tensor:
        """States at the ends of the pieces first..last, [last - first + 1, K, R, n]."""
        part = slice(first, last + 1)
        length = pieces.length[..., part]
        stretches = last + 1 - first
        p = pieces.parameters[first]
        if any(q is not p for q in pieces.parameters[part]):
            wide = {k: [q[k] for q in pieces.parameters[part]] for k in p}
            p = Names("p", {k: v[0] if v[0] is v[-1] else torch.cat(v, 2) for k, v in wide.items()})
        trajectory = Trajectory(
            pieces.field,
            p,
            pieces.begin[..., part],
            length,
            None if pieces.rate is None else pieces.rate[..., part, :],
            torch.ones(1, 1, stretches, dtype=x.dtype, device=x.device).expand(1, x.shape[1], -1),
            torch.zeros(1, 1, stretches, x.shape[-1], dtype=x.dtype, device=x.device).expand(1, x.shape[1], -1, -1),
            x,
        )
        return self.solve(trajectory, 3).permute(2, 0, 1, 3)

    def solve(self, trajectory: Trajectory, order: int) -> Tensor:
        """State after every event, [K, R, E, n]; `order` is the highest derivative that will be taken."""
        with torch.no_grad():
            mesh, x, matrices, lost = self._values(trajectory.first_copy())
            recursion = Recursion(matrices)
        steps = Steps.on(trajectory, mesh, self.tableau)
        for _ in range(order if trajectory.requires_grad else 1):
            x = _chord(steps, recursion, x)
        out = x[:, :, 1:].gather(2, mesh.end[None, :, :, None].expand(x.shape[0], -1, -1, x.shape[-1]))
        if bool(lost.any()):
            out = torch.where(lost[:, None, None], torch.full_like(out, torch.nan), out)
        return out

    def _values(self, trajectory: Trajectory) -> tuple[Mesh, Tensor, Tensor, Tensor]:
        """Mesh, states [1, R, G + 1, n], linearisation [R, G, n, n], and rows without a solution [R]; no graph."""
        kept = recall(trajectory)
        if kept is None:
            mesh = uniform_mesh(trajectory.stiffness(self.tableau.reach).clamp(max=64))
            path = Steps.on(trajectory, mesh, self.tableau).march(trajectory.start)
        else:
            mesh, path = kept
        limit = FRESH if kept is None else KEPT
        lost = torch.zeros(trajectory.length.shape[1], dtype=torch.bool, device=path.device)
        while True:
            steps = Steps.on(trajectory, mesh, self.tableau)
            path, matrices = self._newton(steps, path, lost)
            error = steps.error(path, self.rtol, self.atol)
            failed = ~torch.isfinite(path).flatten(2).all(2)[0]
            error = torch.where(failed[:, None], torch.full_like(error, 1e4), error.nan_to_num(1e4, 1e4, 1e4))
            parts = torch.ceil((2.0 * error) ** (1.0 / self.tableau.order)).clamp(2, 4).to(torch.int64)
            parts = torch.where((error > limit) & ~lost[:, None], parts, torch.ones_like(parts))
            used = (mesh.right > mesh.left) | mesh.last
            lost = lost | ((parts * used).sum(1) > MAX_STEPS)
            parts = torch.where(lost[:, None], torch.ones_like(parts), parts)
            if bool((parts == 1).all()):
                break
            mesh, limit = refine(mesh, parts), FRESH if kept is None else 0.5 * KEPT
            path = Steps.on(trajectory, mesh, self.tableau).march(trajectory.start)
        if bool(lost.any()):
            path = torch.where(lost[:, None, None], torch.ones_like(path), path)
            matrices = torch.where(lost[:, None, None, None], torch.zeros_like(matrices), matrices)
        remember(trajectory, mesh, path, lost)
        return mesh, path, matrices, lost

    def _newton(self, steps: Steps, path: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
        """States after Newton iterations from `path`, and the matrices of the last linearisation."""
        start = steps.trajectory.start
        path = torch.cat([start.unsqueeze(2).expand(-1, path.shape[1], 1, -1), path[:, :, 1:]], 2)
        for attempt in range(2):
            for _ in range(self.max_newton):
                value, matrices = steps.linearise(path[:, :, :-1])
                new = _solved(Recursion(matrices), value, path)
                scale = path.abs() + path.abs().amax(2, keepdim=True) * 1e-3 + 1e-300
                change = torch.where(lost[:, None, None], torch.zeros_like(path), (new - path).abs() / scale)
                path = new
                if not bool(torch.isfinite(change).all()):
                    break
                if float(change.max()) < 1e-4:
                    return path, matrices
            if attempt == 0:
                path = steps.march(start)
        return path, matrices


def _solved(recursion: Recursion, value: Tensor, x: Tensor) -> Tensor:
    """States of the recursion linearised at x [K, R, G + 1, n], where one step leads to `value` [K, R, G, n]."""
    k = max(value.shape[0], x.shape[0])
    ahead = value.permute(1, 2, 3, 0).expand(-1, -1, -1, k)
    moved = recursion.matrices[:, 1:] @ x[:, :, 1:-1].permute(1, 2, 3, 0)
    b = torch.cat([ahead[:, :1], ahead[:, 1:] - moved], 1)
    solved = recursion(b).permute(3, 0, 1, 2)
    return torch.cat([x[:, :, :1].expand(k, -1, -1, -1), solved], 2)


def _chord(steps: Steps, recursion: Recursion, x: Tensor) -> Tensor:
    """One chord iteration on the states between steps, [K, R, G + 1, n], with a graph."""
    start = steps.trajectory.start.unsqueeze(2)
    k = max(start.shape[0], x.shape[0])
    if k > 1 and start.requires_grad or x.shape[0] > 1:
        x = torch.cat([start.expand(k, -1, -1, -1), x[:, :, 1:].expand(k, -1, -1, -1)], 2)
    return _solved(recursion, steps.advance(x[:, :, :-1]), x)


def recall(trajectory: Trajectory) -> tuple[Mesh, Tensor] | None:
    """Mesh and states of these rows at their last evaluation."""
    memory, places = trajectory.memory, trajectory.places
    if memory is None or places is None:
        return None
    if "mesh" not in memory.values:
        if memory.parent is None or "mesh" not in memory.parent[0].values:
            return None
        older, rows = memory.parent
        memory.values = {
            "mesh": older.values["mesh"].rows(rows),
            "path": older.values["path"].index_select(1, rows),
            "known": older.values["known"].index_select(0, rows),
        }
    if not bool(memory.values["known"][places].all()):
        return None
    whole = len(places) == len(memory.values["known"])
    mesh, path = memory.values["mesh"], memory.values["path"]
    if whole:
        return mesh, path
    mesh = mesh.rows(places)
    steps = int(mesh.end.max()) + 1
    return mesh.first(steps), path.index_select(1, places)[:, :, : steps + 1]


def remember(trajectory: Trajectory, mesh: Mesh, path: Tensor, lost: Tensor) -> None:
    """Keep mesh and states of these rows, except those without a solution."""
    memory, places = trajectory.memory, trajectory.places
    if memory is None or places is None:
        return
    total = memory.size
    known = memory.values.get("known")
    if len(places) == total and (known is None or not bool(lost.any())):
        memory.values = {"mesh": mesh, "path": path, "known": ~lost}
        return
    if known is None:
        known = torch.zeros(total, dtype=torch.bool, device=path.device)
        memory.values["mesh"] = mesh.blank(total)
        memory.values["path"] = path.new_zeros(1, total, *path.shape[2:])
    good = torch.nonzero(~lost).flatten()
    steps = max(mesh.steps, memory.values["mesh"].steps)
    kept = memory.values["mesh"].padded(steps)
    states = _longer(memory.values["path"], steps)
    where = places[good]
    memory.values["mesh"] = kept.put(where, mesh.padded(steps).rows(good))
    memory.values["path"] = states.index_copy(1, where, _longer(path, steps).index_select(1, good))
    memory.values["known"] = known.index_fill(0, where, True)


def _longer(path: Tensor, steps: int) -> Tensor:
    """States repeated at the end, for a mesh padded with steps of length zero."""
    missing = steps + 1 - path.shape[2]
    return path if missing == 0 else torch.cat([path, path[:, :, -1:].expand(-1, -1, missing, -1)], 2)


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Sum of slopes with weights."""
    total = torch.zeros_like(slopes[0])
    for weight, k in zip(weights, slopes, strict=True):
        if weight:
            total = torch.add(total, k, alpha=weight)
    return total


@dataclass(frozen=True)
class Steps:
    """All steps of a mesh as one batch.

    Attributes:
        trajectory: What is solved.
        mesh: Its mesh.
        p: Individual parameters, each [K, R, 1] or [K, R, G].
        time: [K, R, G] data's time at the beginning of each step.
        dt: [K, R, G] its length.
        rate: [K, R, G, n] input on it, or None.
        keep: [K, R, G, 1] factor after it (0 at a reset).
        add: [K, R, G, n] jump after it.
    """

    trajectory: Trajectory
    mesh: Mesh
    p: Names
    time: Tensor
    dt: Tensor
    rate: Tensor | None
    keep: Tensor
    add: Tensor
    tableau: Tableau

    @classmethod
    def on(cls, trajectory: Trajectory, mesh: Mesh, tableau: Tableau) -> Steps:
        """The steps of a mesh."""
        length = gather_places(trajectory.length, mesh.piece)
        begin = gather_places(trajectory.begin, mesh.piece)
        rate = None if trajectory.rate is None else gather_places(trajectory.rate, mesh.piece)
        last = mesh.last[None, :, :, None]
        keep = torch.where(last, gather_places(trajectory.keep, mesh.piece).unsqueeze(-1), torch.ones_like(length[:1, ..., None]))
        add = gather_places(trajectory.add, mesh.piece)
        return cls(
            trajectory,
            mesh,
            at_places(trajectory.p, "p", mesh.piece),
            begin + mesh.left * length,
            length * (mesh.right - mesh.left),
            rate,
            keep,
            torch.where(last, add, torch.zeros_like(add)),
            tableau,
        )

    def slope(self, c: float, x: Tensor) -> Tensor:
        """dt f at a stage."""
        time = self.time if c == 0.0 else self.time + c * self.dt
        out = self.trajectory.field(self.p, time, x)
        if self.rate is not None:
            out = out + self.rate
        return out * self.dt.unsqueeze(-1)

    def _stages(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        slopes: list[Tensor] = []
        for row, c in zip(self.tableau.a, self.tableau.c, strict=True):
            y = x
            for weight, k in zip(row, slopes, strict=True):
                if weight:
                    y = torch.add(y, k, alpha=weight)
            slopes.append(self.slope(c, y))
        y = x
        for weight, k in zip(self.tableau.b, slopes, strict=True):
            if weight:
                y = torch.add(y, k, alpha=weight)
        return y, slopes

    def advance(self, x: Tensor) -> Tensor:
        """States after every step (and its event) from those before, [K, R, G, n]."""
        return self._stages(x)[0] * self.keep + self.add

    def linearise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`advance` at x [1, R, G, n] and its Jacobian [R, G, n, n], without a graph."""
        n = x.shape[-1]
        with torch.enable_grad():
            leaf = x.detach().expand(n, *x.shape[1:]).clone().requires_grad_()
            value = self.advance(leaf)
            seed = torch.eye(n, dtype=x.dtype, device=x.device)[:, None, None, :].expand_as(value)
            (rows,) = torch.autograd.grad(value, leaf, seed)
        return value[:1].detach(), rows.permute(1, 2, 0, 3)

    def march(self, start: Tensor) -> Tensor:
        """The trajectory step by step, [1, R, G + 1, n]."""
        x = start
        states = [x]
        for g in range(self.mesh.steps):
            x = self.one(g).advance(x.unsqueeze(2)).squeeze(2)
            states.append(x)
        return torch.stack(states, 2)

    def one(self, g: int) -> Steps:
        """A single step as a batch."""
        part = slice(g, g + 1)
        return Steps(
            self.trajectory,
            self.mesh,
            Names("p", {k: v[:, :, part] if v.shape[2] > 1 else v for k, v in self.p.items()}),
            self.time[:, :, part],
            self.dt[:, :, part],
            None if self.rate is None else self.rate[:, :, part],
            self.keep[:, :, part],
            self.add[:, :, part],
            self.tableau,
        )

    def error(self, path: Tensor, rtol: float, atol: float) -> Tensor:
        """Estimated error of every step over its tolerance, [R, G]."""
        x = path[:, :, :-1]
        end, slopes = self._stages(x)
        slopes.append(self.slope(1.0, end))
        estimate = _weighted(self.tableau.error, slopes)
        if self.tableau.coarse:
            coarse = _weighted(self.tableau.coarse, slopes)
            estimate = estimate**2 / torch.sqrt(estimate**2 + 0.01 * coarse**2 + 1e-300)
        size = torch.maximum(x.abs(), end.abs())
        largest = path.abs().amax(2, keepdim=True)
        scale = rtol * size + atol * largest + 1e-300
        return (estimate.abs() / scale).amax(-1)[0]
