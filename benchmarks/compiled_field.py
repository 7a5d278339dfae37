"""What compiling the vector field gains: a FOCE evaluation of a neural differential equation, compiled and eager.

A function compiled by torch cannot be differentiated twice, and an evaluation takes three derivatives. Here every
derivative is a function of its own: the vector field is compiled without a graph, its reverse pass likewise when it is
first needed, and so on. Other inputs to differentiate and other axes of length 1 make further variants. The package
does not do this; docs/benchmarks.md says why.

Usage: python benchmarks/compiled_field.py [--subjects 10] [--evaluations 12]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx

sys.path.insert(0, str(Path(__file__).parent))

from network_cases import data, neural

import deepnlme as dn
from deepnlme.axes import Names
from deepnlme.dynamics.vector_field import VectorField
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint, calibrated
from deepnlme.nn.bound import BoundNetwork

FEW = 30
"""Places in time below which a call of the field stays eager, as do calls for one row: these are not the long ones."""
AGREEMENT = 1e-8
"""Largest difference of OFV and gradient allowed, relative to the largest entry."""
MOVE = 1e-3
"""Standard deviation of the timed points around the initial values, as steps late in a fit are."""

Function = Callable[..., list[Tensor | None]]


@dataclass
class Level:
    """A function of tensors, compiled at its first call; `reverse` are its reverse passes, levels themselves."""

    function: Function
    label: str
    depth: int
    seconds: list[float]
    reverse: dict[tuple, Level] = field(default_factory=dict)
    absent: list[bool] = field(default_factory=list)
    compiled: Callable[..., Sequence[Tensor]] | None = None

    def run(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs that are not None, without a graph."""
        if self.compiled is not None:
            return self.compiled(*tensors)
        began = time.perf_counter()
        print(f"  compiling {self.label}, derivative {self.depth} ...", end="", flush=True)
        graph = make_fx(self._without_graph, tracing_mode="symbolic")(*tensors)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        self.compiled = torch.compile(graph, dynamic=True, fullgraph=True)
        out = self.compiled(*tensors)
        self.seconds.append(time.perf_counter() - began)
        print(f" {len(graph.graph.nodes)} operations, {self.seconds[-1]:.1f} s", flush=True)
        return out

    def _without_graph(self, *tensors: Tensor) -> list[Tensor]:
        out = self.function(*tensors)
        self.absent = [o is None for o in out]
        return [o.detach() for o in out if o is not None]

    def next(self, wanted: tuple[bool, ...], given: tuple[bool, ...]) -> Level:
        """The reverse pass for the inputs `wanted` from the cotangents of the outputs `given`."""
        if (wanted, given) not in self.reverse:
            back = _reverse_pass(self.function, wanted, given)
            self.reverse[wanted, given] = Level(back, self.label, self.depth + 1, self.seconds)
        return self.reverse[wanted, given]


def _reverse_pass(function: Function, wanted: tuple[bool, ...], given: tuple[bool, ...]) -> Function:
    def back(*tensors: Tensor) -> list[Tensor | None]:
        inputs, cotangents = tensors[: len(wanted)], tensors[len(wanted) :]
        leaves = [x for x, want in zip(inputs, wanted, strict=True) if want]
        with torch.enable_grad():
            for x in leaves:
                x.requires_grad_(True)
            outputs = [o for o in function(*inputs) if o is not None]
            outputs = [o for o, use in zip(outputs, given, strict=True) if use]
            pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
            if not pairs:
                return [None] * len(leaves)
            slopes, along = zip(*pairs, strict=True)
            return list(torch.autograd.grad(slopes, leaves, along, allow_unused=True, create_graph=True))

    return back


class Compiled(torch.autograd.Function):
    """A call of a level; its reverse pass is a call of the next level, so that it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, level: Level, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.level = level
        return tuple(level.run([t.detach() for t in tensors]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        edges = zip(ctx.needs_input_grad[1:], ctx.next_functions[-len(tensors) :], strict=True)
        wanted = tuple(needs and _asked_for(edge[0]) for needs, edge in edges)
        given = tuple(c is not None for c in cotangents)
        if not any(wanted) or not any(given):
            return (None,) * (1 + len(tensors))
        level = ctx.level.next(wanted, given)
        found = iter(Compiled.apply(level, *tensors, *[c for c in cotangents if c is not None]))
        absent = iter(level.absent)
        return (None, *[next(found) if want and not next(absent) else None for want in wanted])


def _asked_for(node: Any) -> bool:
    """Whether the running reverse pass needs the gradient at this node; others cost time."""
    if node is None or "AccumulateGrad" in type(node).__name__:
        return node is not None
    return torch._C._will_engine_execute_node(node)


class Switch:
    """Stands in for `VectorField.__call__` and compiles as long as it is `on`; for one model."""

    def __init__(self) -> None:
        self.eager, self.on, self.calls = VectorField.__call__, False, 0
        self.levels: dict[tuple, Level] = {}
        self.seconds: list[float] = []
        setattr(VectorField, "__call__", lambda vf, p, t, x, theta=None: self(vf, p, t, x, theta))  # noqa: B010

    def __call__(self, vf: VectorField, p: Names, t: Tensor, x: Tensor, theta: Names | None) -> Tensor:
        theta = vf.theta if theta is None else theta
        if not self.on or x.dim() != 4 or x.shape[2] < FEW or x.shape[1] == 1:
            return self.eager(vf, p, t, x, theta)
        rest = [t, *p.values(), *(v.weights if isinstance(v, BoundNetwork) else v for v in theta.values())]
        copies = max(v.shape[0] for v in rest)
        if x.shape[0] < copies:  # the slopes have as many anyway, and this halves the variants
            x = x.expand(copies, -1, -1, -1).contiguous()
        key = tuple(tuple(n == 1 for n in v.shape) for v in (x, *rest))
        if key not in self.levels:
            self.levels[key] = Level(self._flat(vf, p, theta), f"variant {len(self.levels) + 1}", 0, self.seconds)
        self.calls += 1
        return Compiled.apply(self.levels[key], x, *rest)[0]  # pyright: ignore

    def _flat(self, vf: VectorField, p: Names, theta: Names) -> Function:
        """The field as a function of tensors alone."""
        names, like = tuple(p), dict(theta)

        def function(x: Tensor, t: Tensor, *rest: Tensor) -> list[Tensor | None]:
            own, fixed = rest[: len(names)], zip(like.items(), rest[len(names) :], strict=True)
            values = {n: replace(old, weights=v) if isinstance(old, BoundNetwork) else v for (n, old), v in fixed}
            bare = VectorField(vf.dynamics, Names("theta", values), vf.compartments)
            return [self.eager(bare, Names("p", dict(zip(names, own, strict=True))), t, x)]

        return function


def compiler() -> str | None:
    """The C++ compiler that torch would use."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return str(get_cpp_compiler())
    except Exception:  # torch's class for it is not public
        return None


def compare(subjects: int, evaluations: int) -> bool:
    """Compile, check and time; whether compiled and eager agree."""
    switch, population = Switch(), data(1, subjects, 1)[0].population
    joint = Joint(calibrated(neural(seed=1), population), population)
    objective, u = MarginalObjective(joint, dn.FOCE()), joint.space.initial()
    points = u + MOVE * np.random.default_rng(1).standard_normal((evaluations, len(u)))

    def timed(on: bool, at: np.ndarray) -> tuple[float, Any]:
        switch.on = on
        objective._known = None  # at the same point it would answer from memory
        began = time.process_time()  # other work on the machine changes it little
        evaluation = objective(at)
        return time.process_time() - began, evaluation

    for _ in range(2):  # the second from the modes of the first, as are all that follow
        timed(False, u)
        objective.remember()
    for at in points[:3]:
        timed(True, at)
    total = sum(switch.seconds)
    print(f"{len(switch.seconds)} compilations: {total:.0f} s")
    expected, calls = timed(False, u)[1], switch.calls
    found = timed(True, u)[1]
    apart = np.abs(found.gradient - expected.gradient).max() / np.abs(expected.gradient).max()
    apart = max(apart, abs(found.ofv[0] / expected.ofv[0] - 1.0))
    calls = switch.calls - calls
    print(f"largest relative difference of OFV and gradient: {apart:.1e} in {calls} compiled calls")

    graphs = counters["stats"]["unique_graphs"]
    seconds = np.array([[timed(bool(on ^ i % 2), at)[0] for on in (0, 1)] for i, at in enumerate(points)])
    seconds[1::2] = seconds[1::2, ::-1]
    eager, fast = np.median(seconds, axis=0)
    print(
        f"processor ms of an evaluation: eager {1e3 * eager:.1f}, compiled {1e3 * fast:.1f}, medians of {evaluations}"
    )
    print(f"compiled / eager: {np.median(seconds[:, 1] / seconds[:, 0]):.2f}, median of pairs; ", end="")
    print(f"compiled anew meanwhile: {counters['stats']['unique_graphs'] - graphs}")
    gain = eager - fast
    print(f"compiling is repaid after {total / gain:.0f} evaluations" if gain > 0 else "compiling is never repaid")
    return bool(calls and apart < AGREEMENT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=10, help="subjects with 25 observations each")
    parser.add_argument("--evaluations", type=int, default=12, help="timed evaluations of each kind")
    args = parser.parse_args()
    found = compiler()
    if found is None:
        print("skipped: no C++ compiler was found; install g++ or clang, or name one in the variable CXX")
        return
    print(f"MLP(5-7-7-1) in the vector field, {args.subjects} subjects, {found}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as empty:  # nothing compiled earlier is used
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        agree = compare(args.subjects, args.evaluations)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if not agree:
        sys.exit(f"compiled and eager differ by more than {AGREEMENT:g}, or nothing was compiled")


if __name__ == "__main__":
    main()
