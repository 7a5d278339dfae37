"""Meshes and states kept between evaluations of the same rows: a warm start, and a mesh that does not change."""

from __future__ import annotations

import torch
from torch import Tensor

from deepnlme.dynamics.mesh import Mesh
from deepnlme.dynamics.steps import Path
from deepnlme.dynamics.trajectory import Trajectory


def recall(trajectory: Trajectory) -> tuple[Mesh, Path] | None:
    """Mesh and path of these rows at their last evaluation."""
    memory, places = trajectory.memory, trajectory.places
    if memory is None or places is None:
        return None
    if "mesh" not in memory.values:
        if memory.parent is None or "mesh" not in memory.parent[0].values:
            return None
        older, rows = memory.parent
        memory.values = {
            "mesh": older.values["mesh"].rows(rows),
            "x": older.values["x"].index_select(1, rows),
            "stages": older.values["stages"].index_select(1, rows),
            "known": older.values["known"].index_select(0, rows),
        }
    if not bool(memory.values["known"][places].all()):
        return None
    mesh, path = memory.values["mesh"], Path(memory.values["x"], memory.values["stages"])
    if len(places) == memory.size:
        return mesh, path
    mesh = mesh.rows(places).trimmed()
    return mesh, path.rows(places, mesh.steps)


def remember(trajectory: Trajectory, mesh: Mesh, path: Path, lost: Tensor) -> None:
    """Keep mesh and path of these rows, and forget those of the rows `lost` [R]."""
    memory, places = trajectory.memory, trajectory.places
    if memory is None or places is None:
        return
    known = memory.values.get("known")
    if len(places) == memory.size and not bool(lost.any()):
        memory.values = {"mesh": mesh, "x": path.x, "stages": path.stages, "known": ~lost}
        return
    if known is None:
        known = torch.zeros(memory.size, dtype=torch.bool, device=lost.device)
        memory.values["known"] = known
        memory.values["mesh"] = mesh.blank(memory.size)
        memory.values["x"] = path.x.new_zeros(1, memory.size, *path.x.shape[2:])
        memory.values["stages"] = path.stages.new_zeros(1, memory.size, *path.stages.shape[2:])
    memory.values["known"] = known = known.index_copy(0, places, ~lost)
    good = torch.nonzero(~lost).flatten()
    if len(good) == 0:
        return
    where = places[good]
    steps = max(mesh.steps, memory.values["mesh"].steps)
    memory.values["mesh"] = memory.values["mesh"].padded(steps).put(where, mesh.padded(steps).rows(good))
    kept = Path(memory.values["x"], memory.values["stages"]).padded(steps)
    kept = kept.put(where, path.padded(steps).rows(good, steps))
    memory.values["x"], memory.values["stages"] = kept.x, kept.stages
