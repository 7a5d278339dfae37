"""A model bound to data: the joint density of observations and random effects."""

from deepnlme.joint.calibration import calibrated
from deepnlme.joint.copies import evaluated
from deepnlme.joint.density import Individual, Joint, free_tensor
from deepnlme.joint.places import Places, chunks, cost
from deepnlme.joint.prediction import Prediction, assemble

__all__ = [
    "Individual",
    "Joint",
    "Places",
    "Prediction",
    "assemble",
    "calibrated",
    "chunks",
    "cost",
    "evaluated",
    "free_tensor",
]
