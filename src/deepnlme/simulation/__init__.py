"""Simulation of trials: virtual people, their curves and observations, and what a trial would have found."""

from deepnlme.simulation.adaptive import Adaptive, Visit
from deepnlme.simulation.attainment import target_attainment
from deepnlme.simulation.covariate_draws import Copula, Resampled
from deepnlme.simulation.distributions import Truncated
from deepnlme.simulation.dose_finding import DoseFinding, find_dose
from deepnlme.simulation.dose_rules import Bands, PerCovariate
from deepnlme.simulation.exposure import exposure
from deepnlme.simulation.power import Power, trial_power
from deepnlme.simulation.result import Simulation
from deepnlme.simulation.simulate import simulate
from deepnlme.simulation.virtual import virtual_population

__all__ = [
    "Adaptive",
    "Bands",
    "Copula",
    "DoseFinding",
    "PerCovariate",
    "Power",
    "Resampled",
    "Simulation",
    "Truncated",
    "Visit",
    "exposure",
    "find_dose",
    "simulate",
    "target_attainment",
    "trial_power",
    "virtual_population",
]
