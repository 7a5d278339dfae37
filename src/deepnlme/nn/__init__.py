"""Neural networks as parts of a model: what they are, their weights, and what penalises them."""

from deepnlme.nn.bound import BoundNetwork
from deepnlme.nn.mlp import MLP
from deepnlme.nn.module import Network
from deepnlme.nn.network import NeuralNetwork
from deepnlme.nn.penalties import L1, L2
from deepnlme.nn.scaling import Scaling

__all__ = ["L1", "L2", "MLP", "BoundNetwork", "Network", "NeuralNetwork", "Scaling"]
