"""A network after learning: predictions on the natural scale, scores, and its way onto disk and back."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.learning import loss as losses
from deepnlme.learning.network import BASELINES, FeedForward, baseline, outputs_of
from deepnlme.learning.scaling import Standardisation
from deepnlme.learning.split import Split
from deepnlme.learning.table import read_inputs, read_targets, same_order
from deepnlme.learning.training import Training

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Learned:
    """A network with everything that it learned, standardisation and imputation included.

    Attributes:
        network: The module, in evaluation mode; it maps standardised inputs to standardised outputs.
        kind: What it was made from: a name, "feedforward" or the class of the module.
        loss: Name of the loss.
        inputs: Names of the inputs, () for images and sequences.
        targets: Names of the targets.
        classes: Number of classes, 0 for quantities.
        standardisation: Of the inputs, by the training rows.
        target_standardisation: Of the targets; center 0 and scale 1 for classes.
        history: DataFrame EPOCH TRAIN VALIDATION RATE: mean losses on the learning scale, without penalties.
        best_epoch: The epoch whose weights these are.
        status: Why learning ended.
        training: The settings.
        seed: Of everything random.
        split: The rows learned from, those that decided when to stop, and the rest; None after `load_learned`.
        subjects: Those learned from or used to decide when to stop, as text; none where rows are subjects.
        shape: Of one row of inputs.
        vector: Whether the targets came as [N].
    """

    network: nn.Module
    kind: str
    loss: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    classes: int
    standardisation: Standardisation
    target_standardisation: Standardisation
    history: pd.DataFrame
    best_epoch: int
    status: str
    training: Training
    seed: int
    split: Split | None
    subjects: frozenset[str]
    shape: tuple[int, ...]
    vector: bool

    @property
    def n_weights(self) -> int:
        """Number of numbers that were learned."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)

    def outputs(self, inputs: Any) -> np.ndarray:
        """Outputs of the network on the learning scale [N, O]."""
        x, _ = read_inputs(inputs, self.standardisation.fill is not None, self.inputs)
        if x.shape[1:] != self.shape:
            raise DataError(invalid("inputs", f"rows of shape {x.shape[1:]}", f"It was learned from {self.shape}"))
        scaled = torch.from_numpy(self.standardisation.apply(x)).to(getattr(torch, self.training.dtype))
        with torch.no_grad():
            return outputs_of(self.network, scaled).double().numpy()

    def predict(self, inputs: Any) -> Any:
        """Predictions on the natural scale.

        Quantities as they are; with the loss `gaussian` also their standard deviations (columns `name_SD`);
        probabilities with `binary` (of class 1) and `multiclass`; the class, 0 or 1, with `perceptron`.

        Args:
            inputs: As they were learned from; columns of a DataFrame are found by name.

        Returns:
            A DataFrame with the index of the inputs if they are one; else an array [N, columns], or [N] where there is
            one column and the targets were one-dimensional.

        Raises:
            DataError: Missing columns or values.
        """
        values = self._natural(inputs)
        if isinstance(inputs, pd.DataFrame):
            columns = losses.named(self.loss).columns(self.targets, self.classes)
            return pd.DataFrame(values, columns=columns, index=inputs.index)
        return values[:, 0] if values.shape[1] == 1 and self.vector else values

    def score(self, inputs: Any, targets: Any, groups: Sequence[Any] | np.ndarray | None = None) -> dict[str, float]:
        """How good the predictions of these rows are.

        Args:
            inputs: Inputs.
            targets: What was found.
            groups: Subject of every row; subjects that were learned from are then refused.

        Returns:
            MSE, RMSE, MAE and R2 for quantities; with `gaussian` first NLPD, the mean negative log predictive density;
            log loss and accuracy for classes; error rate and accuracy for the perceptron.

        Raises:
            DataError: As `predict`; a subject was learned from.
        """
        if groups is not None:
            self._unseen(groups)
        same_order(inputs, targets)
        values = self._natural(inputs)
        y, _ = read_targets(targets, len(values))
        if y.shape[1] != len(self.targets):
            raise DataError(invalid("targets", f"{y.shape[1]} columns", f"It has learned {', '.join(self.targets)}"))
        if self.classes and ((y < 0) | (y >= self.classes) | (y != np.round(y))).any():
            raise DataError(invalid("targets", f"{y.min():g} to {y.max():g}", f"Classes are 0 to {self.classes - 1}"))
        return losses.named(self.loss).scores(values, y)

    def _natural(self, inputs: Any) -> np.ndarray:
        scaling = self.target_standardisation
        return losses.named(self.loss).natural(self.outputs(inputs), scaling.center, scaling.scale)

    def _unseen(self, groups: Sequence[Any] | np.ndarray) -> None:
        if not self.subjects:
            fix = "Give groups= to dn.learn, too"
            raise ModelError(invalid("groups", "subjects", "It was learned without: every row is one", fix=fix))
        both = sorted(as_text(groups) & self.subjects)
        if both:
            rule = "A score says something only about others"
            got = f"subject {both[0]} ({len(both)} in all)"
            fix = "Keep them out with dn.split(groups, test=...), or leave groups out to see the fit to them"
            raise DataError(invalid("groups", got, f"It was learned from. {rule}", fix=fix))

    def save(self, path: str | Path) -> None:
        """Write to one .npz file: weights as arrays, the rest as JSON, no code."""
        target = Path(path)
        if target.suffix != ".npz":
            raise ModelError(invalid("path", str(path), "The file's name ends with .npz"))
        if callable(self.training.schedule):
            raise ModelError(invalid("schedule", "a function", "Only numbers are stored", fix="Use a named schedule"))
        head = {
            "format": FORMAT,
            "kind": self.kind,
            "architecture": getattr(self.network, "architecture", None),
            "training": dataclasses.asdict(self.training),
            **{k: getattr(self, k) for k in _STORED},
            "subjects": sorted(self.subjects),
        }
        arrays = {f"weight|{k}": v.detach().numpy() for k, v in self.network.state_dict().items()}
        arrays |= {f"history|{c}": self.history[c].to_numpy() for c in self.history}
        for name, scaling in (("inputs", self.standardisation), ("targets", self.target_standardisation)):
            arrays |= {f"{name}|center": scaling.center, f"{name}|scale": scaling.scale}
            if scaling.fill is not None:
                arrays[f"{name}|fill"] = scaling.fill
        temporary = target.with_name(target.name + ".part")
        with open(temporary, "wb") as file:
            np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
        os.replace(temporary, target)

    def __str__(self) -> str:
        best = self.history.loc[self.best_epoch]
        lines = [
            f"{self.kind}, {self.n_weights} weights: {', '.join(self.targets)} from {self._from}",
            f"loss {self.loss}, {self.training.optimiser}, epoch {self.best_epoch} of {len(self.history) - 1} kept, "
            f"{self.status}",
        ]
        rows = [("train", "TRAIN"), ("validation", "VALIDATION")]
        shown = [f"{name} {best[column]:.5g}" for name, column in rows if np.isfinite(best[column])]
        lines.append(f"loss on the learning scale: {', '.join(shown)}")
        return "\n".join([*lines, *([] if self.split is None else [str(self.split)])])

    @property
    def _from(self) -> str:
        if not self.inputs:
            return f"arrays {list(self.shape)}"
        return ", ".join(self.inputs[:6]) + (f" and {len(self.inputs) - 6} more" if len(self.inputs) > 6 else "")

    def __repr__(self) -> str:
        return f"<Learned {self.kind} {self.loss}: {', '.join(self.targets)} from {self._from}>"


def as_text(groups: Sequence[Any] | np.ndarray) -> frozenset[str]:
    """Subjects as text; 12 and 12.0 are the same."""
    values = np.asarray(groups).tolist()
    return frozenset(str(int(g)) if isinstance(g, float) and g.is_integer() else str(g) for g in values)


_STORED = ("loss", "inputs", "targets", "classes", "best_epoch", "status", "seed", "shape", "vector")


def load_learned(path: str | Path, network: nn.Module | None = None) -> Learned:
    """Read what `Learned.save` wrote.

    Args:
        path: The .npz file.
        network: A module of the same architecture, needed where it was neither a baseline nor made by `feedforward`;
            its weights are replaced in a copy of it.

    Raises:
        DataError: It is no such file.
        ModelError: The architecture is another one, or is needed and not given.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop("head")))
        found = head["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(invalid("path", str(path), f"It is no file of Learned.save ({error})")) from error
    if found != FORMAT:
        raise DataError(invalid("path", f"format {found}", f"This version reads format {FORMAT}"))
    dtype = getattr(torch, head["training"]["dtype"])
    module = _rebuilt(head, arrays, network).to(dtype)
    weights = {k.partition("|")[2]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weight|")}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(invalid("network", type(module).__name__, f"Its weights are others: {error}")) from error
    columns = {k.partition("|")[2]: v for k, v in arrays.items() if k.startswith("history|")}
    scalings = [
        Standardisation(arrays[f"{name}|center"], arrays[f"{name}|scale"], arrays.get(f"{name}|fill"))
        for name in ("inputs", "targets")
    ]
    stored: dict[str, Any] = {k: tuple(head[k]) if isinstance(head[k], list) else head[k] for k in _STORED}
    return Learned(
        network=module.eval(),
        kind=head["kind"],
        standardisation=scalings[0],
        target_standardisation=scalings[1],
        history=pd.DataFrame(columns),
        training=Training(**head["training"]),
        split=None,
        subjects=frozenset(head["subjects"]),
        **stored,
    )


def _rebuilt(head: dict[str, Any], arrays: dict[str, np.ndarray], network: nn.Module | None) -> nn.Module:
    if network is not None:
        return deepcopy(network)
    if head["kind"] in BASELINES:
        outputs, inputs = arrays["weight|weight"].shape
        return baseline(head["kind"], inputs, outputs)
    if head["kind"] == "feedforward":
        return FeedForward(**head["architecture"])
    fix = "Give a module of that architecture: dn.load_learned(path, network=...)"
    raise ModelError(invalid("network", "None", f"It was a {head['kind']}, whose code is not stored", fix=fix))
