"""What is minimised, what a network's outputs then mean, and how predictions are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepnlme.errors import DataError, ModelError, invalid

LOG_VARIANCE_MIN = -18.0
"""Least logarithm of a learned variance, on the standardised scale: a standard deviation of 1e-4 of the targets'."""
TINY = 1e-12


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        name: What it is called.
        values: Of outputs [N, O] and targets [N, T] on the learning scale, the loss of every element [N, T].
        scaled: Whether targets are standardised: they are quantities, not classes.
        per_target: Outputs of the network for one target; 0 for one per class.
    """

    name: str
    values: Callable[[Tensor, Tensor], Tensor]
    scaled: bool
    per_target: int = 1

    def outputs(self, targets: int, classes: int) -> int:
        """How many outputs the network must have."""
        return self.per_target * targets if self.per_target else classes

    def classes(self, y: np.ndarray, names: Sequence[str]) -> int:
        """Number of classes in the targets, 0 where they are quantities.

        Raises:
            DataError: They are not 0 .. K-1.
        """
        if self.scaled:
            return 0
        found = np.unique(y)
        if self.per_target:
            expected = np.array([0.0, 1.0])
            rule = f"The loss {self.name} needs classes 0 and 1, both present"
        else:
            expected = np.arange(max(2, len(found)), dtype=np.float64)
            rule = f"The loss {self.name} needs classes 0 .. K-1, all present, in one column"
        columns = y.T if self.per_target else [y]
        if any(not np.array_equal(np.unique(c), expected) for c in columns) or (not self.per_target and y.shape[1] > 1):
            shown = ", ".join(f"{v:g}" for v in found[:6]) + (" ..." if len(found) > 6 else "")
            fix = "Code them: labels, y = numpy.unique(values, return_inverse=True)"
            raise DataError(invalid("targets", shown, rule, f"column {', '.join(names)}", fix))
        return len(expected)

    def columns(self, targets: Sequence[str], classes: int) -> list[str]:
        """Names of the columns of a prediction."""
        if self.name == "gaussian":
            return [column for name in targets for column in (name, f"{name}_SD")]
        if self.name == "binary":
            return [f"P({name}=1)" for name in targets]
        if self.name == "multiclass":
            return [f"P({targets[0]}={k})" for k in range(classes)]
        return list(targets)

    def natural(self, out: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Outputs [N, O] as predictions on the natural scale, in the order of `columns`."""
        if self.name == "gaussian":
            mean, log_variance = np.split(out, 2, axis=1)
            sd = np.exp(0.5 * np.maximum(log_variance, LOG_VARIANCE_MIN)) * scale
            return np.stack([mean * scale + center, sd], axis=2).reshape(len(out), -1)
        if self.name == "binary":
            return torch.sigmoid(torch.from_numpy(out)).numpy()
        if self.name == "multiclass":
            return torch.softmax(torch.from_numpy(out), 1).numpy()
        if self.name == "perceptron":
            return (out > 0).astype(np.float64)
        return out * scale + center

    def scores(self, predicted: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """Measures of predictions; the first is the one that a search minimises."""
        if self.name == "binary":
            p = np.clip(predicted, TINY, 1 - TINY)
            loss = -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))
            return {"log loss": float(loss), "accuracy": float(np.mean((predicted > 0.5) == (y > 0.5)))}
        if self.name == "multiclass":
            own = predicted[np.arange(len(y)), y[:, 0].astype(np.int64)]
            accuracy = float(np.mean(predicted.argmax(axis=1) == y[:, 0]))
            return {"log loss": float(-np.log(np.maximum(own, TINY)).mean()), "accuracy": accuracy}
        if self.name == "perceptron":
            wrong = float(np.mean(predicted != y))
            return {"error rate": wrong, "accuracy": 1.0 - wrong}
        if self.name == "gaussian":
            mean, sd = predicted[:, 0::2], predicted[:, 1::2]
            nlpd = np.mean(0.5 * np.log(2 * math.pi) + np.log(sd) + 0.5 * ((y - mean) / sd) ** 2)
            return {"NLPD": float(nlpd), **_errors(mean, y)}
        errors = _errors(predicted, y)
        return {"MAE": errors.pop("MAE"), **errors} if self.name == "mae" else errors


def _errors(predicted: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """MSE, RMSE and MAE over all elements; R2 against the targets' own means, NaN where they are constant."""
    square = (y - predicted) ** 2
    total = ((y - y.mean(axis=0)) ** 2).sum()
    mse = float(square.mean())
    r2 = float(1.0 - square.sum() / total) if total > 0 else math.nan
    return {"MSE": mse, "RMSE": math.sqrt(mse), "MAE": float(np.abs(y - predicted).mean()), "R2": r2}


def _gaussian(out: Tensor, y: Tensor) -> Tensor:
    """-log density without 1/2 log 2 pi; outputs are all means and then all logarithms of variances."""
    mean, log_variance = out.chunk(2, dim=1)
    log_variance = log_variance.clamp(min=LOG_VARIANCE_MIN)
    return 0.5 * (log_variance + (y - mean) ** 2 * torch.exp(-log_variance))


def _perceptron(out: Tensor, y: Tensor) -> Tensor:
    """max(0, -s f) with s = -1, 1: Rosenblatt's rule is a gradient step of size one on one row."""
    return (-(2.0 * y - 1.0) * out).clamp(min=0.0)


LOSSES = {
    "mse": Loss("mse", lambda out, y: (out - y) ** 2, True),
    "mae": Loss("mae", lambda out, y: (out - y).abs(), True),
    "gaussian": Loss("gaussian", _gaussian, True, per_target=2),
    "binary": Loss(
        "binary", lambda out, y: functional.binary_cross_entropy_with_logits(out, y, reduction="none"), False
    ),
    "multiclass": Loss(
        "multiclass",
        lambda out, y: functional.cross_entropy(out, y[:, 0].long(), reduction="none")[:, None],
        False,
        per_target=0,
    ),
    "perceptron": Loss("perceptron", _perceptron, False),
}


def named(loss: object) -> Loss:
    """The loss of this name.

    Raises:
        ModelError: There is none.
    """
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ModelError(invalid("loss", repr(loss), f"It is one of {', '.join(LOSSES)}"))
    return LOSSES[loss]
