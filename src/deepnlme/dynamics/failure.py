"""Why a subject's differential equations have no solution: which state leaves the numbers, and when."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from deepnlme.dynamics.guess import HUGE, MAX_EVALUATIONS
from deepnlme.dynamics.mesh import uniform_mesh
from deepnlme.dynamics.radau import radau
from deepnlme.dynamics.steps import Steps
from deepnlme.dynamics.trajectory import Trajectory


class _TooLong(Exception):
    pass


@dataclass(frozen=True)
class Failure:
    """What goes wrong first on a row's timeline.

    Attributes:
        kind: "start" (the initial state or a dose is not finite), "field" (the derivative is not finite there),
            "explodes" or "stiff".
        state: The state to blame.
        time: On the data's clock.
        value: Of that state there; of "stiff", the fastest rate [1/time] of the linearised system.
    """

    kind: str
    state: str
    time: float
    value: float

    def __str__(self) -> str:
        if self.kind == "start":
            return f"the initial state or a dose of `{self.state}` is not finite at time {self.time:g}"
        if self.kind == "field":
            return (
                f"the derivative of `{self.state}` is not finite at or soon after time {self.time:g}; look for sqrt, "
                "log, a power or a division of a state that can be zero or negative"
            )
        if self.kind == "explodes":
            return (
                f"the differential equations explode: `{self.state}` reaches {self.value:.2g} at time {self.time:.4g}. "
                "Look at the signs of its rates. A network among them should push a large state back: give it that "
                "state as an input, write an elimination -k * x beside it, or start from smaller weights (output_scale)"
            )
        return (
            f"the differential equations are stiffer than the solvers follow at time {self.time:.4g} (fastest rate "
            f"{self.value:.2g} per time unit, in `{self.state}`). Replace the fast process by its steady state, check "
            "the units of the rates, or bound the network that makes it (output_activation, a stronger prior)"
        )


def find_failure(trajectory: Trajectory, row: int) -> Failure | None:
    """The first failure on one row's timeline, found step by step with scipy's LSODA; None if there is none.

    Args:
        trajectory: [1, R, ...].
        row: Which.
    """
    one = trajectory.first_copy().take(torch.tensor([row], device=trajectory.start.device))
    stretches = one.length.shape[-1]
    mesh = uniform_mesh(torch.ones(1, stretches, dtype=torch.int64, device=one.start.device))
    steps = Steps.on(one, mesh, radau(2))
    names = one.field.compartments
    x = one.start[0, 0]
    scale = max(1.0, float(torch.cat([x, one.add.flatten()]).abs().nan_to_num(1.0).max()))
    for g in range(stretches):
        begin, dt = float(steps.time[0, 0, g]), float(steps.dt[0, 0, g])
        if not bool(torch.isfinite(x).all()) or not np.isfinite(dt):
            return Failure("start", names[int((~torch.isfinite(x)).int().argmax())], begin, float("nan"))
        if dt > 0:
            found = _stretch(steps, g, x, begin, dt, scale)
            if isinstance(found, Failure):
                return found
            x = found
        x = x * steps.keep[0, 0, g] + steps.add[0, 0, g]
    return None


def _stretch(steps: Steps, g: int, x: Tensor, begin: float, dt: float, scale: float) -> Tensor | Failure:
    """The state at the end of a stretch, or what fails on it."""
    names = steps.trajectory.field.compartments
    last: list[tuple[float, np.ndarray]] = [(0.0, x.cpu().numpy())]
    undefined: list[int] = []
    count = 0

    def slope(s: float, y: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        if count > MAX_EVALUATIONS:
            raise _TooLong
        state = torch.as_tensor(y, dtype=x.dtype, device=x.device).view(1, 1, -1)
        with torch.no_grad():
            out = dt * steps.slope_at(g, s, state)[0, 0].cpu().numpy()
        wrong = ~np.isfinite(out)
        if wrong.any():
            undefined.append(int(wrong.argmax()))
        elif s >= last[-1][0]:
            last.append((s, y.copy()))
        return out

    first = slope(0.0, last[0][1])
    if not np.isfinite(first).all():
        return Failure("field", names[int(np.argmax(~np.isfinite(first)))], begin, float("nan"))

    def exploded(s: float, y: np.ndarray) -> float:
        del s
        return float(np.abs(y).max() - HUGE * max(scale, float(np.abs(first).max())))

    exploded.terminal = True  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = solve_ivp(slope, (0.0, 1.0), last[0][1], "LSODA", rtol=1e-6, atol=1e-9 * scale, events=exploded)
    except _TooLong:
        s, y = last[-1]
        state, rate = _fastest(steps, g, s, y)
        return Failure("stiff", names[state], begin + s * dt, rate / dt)
    if done.success and done.status == 0 and np.isfinite(done.y[:, -1]).all():
        return torch.as_tensor(done.y[:, -1].copy(), dtype=x.dtype, device=x.device)
    s, y = last[-1]
    worst = int(np.abs(y).argmax())
    if undefined and np.abs(y).max() < 1e3 * scale:
        return Failure("field", names[undefined[-1]], begin + s * dt, float("nan"))
    return Failure("explodes", names[worst], begin + s * dt, float(y[worst]))


def _fastest(steps: Steps, g: int, s: float, y: np.ndarray) -> tuple[int, float]:
    """State and rate of the fastest mode of the vector field linearised at y, per stretch."""
    at = torch.as_tensor(y, dtype=torch.float64)

    def field(state: Tensor) -> Tensor:
        return steps.slope_at(g, s, state.view(1, 1, -1))[0, 0]

    jacobian = torch.autograd.functional.jacobian(field, at).numpy()  # type: ignore[union-attr]
    values, vectors = np.linalg.eig(np.nan_to_num(jacobian))
    worst = int(np.abs(values).argmax())
    return int(np.abs(vectors[:, worst]).argmax()), float(np.abs(values[worst])) * float(steps.dt[0, 0, g])
