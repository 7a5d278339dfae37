"""Supervised learning in which nothing of the test part reaches the training."""

from deepnlme.learning.folds import LearnedFolds, LearningCurve, learn_folds, learning_curve
from deepnlme.learning.learn import learn
from deepnlme.learning.learned import Learned, load_learned
from deepnlme.learning.network import FeedForward, feedforward
from deepnlme.learning.proposals import Range
from deepnlme.learning.search import Search, search
from deepnlme.learning.split import Split, split
from deepnlme.learning.training import Training

__all__ = [
    "FeedForward",
    "Learned",
    "LearnedFolds",
    "LearningCurve",
    "Range",
    "Search",
    "Split",
    "Training",
    "feedforward",
    "learn",
    "learn_folds",
    "learning_curve",
    "load_learned",
    "search",
    "split",
]
