"""Residual and other likelihoods of the observations."""

from deepnlme.observation.contributions import (
    censored_curvature,
    censored_log_probability,
    gaussian_log_density,
    is_gaussian,
)
from deepnlme.observation.likelihoods import (
    Gaussian,
    LogNormal,
    Normal,
    StudentT,
    combined1,
    combined2,
    power,
    proportional,
)

__all__ = [
    "Gaussian",
    "LogNormal",
    "Normal",
    "StudentT",
    "censored_curvature",
    "censored_log_probability",
    "combined1",
    "combined2",
    "gaussian_log_density",
    "is_gaussian",
    "power",
    "proportional",
]
