"""Deep nonlinear mixed-effects modelling for pharmacometrics."""

from deepnlme.data import Dose, Population, Records, Regimen, Subject, read_nonmem
from deepnlme.dynamics import (
    Dosing,
    LinearSystem,
    OneCompartment,
    ParallelInTime,
    ThreeCompartment,
    TorchDiffEq,
    TwoCompartment,
)
from deepnlme.errors import ConvergenceError, DataError, DeepNLMEError, MissingExtraError, ModelError
from deepnlme.estimation import (
    FO,
    FOCE,
    EBEStatus,
    Fit,
    FitStatus,
    Laplace,
    Method,
    NaivePooled,
    Options,
    evaluate_ofv,
    fit,
    load_fit,
    predict,
)
from deepnlme.model import Model
from deepnlme.nn import L1, L2, MLP, Network
from deepnlme.observation import LogNormal, Normal, StudentT, combined1, combined2, power, proportional
from deepnlme.parameters import Bounded, Positive, RandomEffects, Real
from deepnlme.simulation import Adaptive, Simulation, Visit, simulate

__version__ = "0.1.0"

__all__ = [
    "FO",
    "FOCE",
    "L1",
    "L2",
    "MLP",
    "Adaptive",
    "Bounded",
    "ConvergenceError",
    "DataError",
    "DeepNLMEError",
    "Dose",
    "Dosing",
    "EBEStatus",
    "Fit",
    "FitStatus",
    "Laplace",
    "LinearSystem",
    "LogNormal",
    "Method",
    "MissingExtraError",
    "Model",
    "ModelError",
    "NaivePooled",
    "Network",
    "Normal",
    "OneCompartment",
    "Options",
    "ParallelInTime",
    "Population",
    "Positive",
    "RandomEffects",
    "Real",
    "Records",
    "Regimen",
    "Simulation",
    "StudentT",
    "Subject",
    "ThreeCompartment",
    "TorchDiffEq",
    "TwoCompartment",
    "Visit",
    "combined1",
    "combined2",
    "evaluate_ofv",
    "fit",
    "load_fit",
    "power",
    "predict",
    "proportional",
    "read_nonmem",
    "simulate",
]
