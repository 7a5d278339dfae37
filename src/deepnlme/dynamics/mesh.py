"""The mesh of a trajectory: every stretch between events cut into steps, for each row its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """Steps of R rows, G of them (rows with fewer end in steps of length zero).

    Attributes:
        piece: [R, G] the stretch that each step belongs to.
        left, right: [R, G] where it begins and ends, relative to the stretch.
        last: [R, G] whether it is the last step of its stretch.
        end: [R, E] the last step of each stretch.
    """

    piece: Tensor
    left: Tensor
    right: Tensor
    last: Tensor
    end: Tensor

    @property
    def steps(self) -> int:
        """Steps per row, G."""
        return self.piece.shape[1]

    @property
    def used(self) -> Tensor:
        """[R, G] steps that are not padding."""
        return (self.right > self.left) | self.last

    def rows(self, index: Tensor) -> Mesh:
        """Some of the rows."""
        return Mesh(*(v.index_select(0, index) for v in (self.piece, self.left, self.right, self.last, self.end)))

    def first(self, steps: int) -> Mesh:
        """Only the first steps (the others have length zero)."""
        left, right = self.left[:, :steps], self.right[:, :steps]
        return Mesh(self.piece[:, :steps], left, right, self.last[:, :steps], self.end)

    def trimmed(self) -> Mesh:
        """Without the steps at the end that no row uses."""
        return self.first(int(self.end.max()) + 1)

    def padded(self, steps: int) -> Mesh:
        """With steps of length zero at the end, up to `steps`."""
        more = steps - self.steps
        if more == 0:
            return self
        shape = (self.piece.shape[0], more)
        one = self.left.new_ones(shape)
        return Mesh(
            torch.cat([self.piece, self.piece.new_full(shape, self.end.shape[1] - 1)], 1),
            torch.cat([self.left, one], 1),
            torch.cat([self.right, one], 1),
            torch.cat([self.last, self.last.new_zeros(shape)], 1),
            self.end,
        )

    def blank(self, rows: int) -> Mesh:
        """A mesh of the same shape for other rows, to be filled."""
        parts = (self.piece, self.left, self.right, self.last, self.end)
        return Mesh(*(v.new_zeros(rows, *v.shape[1:]) for v in parts))

    def put(self, index: Tensor, other: Mesh) -> Mesh:
        """With the rows `index` replaced by those of another mesh."""
        pairs = ((getattr(self, f), getattr(other, f)) for f in self.__dataclass_fields__)
        return Mesh(*(mine.index_copy(0, index, theirs) for mine, theirs in pairs))


def uniform_mesh(counts: Tensor) -> Mesh:
    """Equal steps within each stretch.

    Args:
        counts: [R, E] whole numbers of steps, at least 1.
    """
    rows, pieces = counts.shape
    total = counts.sum(1)
    steps = int(total.max())
    ends = torch.cumsum(counts, 1)
    g = torch.arange(steps, device=counts.device).expand(rows, steps)
    piece = torch.searchsorted(ends, g.contiguous(), right=True).clamp(max=pieces - 1)
    begin = (ends - counts).gather(1, piece)
    count = counts.gather(1, piece)
    inside = g < total[:, None]
    left = torch.where(inside, (g - begin) / count, torch.ones_like(g, dtype=torch.float64))
    right = torch.where(inside, (g - begin + 1) / count, torch.ones_like(left))
    last = (g == ends.gather(1, piece) - 1) & inside
    return Mesh(piece, left, right, last, ends - 1)


def refine(mesh: Mesh, parts: Tensor) -> Mesh:
    """Each step cut into `parts` [R, G] equal ones (at least 1)."""
    rows, steps = mesh.piece.shape
    inside = mesh.used
    parts = torch.where(inside, parts, torch.zeros_like(parts))
    total = parts.sum(1)
    width = int(total.max())
    ends = torch.cumsum(parts, 1)
    g = torch.arange(width, device=parts.device).expand(rows, width)
    old = torch.searchsorted(ends, g.contiguous(), right=True).clamp(max=steps - 1)
    share = (g - (ends - parts).gather(1, old)).to(torch.float64)
    count = parts.gather(1, old).clamp(min=1).to(torch.float64)
    valid = g < total[:, None]
    a, b = mesh.left.gather(1, old), mesh.right.gather(1, old)
    one = torch.ones_like(a)
    left = torch.where(valid, a + (b - a) * share / count, one)
    right = torch.where(valid, torch.where(share + 1 >= count, b, a + (b - a) * (share + 1) / count), one)
    last = mesh.last.gather(1, old) & (share + 1 >= count) & valid
    piece = torch.where(valid, mesh.piece.gather(1, old), mesh.end.shape[1] - 1)
    end = (ends - 1).gather(1, mesh.end)
    return Mesh(piece, left, right, last, end)
