"""A model bound to data: the joint density of observations and random effects."""

from deepnlme.joint.calibration import calibrated
from deepnlme.joint.density import Individual, Joint, free_tensor
from deepnlme.joint.prediction import Prediction, assemble

__all__ = ["Individual", "Joint", "Prediction", "assemble", "calibrated", "free_tensor"]
