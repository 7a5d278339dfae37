"""Diagnostics of a fit: tables first, each with a picture in `deepnlme.plots`."""

from deepnlme.diagnostics.covariate_effects import covariate_effects
from deepnlme.diagnostics.influence import Influence, influence
from deepnlme.diagnostics.npde import NPDE, npde
from deepnlme.diagnostics.predictive_check import PredictiveCheck, predictive_check
from deepnlme.diagnostics.residual_tests import residual_tests
from deepnlme.diagnostics.shrinkage import shrinkage
from deepnlme.diagnostics.vpc import VPC, vpc

__all__ = [
    "NPDE",
    "VPC",
    "Influence",
    "PredictiveCheck",
    "covariate_effects",
    "influence",
    "npde",
    "predictive_check",
    "residual_tests",
    "shrinkage",
    "vpc",
]
