"""From network to mechanism: what a learned function does, and which formula does the same."""

from deepnlme.discovery.distil import distil
from deepnlme.discovery.distillation import Candidate, Distillation
from deepnlme.discovery.effects import EffectCurves, effect_curves
from deepnlme.discovery.refits import Refits, refitted
from deepnlme.discovery.replaced import formulas_in
from deepnlme.discovery.visited import visited

__all__ = [
    "Candidate",
    "Distillation",
    "EffectCurves",
    "Refits",
    "distil",
    "effect_curves",
    "formulas_in",
    "refitted",
    "visited",
]
