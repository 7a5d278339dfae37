"""Simulation of trials: virtual people, their curves and observations, and what a trial would have found."""

from deepnlme.simulation.adaptive import Adaptive, Visit
from deepnlme.simulation.result import Simulation
from deepnlme.simulation.simulate import simulate

__all__ = ["Adaptive", "Simulation", "Visit", "simulate"]
