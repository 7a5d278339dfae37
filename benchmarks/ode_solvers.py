"""One FOCEI evaluation with gradient by each ODE solver: seconds, and the distance of OFV and gradient from the truth.

Usage: python benchmarks/ode_solvers.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from cases import Theophylline, TheophyllineODE, theophylline

import deepnlme as dn
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint

SOLVERS: dict[str, object] = {
    "closed form": None,
    "ParallelInTime rtol 1e-6": dn.ParallelInTime(rtol=1e-6, atol=1e-8),
    "ParallelInTime (default, 1e-8)": dn.ParallelInTime(),
    "ParallelInTime rtol 1e-10": dn.ParallelInTime(rtol=1e-10, atol=1e-12),
    "TorchDiffEq dopri5 rtol 1e-6": dn.TorchDiffEq(rtol=1e-6, atol=1e-8),
    "TorchDiffEq dopri5 rtol 1e-8": dn.TorchDiffEq(),
}


def main() -> None:
    """Print one line per solver."""
    population = theophylline()
    reference = None
    print(f"{'solver':34}{'seconds':>9}{'ratio':>8}{'dOFV':>10}{'dgradient':>11}")
    for name, solver in SOLVERS.items():
        model = Theophylline() if solver is None else TheophyllineODE()
        if solver is not None:
            model.solver = solver
        joint = Joint(model, population)
        objective = MarginalObjective(joint, dn.FOCE())
        u = joint.space.initial()
        objective(u + 1e-6)  # a point nearby, as in a fit: the same one would be answered from memory
        objective.remember()
        began = time.perf_counter()
        evaluation = objective(u)
        seconds = time.perf_counter() - began
        if reference is None:
            reference = (seconds, evaluation)
        difference = abs(evaluation.ofv[0] - reference[1].ofv[0])
        slope = np.abs(evaluation.gradient - reference[1].gradient).max()
        print(f"{name:34}{seconds:>9.4f}{seconds / reference[0]:>8.1f}{difference:>10.1e}{slope:>11.1e}", flush=True)


if __name__ == "__main__":
    main()
