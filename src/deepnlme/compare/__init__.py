"""Comparison of fits: with each other, on subjects that they have not seen, and with those of other programs."""

from deepnlme.compare.comparison import Comparison, compare
from deepnlme.compare.crossvalidated import CrossValidation
from deepnlme.compare.crossvalidation import cross_validate
from deepnlme.compare.distances import PredictiveDistance, predictive_distance
from deepnlme.compare.external import ExternalFit, MappedFit
from deepnlme.compare.nonmem_results import read_nonmem_results
from deepnlme.compare.parameter_tables import read_parameter_table
from deepnlme.compare.ratio import LikelihoodRatio, likelihood_ratio

__all__ = [
    "Comparison",
    "CrossValidation",
    "ExternalFit",
    "LikelihoodRatio",
    "MappedFit",
    "PredictiveDistance",
    "compare",
    "cross_validate",
    "likelihood_ratio",
    "predictive_distance",
    "read_nonmem_results",
    "read_parameter_table",
]
