"""Dynamics between observations: closed forms, linear systems, differential equations, and the doses."""

from deepnlme.dynamics.administration import Administered, Dosing, administer
from deepnlme.dynamics.compartments import CompartmentModel, OneCompartment, ThreeCompartment, TwoCompartment
from deepnlme.dynamics.linear import affine_scan, scan, superposition
from deepnlme.dynamics.linear_system import LinearSystem
from deepnlme.dynamics.ode import explain_ode, solve_ode
from deepnlme.dynamics.parallel import ParallelInTime
from deepnlme.dynamics.solver import Solver, TorchDiffEq
from deepnlme.dynamics.timeline import Timeline, build_timeline, gather_time

__all__ = [
    "Administered",
    "CompartmentModel",
    "Dosing",
    "LinearSystem",
    "OneCompartment",
    "ParallelInTime",
    "Solver",
    "ThreeCompartment",
    "Timeline",
    "TorchDiffEq",
    "TwoCompartment",
    "administer",
    "affine_scan",
    "build_timeline",
    "explain_ode",
    "gather_time",
    "scan",
    "solve_ode",
    "superposition",
]
