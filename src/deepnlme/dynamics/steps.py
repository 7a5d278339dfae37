"""All collocation steps of a mesh as one batch: residuals, linearisation, error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.dynamics.mesh import Mesh
from deepnlme.dynamics.radau import Radau
from deepnlme.dynamics.recursion import Recursion
from deepnlme.dynamics.trajectory import Trajectory, at_places, gather_places


@dataclass(frozen=True)
class Path:
    """A trajectory on a mesh of G steps with s stages.

    Attributes:
        x: [K, R, G, n] the state before each step.
        stages: [K, R, G, s, n] the states at the nodes; the last is the end of the step.
    """

    x: Tensor
    stages: Tensor

    @property
    def end(self) -> Tensor:
        """[K, R, G, n] the state at the end of each step, before its event."""
        return self.stages[..., -1, :]

    def rows(self, index: Tensor | None, steps: int) -> Path:
        """The first steps of some of the rows."""
        x, stages = self.x[:, :, :steps], self.stages[:, :, :steps]
        return Path(x, stages) if index is None else Path(x.index_select(1, index), stages.index_select(1, index))

    def padded(self, steps: int) -> Path:
        """Repeated at the end, for a mesh padded with steps of length zero."""
        missing = steps - self.x.shape[2]
        if missing == 0:
            return self
        parts = ((v, v[:, :, -1:]) for v in (self.x, self.stages))
        return Path(*(torch.cat([v, end.expand(-1, -1, missing, *end.shape[3:])], 2) for v, end in parts))

    def put(self, index: Tensor, other: Path) -> Path:
        """With the rows `index` replaced by those of another path."""
        return Path(self.x.index_copy(1, index, other.x), self.stages.index_copy(1, index, other.stages))


@dataclass(frozen=True)
class Linearisation:
    """The collocation equations linearised at a path, ready to be solved for many right-hand sides.

    With W = (I - dt A df/dx)^-1 of every step, its stages follow the state before it by W (1 x), and what the slopes
    leave open by W A.

    Attributes:
        inverse: [R, G, s n, s n] W.
        of_slopes: [R, G, s n, s n] W A.
        of_begin: [R, G, s n, n] W 1.
        recursion: From the state before one step to that before the next.
        keep: [R, G, 1, 1] factor of the event after each step.
    """

    inverse: Tensor
    of_slopes: Tensor
    of_begin: Tensor
    recursion: Recursion
    keep: Tensor

    def correct(self, path: Path, slopes: Tensor, jump: Tensor) -> Path:
        """The path that solves the linearised equations.

        Args:
            path: [K or 1, ...] where they were linearised (or close to it).
            slopes: [K, R, G, s, n] dt f at its nodes.
            jump: [K, R, G, n] what is missing from each step's beginning: of the first, start - x; of the others,
                keep * end + add - x.
        """
        n = jump.shape[-1]
        open_ = (path.stages - path.x.unsqueeze(-2)).flatten(-2).permute(1, 2, 3, 0)
        pull = self.of_slopes @ slopes.flatten(-2).permute(1, 2, 3, 0) - self.inverse @ open_
        missing = jump.permute(1, 2, 3, 0)
        k = max(pull.shape[-1], missing.shape[-1])
        later = missing[:, 1:] + (self.keep * pull[:, :, -n:])[:, :-1]
        right = torch.cat([missing[:, :1].expand(-1, -1, -1, k), later.expand(-1, -1, -1, k)], 1)
        move = self.recursion(right)
        stages = self.of_begin @ move + pull
        x = path.x + move.permute(3, 0, 1, 2)
        return Path(x, path.stages + stages.permute(3, 0, 1, 2).unflatten(-1, (-1, n)))


@dataclass(frozen=True)
class Steps:
    """All steps of a mesh.

    Attributes:
        trajectory: What is solved.
        mesh: Its mesh.
        method: The collocation method.
        p: Individual parameters at the nodes, each [K, R, 1] or [K, R, G s].
        dt: [K, R, G, 1, 1] length of each step.
        time: [K, R, G] the data's time at its beginning.
        node_time: [K, R, G s] the data's time at its nodes.
        rate: [K, R, G, 1, n] input on it, or None.
        keep: [1, R, G, 1] factor after it (0 at a reset).
        add: [K, R, G, n] jump after it.
        a, c: The method's coefficients as tensors.
    """

    trajectory: Trajectory
    mesh: Mesh
    method: Radau
    p: Names
    p_begin: Names
    dt: Tensor
    time: Tensor
    node_time: Tensor
    rate: Tensor | None
    keep: Tensor
    add: Tensor
    a: Tensor
    c: Tensor

    @classmethod
    def on(cls, trajectory: Trajectory, mesh: Mesh, method: Radau) -> Steps:
        """The steps of a mesh."""
        like = trajectory.start
        a = torch.tensor(method.a, dtype=like.dtype, device=like.device)
        c = torch.tensor(method.c, dtype=like.dtype, device=like.device)
        length = gather_places(trajectory.length, mesh.piece)
        begin = gather_places(trajectory.begin, mesh.piece)
        dt = length * (mesh.right - mesh.left)
        time = begin + mesh.left * length
        last = mesh.last[None, :, :, None]
        keep = gather_places(trajectory.keep, mesh.piece).unsqueeze(-1)
        add = gather_places(trajectory.add, mesh.piece)
        rate = None if trajectory.rate is None else gather_places(trajectory.rate, mesh.piece).unsqueeze(-2)
        nodes = mesh.piece.repeat_interleave(method.stages, 1)
        return cls(
            trajectory,
            mesh,
            method,
            at_places(trajectory.p, "p", nodes),
            at_places(trajectory.p, "p", mesh.piece),
            dt[..., None, None],
            time,
            (time.unsqueeze(-1) + dt.unsqueeze(-1) * c).flatten(-2),
            rate,
            torch.where(last, keep, torch.ones_like(keep)),
            torch.where(last, add, torch.zeros_like(add)),
            a,
            c,
        )

    def slopes(self, stages: Tensor) -> Tensor:
        """dt (f + rate) at every node, [K, R, G, s, n]."""
        out = self.trajectory.field(self.p, self.node_time, stages.flatten(2, 3))
        out = out.unflatten(2, stages.shape[2:4])
        if self.rate is not None:
            out = out + self.rate
        return out * self.dt

    def slope_at(self, step: int, share: float, x: Tensor) -> Tensor:
        """f + rate at a relative position of one step, [K, R, n] from x of that shape."""
        part = slice(step, step + 1)
        p = Names("p", {k: v[:, :, part] if v.shape[2] > 1 else v for k, v in self.p_begin.items()})
        time = self.time[:, :, part] + share * self.dt[:, :, part, 0, 0]
        out = self.trajectory.field(p, time, x.unsqueeze(2)).squeeze(2)
        return out if self.rate is None else out + self.rate[:, :, step, 0]

    def defects(self, path: Path) -> tuple[Tensor, Tensor]:
        """dt f at every node [K, R, G, s, n], and what is missing at each beginning [K, R, G, n]."""
        start = self.trajectory.start.unsqueeze(2)
        after = path.end[:, :, :-1] * self.keep[:, :, :-1] + self.add[:, :, :-1]
        k = max(start.shape[0], after.shape[0])
        begin = torch.cat([start.expand(k, -1, -1, -1), after.expand(k, -1, -1, -1)], 2)
        return self.slopes(path.stages), begin - path.x

    def linearise(self, path: Path) -> Linearisation:
        """The equations linearised at a path [1, R, ...], without a graph."""
        n = path.x.shape[-1]
        s = self.method.stages
        with torch.enable_grad():
            leaf = path.stages.detach().expand(n, *path.stages.shape[1:]).clone().requires_grad_()
            value = self.slopes(leaf)
            seed = torch.eye(n, dtype=leaf.dtype, device=leaf.device)[:, None, None, None, :].expand_as(value)
            if value.requires_grad:
                (rows,) = torch.autograd.grad(value, leaf, seed, allow_unused=True)
            else:
                rows = None
        rows = torch.zeros_like(leaf) if rows is None else rows
        jacobian = rows.permute(1, 2, 3, 0, 4)  # [R, G, s, n, n]
        a = self.a.contiguous()
        blocks = jacobian.transpose(2, 3).contiguous().unsqueeze(2)  # [R, G, 1, n, s, n]
        matrix = (a.neg().view(s, 1, s, 1) * blocks).reshape(*jacobian.shape[:2], s * n, s * n)
        matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
        inverse = torch.linalg.inv_ex(matrix.mT).inverse.mT  # rows contiguous, so that nothing below is copied
        keep = self.keep[0].unsqueeze(-1)
        eye = torch.eye(n, dtype=a.dtype, device=a.device)
        both = inverse.reshape(-1, s * n) @ torch.cat([torch.kron(a, eye), eye.repeat(s, 1)], 1)
        both = both.view(*matrix.shape[:3], -1)
        of_slopes, of_begin = both[..., : s * n].contiguous(), both[..., s * n :].contiguous()
        across = of_begin[:, :, -n:] * keep
        before = torch.cat([torch.zeros_like(across[:, :1]), across[:, :-1]], 1)
        return Linearisation(inverse, of_slopes, of_begin, Recursion(before), keep)

    def stage_error(self, path: Path, floor: float) -> Tensor:
        """Estimated error of the stages of every step, relative to the state and to `floor` times its largest, [R, G].

        It comes from the polynomial's defect at the beginning of a step, which the collocation leaves free.
        """
        slope = self.trajectory.field(self.p_begin, self.time, path.x)
        if self.rate is not None:
            slope = slope + self.rate.squeeze(-2)
        weights = torch.tensor(self.method.slope, dtype=slope.dtype, device=slope.device)
        nodes = torch.cat([path.x.unsqueeze(-2), path.stages], -2)
        defect = torch.einsum("j,krgjn->krgn", weights, nodes) - slope * self.dt.squeeze(-1)
        size = torch.maximum(path.x.abs(), path.end.abs())
        largest = nodes.abs().amax((2, 3)).unsqueeze(2)
        return (self.method.spread * defect.abs() / (size + floor * largest + 1e-300)).amax(-1)[0]

    def error(self, path: Path, rtol: float, atol: float) -> Tensor:
        """Estimated error at the end of every step over its tolerance, [R, G]; see `Radau.factor`."""
        return self.method.factor * self.stage_error(path, atol / rtol) ** self.method.power / rtol
