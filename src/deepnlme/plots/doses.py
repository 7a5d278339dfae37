"""When the doses of single subjects are given, and how long they enter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.joint import Joint
from deepnlme.joint.calling import model_arithmetic


@dataclass(frozen=True)
class Doses:
    """The doses of one subject on the clock of its data, additional ones up to its last record.

    Attributes:
        given: Times at which doses are given, each once (float64 [D]).
        start: Times at which those that last begin to enter, after their lag (float64 [I]).
        end: Times at which they have entered, or the last record if that is earlier (float64 [I]).
    """

    given: np.ndarray
    start: np.ndarray
    end: np.ndarray


def doses_of(joint: Joint, values: Any, z: Tensor) -> list[Doses]:
    """The doses of every subject; lag times and modelled rates and durations are those at `z`.

    Args:
        joint: The model bound to S subjects.
        values: Natural parameters, each [1, S].
        z: Whitened random effects [1, S, k].
    """
    batch = joint.batch
    if joint.model.dynamics is None or not bool(batch.dose_valid.any()):
        return [Doses(*[np.empty(0)] * 3)] * batch.rows
    with torch.no_grad(), model_arithmetic():
        found = joint._inputs(*joint.parameters(values, z, batch), batch)[0]
    shape = batch.dose_time.shape
    offset = batch.offset.gather(1, batch.dose_record).numpy()
    given, last = batch.dose_time.numpy() - offset, batch.time.max(1, keepdim=True).values.numpy() - offset
    start = found.start[0].expand(shape).numpy() - offset
    duration = found.duration[0].expand(shape).numpy()
    valid = batch.dose_valid.numpy()
    lasting = valid & (duration > 0) & (start < last)
    end = np.minimum(start + duration, last)
    return [Doses(np.unique(given[i, valid[i]]), start[i, lasting[i]], end[i, lasting[i]]) for i in range(batch.rows)]
