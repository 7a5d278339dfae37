"""Differential equations solved for all steps at once.

A trajectory on a fixed mesh satisfies the collocation equations of every step and the events between them. Newton's
method on the whole trajectory linearises all of them at once, in one batch over rows, steps and stages (so that the
vector field is evaluated once, however long the trajectory), solves each step's small system, and joins the steps by a
linear recursion. Near a known trajectory (that of the last evaluation) one or two iterations do; a linear system takes
one. Time no longer runs in a loop.

Derivatives come from the same equations: at the solution, chord iterations with the constant matrices each make one
more order of derivatives exact, so that only they are recorded for differentiation.
The mesh of each row is chosen by an error estimate and then kept: the objective is smooth in the parameters. The method
is L-stable, so that stiff systems need no more steps than their slow parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.dynamics.guess import explicit_path, interpolated_path, stiff_path
from deepnlme.dynamics.mesh import Mesh, refine, uniform_mesh
from deepnlme.dynamics.path_memory import recall, remember
from deepnlme.dynamics.radau import Radau, radau
from deepnlme.dynamics.solver import Pieces
from deepnlme.dynamics.steps import Linearisation, Path, Steps
from deepnlme.dynamics.trajectory import Trajectory
from deepnlme.errors import ModelError

MAX_STEPS = 2_000
"""Steps that a row may take; a row that needs more becomes NaN."""
SETTLED = 1e-4
"""Relative move of a step's states below which Newton's iteration has settled."""
NEAR = 0.5
"""Distance from its guess, relative to the largest value of the state, at which a solution is not believed."""
ROUGH = 0.02
"""Error of a guess's polynomial, relative to the largest value of the state, at which its step is too long."""
LOOSE, TIGHT, ATTEMPTS = 1e-3, 1e-6, 10
"""Tolerance of the first guess, three times less at every further attempt down to the second; number of attempts."""
WILD = 1.3
"""Growth of a kept mesh beyond which it is made anew: a far-off trial point should not burden what follows."""
FRESH, KEPT = 1.0, 10.0
"""Error over tolerance above which a step is cut: on a new mesh, and on one that is kept from the last evaluation."""


@dataclass(frozen=True)
class ParallelInTime:
    """Radau IIA collocation on a mesh of each row's own, solved for all steps at once.

    Args:
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step, relative to the largest value of the state in its row.
        stages: Nodes per step; the order at the end of a step is 2 stages - 1.
        max_newton: Newton iterations before another guess on a finer mesh is tried.

    Raises:
        ModelError: Tolerances that are not positive, stages out of range.
    """

    rtol: float = 1e-8
    atol: float = 1e-10
    stages: int = 6
    max_newton: int = 25

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.max_newton >= 1):
            raise ModelError("Invalid solver settings: rtol and atol must be positive, max_newton at least 1.")
        if not 2 <= self.stages <= 8:
            raise ModelError(f"Invalid solver settings: got stages={self.stages}, expected 2 to 8.")

    @property
    def method(self) -> Radau:
        """The collocation method."""
        return radau(self.stages)

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
            mesh, path, linear, lost = self._values(trajectory.first_copy())
        steps = Steps.on(trajectory, mesh, self.method)
        for _ in range(order if trajectory.requires_grad else 0):
            path = linear.correct(path, *steps.defects(path))
        after = path.end * steps.keep + steps.add
        out = after.gather(2, mesh.end[None, :, :, None].expand(after.shape[0], -1, -1, after.shape[-1]))
        if bool(lost.any()):
            out = torch.where(lost[:, None, None], torch.full_like(out, torch.nan), out)
        return out

    def _values(self, trajectory: Trajectory) -> tuple[Mesh, Path, Linearisation, Tensor]:
        """Mesh, path and its linearisation, and rows without a solution [R]; without a graph."""
        kept = recall(trajectory)
        lost = ~torch.isfinite(trajectory.start).all(-1)[0] | ~torch.isfinite(trajectory.length[0]).all(-1)
        if kept is None:
            mesh, path, lost = self._fresh(trajectory, lost)
        else:
            mesh, path, astray = self._refined(trajectory, *kept, lost)
            anew = torch.nonzero(astray & ~lost).flatten()
            if len(anew):
                # too far from the last evaluation for its mesh and path to help
                fine, way, without = self._fresh(trajectory.take(anew), lost[anew])
                steps = max(mesh.steps, fine.steps)
                mesh = mesh.padded(steps).put(anew, fine.padded(steps)).trimmed()
                path = path.padded(steps).put(anew, way.padded(steps)).rows(None, mesh.steps)
                lost = lost.index_copy(0, anew, without)
        return self._finished(trajectory, mesh, path, lost, kept)

    def _fresh(self, trajectory: Trajectory, lost: Tensor) -> tuple[Mesh, Path, Tensor]:
        """Mesh and path from nothing, and the rows without a solution [R]."""
        rows, stretches = trajectory.length.shape[1:]
        mesh = uniform_mesh(torch.ones(rows, stretches, dtype=torch.int64, device=lost.device))
        path, without = self._guess(_resting(trajectory, lost) if bool(lost.any()) else trajectory, mesh, LOOSE)
        lost = lost | without
        for attempt in range(ATTEMPTS + 1):
            mesh, path, astray = self._refined(trajectory, mesh, path, lost, FRESH)
            astray = astray & ~lost
            again = torch.nonzero(astray).flatten()
            if len(again) == 0 or attempt == ATTEMPTS:
                break
            near = mesh.rows(again).trimmed()
            guess, without = self._guess(trajectory.take(again), near, max(LOOSE * 0.3**attempt, TIGHT))
            path = path.put(again, guess.padded(mesh.steps))
            lost = lost.index_copy(0, again, without)
        return mesh, path, lost | astray

    def _refined(
        self, trajectory: Trajectory, mesh: Mesh, path: Path, lost: Tensor, limit: float = KEPT
    ) -> tuple[Mesh, Path, Tensor]:
        """Newton's method, and finer steps where the error is above `limit` times the tolerance.

        Returns:
            Mesh and path; and the rows [R] where Newton's method did not settle near its guess. Their mesh is finer
            where their guess was rough, their path is of no use.
        """
        rows = len(lost)
        astray = torch.zeros_like(lost)
        active = torch.nonzero(~lost).flatten()
        while len(active):
            everyone = len(active) == rows
            some = trajectory if everyone else trajectory.take(active)
            here = mesh if everyone else mesh.rows(active).trimmed()
            way = path if everyone else path.rows(active, here.steps)
            way, parts, failed = self._improve(some, here, way, limit)
            over = (parts * here.used).sum(1) > MAX_STEPS
            failed = failed | over
            parts = torch.where(over[:, None], torch.ones_like(parts), parts)
            cut = (parts > 1).any(1)
            if bool(cut.any()):
                finer = refine(here, parts)
                way = interpolated_path(way, here, finer, parts, self.method)
                here = finer
            steps = max(mesh.steps, here.steps)
            mesh = mesh.padded(steps).put(active, here.padded(steps))
            path = path.padded(steps).put(active, way.padded(steps))
            astray = astray.index_copy(0, active, failed)
            active = active[cut & ~failed]
            limit = min(limit, 0.5 * KEPT)
        mesh = mesh.trimmed()
        return mesh, path.rows(None, mesh.steps), astray

    def _finished(
        self, trajectory: Trajectory, mesh: Mesh, path: Path, lost: Tensor, kept: tuple[Mesh, Path] | None
    ) -> tuple[Mesh, Path, Linearisation, Tensor]:
        """The result, remembered; rows without a solution are at rest, so that their linearisation is finite."""
        whole = trajectory
        if bool(lost.any()):
            path = Path(*(torch.where(lost.view(1, -1, *[1] * (v.dim() - 2)), 1.0, v) for v in (path.x, path.stages)))
            whole = _resting(trajectory, lost)
        linear = Steps.on(whole, mesh, self.method).linearise(path)
        grown = kept is not None and mesh.steps > WILD * kept[0].steps
        remember(trajectory, mesh, path, lost | grown)
        return mesh, path, linear, lost

    def _guess(self, trajectory: Trajectory, mesh: Mesh, rtol: float) -> tuple[Path, Tensor]:
        """A first path, and the rows [R] that have no solution."""
        path, given_up = explicit_path(trajectory, mesh, self.method, rtol)
        stiff = torch.nonzero(given_up).flatten()
        if len(stiff) == 0:
            return path, given_up
        few = mesh.rows(stiff)
        found, without = stiff_path(trajectory.take(stiff), few, self.method, min(rtol, 1e-4))
        return path.put(stiff, found), given_up.index_copy(0, stiff, without)

    def _improve(self, trajectory: Trajectory, mesh: Mesh, path: Path, limit: float) -> tuple[Path, Tensor, Tensor]:
        """Newton's method on this mesh.

        Returns:
            The path; into how many parts each step must be cut [R, G]; and the rows [R] that must start again from
            another guess, because the iteration did not settle or left the neighbourhood of its guess.
        """
        steps = Steps.on(trajectory, mesh, self.method)
        found, moved = self._newton(steps, path)
        size = path.stages.abs().amax((2, 3), keepdim=True).clamp(min=1e-300)
        away = ((found.stages - path.stages).abs() / size).amax((2, 3, 4))[0].nan_to_num(torch.inf, torch.inf)
        settled = (moved < SETTLED).all(1)
        astray = ~settled | (away > NEAR)
        error = steps.error(found, self.rtol, self.atol).nan_to_num(torch.inf)
        parts = torch.ceil((1.5 * error) ** (0.5 / self.stages)).nan_to_num(posinf=4.0).clamp(2, 4).to(torch.int64)
        moves = mesh.used & (steps.dt[0, ..., 0, 0] > 0)
        parts = torch.where(moves & (error > limit), parts, torch.ones_like(parts))
        if bool(astray.any()):
            rough = moves & ~(steps.stage_error(path, 1.0) < ROUGH)
            rough = torch.where(rough.any(1, keepdim=True), torch.where(rough, 4, 1), torch.where(moves, 2, 1))
            parts = torch.where(astray[:, None], rough, parts)
        return found, parts, astray

    def _newton(self, steps: Steps, path: Path) -> tuple[Path, Tensor]:
        """Newton iterations from `path`; the path, and each step's last move relative to the state [R, G]."""
        for _ in range(self.max_newton):
            linear = steps.linearise(path)
            new = linear.correct(path, *steps.defects(path))
            scale = path.stages.abs() + 1e-3 * path.stages.abs().amax((2, 3), keepdim=True) + 1e-300
            moved = ((new.stages - path.stages).abs() / scale).amax((3, 4))[0].nan_to_num(torch.inf, torch.inf)
            path = new
            largest = moved.amax(1)
            if bool(((largest < SETTLED) | torch.isinf(largest)).all()):
                break
        # one more step with the same matrices: the error was SETTLED, it is now of the order of its square
        return linear.correct(path, *steps.defects(path)), moved


def _resting(trajectory: Trajectory, lost: Tensor) -> Trajectory:
    """The same with the lost rows at rest, so that their linearisation is finite."""
    length = torch.where(lost[:, None], torch.zeros_like(trajectory.length), trajectory.length)
    return Trajectory(
        trajectory.field,
        trajectory.p,
        trajectory.begin,
        length.nan_to_num(0.0),
        trajectory.rate,
        trajectory.keep,
        trajectory.add,
        trajectory.start.nan_to_num(1.0),
    )
