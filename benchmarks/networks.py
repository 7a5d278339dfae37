"""Benchmarks of models with networks; every part in a process of its own.

stages      a default fit of models/deep_nlme.py: where the seconds go
subjects    the same model and 1,000 subjects: seconds per evaluation and iteration, memory, and what a fit with a time
            limit reaches beside the true model on the same data
pooled      a neural differential equation of 16 weights without random effects, from 8 seeds of the weights
optimisers  Gauss-Newton in a trust region, and BFGS, from the same start: the objective after so many seconds
solvers     one evaluation by ParallelInTime and by TorchDiffEq

Seconds are those of the processor, which other work on the machine changes little; the limit and the fits' own seconds
too. Where torch sees a GPU the first two parts run there as well, in seconds of the clock on the wall.

Usage: python benchmarks/networks.py [PART ...] [--subjects 1000] [--limit 600] [--seed 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from network_cases import IndirectResponse, Saturable, data, learned, neural, pooled_data

import deepnlme as dn
from deepnlme.dynamics.parallel import ParallelInTime
from deepnlme.estimation import trust_region
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint, calibrated

# the package exports a function of that name
fitting = importlib.import_module("deepnlme.estimation.fit")
evaluating = importlib.import_module("deepnlme.estimation.objective")
watching = importlib.import_module("deepnlme.estimation.watch")
ON_GPU = "cuda" in sys.argv

PLACES = {
    "units of the network": (fitting, "calibrated"),
    "checks before the fit": (fitting, "prepared"),
    "first solutions": (ParallelInTime, "_fresh"),
    "modes": (evaluating, "find_modes"),
    "modes at the start": (evaluating, "find_modes_from_many"),
    "value and gradient": (MarginalObjective, "_rows"),
    "information": (trust_region, "information"),
}
"""Functions of the package whose own time is measured; what a function calls from this list counts there alone."""
MOVE = 1e-3
"""Standard deviation of the parameters from one timed evaluation to the next, as in late iterations."""
MARKS = (5, 10, 20, 40, 80, 120)
"""Seconds after which the optimisers are compared."""


@contextmanager
def stopwatches() -> Iterator[tuple[dict[str, float], dict[str, int]]]:
    """Seconds and calls of each of `PLACES`, the seconds without what the others of them took inside it."""
    seconds, calls = dict.fromkeys(PLACES, 0.0), dict.fromkeys(PLACES, 0)
    inside: list[float] = []
    originals = {name: getattr(*place) for name, place in PLACES.items()}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            began = clock()
            calls[name] += 1
            try:
                return function(*args, **kwargs)
            finally:
                took = clock() - began
                seconds[name] += took - inside.pop()
                if inside:
                    inside[-1] += took

        return run

    for name, (owner, attribute) in PLACES.items():
        setattr(owner, attribute, timed(name, originals[name]))
    try:
        yield seconds, calls
    finally:
        for name, (owner, attribute) in PLACES.items():
            setattr(owner, attribute, originals[name])


def quiet(**changes: Any) -> dn.Options:
    """Options without a progress line."""
    return dn.Options(progress=False, covariance=None, **changes)


def clock() -> float:
    """Seconds of the processor; once a GPU is used those on the wall, when it has done what it was asked to."""
    if ON_GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def objective_of(model: dn.Model, population: dn.Population, device: str = "cpu") -> tuple[MarginalObjective, Any]:
    """The objective of FOCE and the initial values."""
    joint = Joint(calibrated(model, population), population)
    return MarginalObjective(joint, dn.FOCE(), device=device), joint.space.initial()


def stages(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The split of a default fit; "other" is what none of the places holds."""
    population = data(1)[0].population
    wall = time.perf_counter()
    with stopwatches() as (seconds, calls):
        began = clock()
        fit = dn.fit(neural(args.seed), population, dn.FOCE(), options=quiet(device=args.device))
        total = clock() - began
    split = {**seconds, "other": total - sum(seconds.values()), "compilation": 0.0, "total": total}
    yield {
        "subjects": len(population),
        "observations": fit.n_observations,
        "iterations": len(fit.trace.ofv),
        "ofv": fit.ofv,
        "penalty": fit.penalty,
        "status": fit.status.name,
        "wall [s]": time.perf_counter() - wall,
        "peak_MB": peak(),
    }
    for name, value in split.items():
        yield {"stage": name, "seconds": value, "share": value / total, "calls": calls.get(name)}


def subjects(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Many subjects."""
    population = data(1, args.subjects, 1)[0].population
    objective, u = objective_of(neural(args.seed), population, args.device)
    generator = np.random.default_rng(1)
    took = []
    for i in range(4):
        began = clock()
        evaluation = objective(u + (i > 0) * MOVE * generator.standard_normal(len(u)))
        took.append(clock() - began)
        objective.remember()
    evaluation = objective(u)
    began = clock()
    trust_region.information(objective, evaluation)
    information = clock() - began
    yield {
        "subjects": len(population),
        "parameters": len(u),
        "first evaluation [s]": took[0],
        "evaluation [s]": float(np.median(took[1:])),
        "information [s]": information,
        "peak_MB": peak(),
    }
    del objective
    fit = dn.fit(neural(args.seed), population, options=quiet(device=args.device, time_limit=args.limit))
    truth = dn.evaluate_ofv(IndirectResponse(), population, options=quiet(device=args.device)).ofv
    yield {
        "fit [s]": sum(fit.seconds.values()),
        "iterations": len(fit.trace.ofv),
        "iteration [s]": float(np.median(np.diff([0.0, *fit.trace.seconds]))),
        "ofv/subject": fit.ofv / len(population),
        "penalty/subject": fit.penalty / len(population),
        "true ofv/subject": truth / len(population),
        "status": fit.status.name,
        "peak_MB": peak(),
    }


def pooled(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Eight seeds one after the other, then side by side; and the true model fitted."""
    population = pooled_data()
    truth = dn.fit(Saturable(), population, options=quiet())
    yield {"seed": "true", "seconds": sum(truth.seconds.values()), "ofv": truth.ofv, "status": truth.status.name}
    for seed in range(8):
        fit = dn.fit(learned(seed), population, options=quiet(device=args.device))
        yield {
            "seed": seed,
            "seconds": sum(fit.seconds.values()),
            "iterations": len(fit.trace.ofv),
            "ofv": fit.ofv,
            "status": fit.status.name,
        }
    fit = dn.fit(learned(0), population, options=quiet(device=args.device, starts=8))
    yield {"seed": "8 together", "seconds": sum(fit.seconds.values()), "ofv": fit.ofv, "status": fit.status.name}


def optimisers(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The objective, OFV + penalty, that each has reached."""
    population = data(1)[0].population
    for name in ("gauss-newton", "bfgs"):
        limit = min(args.limit, MARKS[-1])
        fit = dn.fit(neural(args.seed), population, options=quiet(optimiser=name, time_limit=limit))
        value = np.array(fit.trace.ofv) + np.array(fit.trace.penalty)
        seconds = np.array(fit.trace.seconds)
        row: dict[str, Any] = {"optimiser": name}
        for mark in MARKS:
            before = np.flatnonzero(seconds <= mark)
            known = len(before) and (mark <= limit or fit.status is not dn.FitStatus.TIME_LIMIT)
            row[f"{mark} s"] = float(value[before[-1]]) if known else None
        yield row | {"end": fit.ofv + fit.penalty, "end [s]": float(seconds[-1]), "iterations": len(value),
                     "status": fit.status.name}  # fmt: skip


def solvers(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Near the initial values: the median of five evaluations, and a single one by the slow solver in their midst."""
    population = data(1)[0].population
    kinds = {"ParallelInTime": dn.ParallelInTime(), "TorchDiffEq": dn.TorchDiffEq()}
    objectives, took, found = {}, {name: [] for name in kinds}, {}
    for name, solver in kinds.items():
        model = neural(args.seed)
        model.solver = solver
        objectives[name], u = objective_of(model, population)
        if found:  # the search for the first modes is left to the fast solver
            objectives[name].start_from(u, found["ParallelInTime"].z[0])
        found[name] = objectives[name](u)
        objectives[name].remember()
    generator = np.random.default_rng(1)
    for i in range(5):
        at = u + MOVE * generator.standard_normal(len(u))
        for name, objective in objectives.items():
            if name == "ParallelInTime" or i == 2:
                began = clock()
                objective(at)
                took[name].append(clock() - began)
    first = float(np.median(took["ParallelInTime"]))
    for name in kinds:
        exact = found["ParallelInTime"].gradient
        apart = np.abs(found[name].gradient - exact).max() / np.abs(exact).max()
        yield {
            "solver": name,
            "evaluation [s]": float(np.median(took[name])),
            "ratio": float(np.median(took[name])) / first,
            "dOFV": float(found[name].ofv[0] - found["ParallelInTime"].ofv[0]),
            "relative dgradient": float(apart),
        }


def peak() -> float:
    """Largest memory of this process [MB]; on the GPU if one is used."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {f.__name__: f for f in (stages, subjects, pooled, optimisers, solvers)}
ON_DEVICE = ("stages", "subjects")
"""Parts that are also run on the GPU."""


def shown(value: Any) -> str:
    """A number to five digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*PARTS, []], help="which parts (default: all)")
    parser.add_argument("--subjects", type=int, default=1000, help="of the part `subjects`")
    parser.add_argument("--limit", type=float, default=600.0, help="time limit of long fits [s]")
    parser.add_argument("--seed", type=int, default=1, help="of the network's initial weights")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        if not ON_GPU:  # the time limit and the trace by the same clock
            for module in (fitting, watching):
                module.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[attr-defined]
        for row in PARTS[args.parts[0]](args):
            print(json.dumps(row), flush=True)
        return
    results = []
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for part in args.parts or PARTS:
        for device in devices if part in ON_DEVICE else ["cpu"]:
            results += run(part, device, args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def run(part: str, device: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One part in a process of its own, shown line by line."""
    print(f"\n{part} on {device}, load {os.getloadavg()[0]:.1f}", flush=True)
    command = [sys.executable, __file__, part, "--one", "--device", device, "--subjects", str(args.subjects)]
    rows = []
    command += ["--limit", str(args.limit), "--seed", str(args.seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            rows.append({"part": part, "device": device, "load": os.getloadavg()[0], **json.loads(line)})
            print("  " + "  ".join(f"{k} {shown(v)}" for k, v in json.loads(line).items()), flush=True)
    if process.returncode:
        print(f"  failed with exit code {process.returncode}; the message is above")
    return rows


if __name__ == "__main__":
    main()
