"""Declarations of fixed and random effects, and the space they span."""

from deepnlme.parameters.declarations import Bounded, Parameter, Positive, Real
from deepnlme.parameters.random_effects import RandomEffects
from deepnlme.parameters.space import ParameterSpace, Values

__all__ = ["Bounded", "Parameter", "ParameterSpace", "Positive", "RandomEffects", "Real", "Values"]
