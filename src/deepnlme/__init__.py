"""Deep nonlinear mixed-effects modelling for pharmacometrics."""

from deepnlme.data import Dose, Population, Records, Regimen, Subject, read_nonmem
from deepnlme.dynamics import Dosing, LinearSystem, OneCompartment, ThreeCompartment, TorchDiffEq, TwoCompartment
from deepnlme.errors import ConvergenceError, DataError, DeepNLMEError, ModelError
from deepnlme.model import Model
from deepnlme.observation import LogNormal, Normal, StudentT, combined1, combined2, power, proportional
from deepnlme.parameters import Bounded, Positive, RandomEffects, Real
