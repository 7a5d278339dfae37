"""Time and memory of simulations, per curve of 50 times: two compartments, closed form and differential equations.

Each size runs in a process of its own, twice; the second run is shown. *People* are different subjects, *replicates*
are 100 subjects again and again.

Usage: python benchmarks/simulation.py [--most N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from torch import exp

import deepnlme as dn

TIMES = np.linspace(0.5, 48.0, 50)
SIZES = {
    "people": (1_000, 10_000, 100_000, 1_000_000),
    "replicates": (1_000, 10_000, 100_000, 1_000_000),
    "equations": (1_000, 10_000),
}


class Two(dn.Model):
    """Two compartments, first-order absorption, three random effects, log-normal residuals."""

    ka = dn.Positive(1.0)
    cl = dn.Positive(5.0)
    v1 = dn.Positive(20.0)
    q = dn.Positive(4.0)
    v2 = dn.Positive(50.0)
    sd = dn.Positive(0.2)
    eta = dn.RandomEffects("ka", "cl", "v1", omega=0.09)
    dynamics = dn.TwoCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(
            ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v1=theta.v1 * exp(eta.v1), q=theta.q, v2=theta.v2
        )

    def observe(self, theta, p, x):
        return dict(cp=dn.LogNormal(x.central / p.v1, theta.sd))


class Equations(Two):
    """The same as differential equations."""

    def dynamics(self, theta, p, t, x):
        flow = p.q * (x.central / p.v1 - x.peripheral / p.v2)
        return dict(
            depot=-p.ka * x.depot,
            central=p.ka * x.depot - p.cl / p.v1 * x.central - flow,
            peripheral=flow,
        )


def measure(kind: str, curves: int) -> dict:
    """Two runs in this process, the second one timed."""
    subjects = 100 if kind == "replicates" else curves
    model = Equations() if kind == "equations" else Two()
    seconds, made = 0.0, 0.0
    for _ in range(2):
        began = time.perf_counter()
        population = dn.virtual_population(subjects, dn.Dose(100.0))
        made = time.perf_counter() - began
        found = dn.simulate(model, population, TIMES, replicates=curves // subjects, seed=1)
        seconds = time.perf_counter() - began
        assert found.dv is not None and np.isfinite(found.dv[:, :50]).all()
        del found
    return {
        "kind": kind,
        "curves": curves,
        "population_s": made,
        "seconds": seconds,
        "us_per_curve": 1e6 * seconds / curves,
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Run every size in a process of its own and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="largest number of curves")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    results = []
    print(f"{'kind':12}{'curves':>10}{'seconds':>9}{'of them population':>20}{'us per curve':>14}{'peak MB':>9}")
    for kind, sizes in SIZES.items():
        for size in sizes:
            if size > arguments.most:
                continue
            command = [sys.executable, __file__, "--one", kind, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{kind:12}{size:>10}  failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            r = json.loads(done.stdout.strip().splitlines()[-1])
            results.append(r)
            print(
                f"{kind:12}{size:>10}{r['seconds']:>9.2f}{r['population_s']:>20.2f}{r['us_per_curve']:>14.1f}"
                f"{r['peak_MB']:>9.0f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
