"""Covariates: relations of individual parameters to them, and how such relations are found."""

from deepnlme.covariates.attribution import attribute
from deepnlme.covariates.augment import Augmented, augment
from deepnlme.covariates.forms import Relation
from deepnlme.covariates.lasso import lasso
from deepnlme.covariates.relations import CovariateModel, with_covariates
from deepnlme.covariates.scm import scm
from deepnlme.covariates.screening import screen
from deepnlme.covariates.selection import Selection
from deepnlme.covariates.targets import EffectTargets, effect_targets

__all__ = [
    "Augmented",
    "CovariateModel",
    "EffectTargets",
    "Relation",
    "Selection",
    "attribute",
    "augment",
    "effect_targets",
    "lasso",
    "scm",
    "screen",
    "with_covariates",
]
