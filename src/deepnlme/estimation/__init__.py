"""Estimation: methods, the fit, and what it returns."""

from deepnlme.estimation.bootstrap import Bootstrap, bootstrap
from deepnlme.estimation.fit import evaluate_ofv, fit, predict
from deepnlme.estimation.fo import FO
from deepnlme.estimation.foce import FOCE
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.laplace import Laplace
from deepnlme.estimation.load import load_fit
from deepnlme.estimation.method import Method
from deepnlme.estimation.naive_pooled import NaivePooled
from deepnlme.estimation.options import Options
from deepnlme.estimation.result import Fit
from deepnlme.estimation.sir import SIR, sir
from deepnlme.estimation.watch import FitStatus

__all__ = [
    "FO",
    "FOCE",
    "SIR",
    "Bootstrap",
    "EBEStatus",
    "Fit",
    "FitStatus",
    "Laplace",
    "Method",
    "NaivePooled",
    "Options",
    "bootstrap",
    "evaluate_ofv",
    "fit",
    "load_fit",
    "predict",
    "sir",
]
