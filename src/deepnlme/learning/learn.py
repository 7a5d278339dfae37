"""Learning from a table: the one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.learning import loss as losses
from deepnlme.learning.descent import Part, descend
from deepnlme.learning.learned import Learned, as_text
from deepnlme.learning.network import FeedForward, check_outputs, made, own_random
from deepnlme.learning.scaling import Standardisation
from deepnlme.learning.split import Split, checked_seed, split
from deepnlme.learning.table import Rows, read
from deepnlme.learning.training import Training


def learn(
    network: Any,
    inputs: Any,
    targets: Any,
    *,
    loss: str | None = None,
    split: Split | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    weights: Any = None,
    seed: int = 0,
    **training: Any,
) -> Learned:
    """Learn targets from inputs, on the natural scale of both.

    The training rows alone decide on standardisation and imputation, which become part of the result; the rows of the
    test part are only checked to be numbers.

    Args:
        network: A torch module (copied, and started from its weights), a function without arguments that makes one, or
            a baseline: "linear", "logistic", "perceptron".
        inputs: DataFrame, array or tensor [N, D]; [N, ...] for images and sequences of one size.
        targets: Quantities or classes 0 .. K-1: DataFrame, Series or array, [N] or [N, T].
        loss: mse, mae, gaussian (mean and variance: two outputs per target, all means first, then the logarithms of
            the variances), binary and multiclass (cross-entropy of logits), perceptron. By default mse, and what suits
            a baseline.
        split: Parts by `deepnlme.split`; by default all rows are learned from.
        groups: Subject of every row; each row is one by default.
        weights: Of rows [N] or of single targets [N, T].
        seed: Of the order of the rows, dropout and what a function makes; torch's own random numbers stay as they are.
        **training: Fields of `deepnlme.learning.Training`: optimiser, learning_rate, schedule, epochs, batch_size,
            momentum, weight_decay, l1, l2, validation, patience, standardise, missing, dtype.

    Returns:
        The network with the weights of the best epoch, that is of the least loss of the validation part; without one
        of the last epoch.

    Raises:
        DataError: Missing values, constant columns, wrong classes, different lengths, a subject in two parts.
        ModelError: A network or setting without a meaning.

    Example:
        >>> x = np.arange(6.0)
        >>> learn("linear", x, 2 * x + 1).predict(np.array([[10.0]])).round(6)
        array([21.])
    """
    settings = Training.of(network, training)
    rows = read(inputs, targets, weights, groups_of(groups, split), settings.missing)
    check_split(split, rows)
    return learn_rows(network, rows, loss, split, settings, checked_seed(seed), np.ndim(targets) == 1)


def learn_rows(
    network: Any, rows: Rows, loss: str | None, parts: Split | None, settings: Training, seed: int, vector: bool
) -> Learned:
    """The same on rows that were checked."""
    chosen = losses.named(loss if loss is not None else _usual(network, rows.y))
    _suits(network, chosen)
    classes = chosen.classes(rows.y, rows.targets)
    parts = _parts(parts, rows, settings, seed)
    train = rows.of(parts.train)
    _check_parts(rows, parts, settings)
    inputs = Standardisation.of(train.x, settings.standardise, settings.missing)
    targets = Standardisation.of(train.y, settings.standardise and chosen.scaled)
    constant = np.flatnonzero(np.isinf(targets.scale))
    if len(constant):
        got = f"{train.y[0, constant[0]]:g} in all training rows"
        raise DataError(invalid("targets", got, "There is nothing to learn", f"column {rows.targets[constant[0]]}"))
    outputs = chosen.outputs(len(rows.targets), classes)
    given = {"train": train, "validation": rows.of(parts.validation)}
    tensors = {name: _part(part, inputs, targets, train, settings) for name, part in given.items() if len(part)}
    with own_random(seed):
        module = made(network, rows.x.shape[1:], outputs).to(getattr(torch, settings.dtype))
        check_outputs(module, tensors["train"].x, outputs, chosen.name)
        path = descend(module, chosen.values, tensors["train"], tensors.get("validation"), settings, seed)
    if not path.finite:
        advice = "Use a smaller learning_rate"
        message = f"Learning {path.status}; the weights of epoch {path.best} are kept. {advice}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    history = {"EPOCH": path.epoch, "TRAIN": path.train, "VALIDATION": path.validation, "RATE": path.rate}
    return Learned(
        network=module,
        kind=_kind(network, module),
        loss=chosen.name,
        inputs=rows.inputs,
        targets=rows.targets,
        classes=classes,
        standardisation=inputs,
        target_standardisation=targets,
        history=pd.DataFrame(history),
        best_epoch=path.best,
        status=path.status,
        training=settings,
        seed=seed,
        split=parts,
        subjects=frozenset() if rows.own else as_text(np.concatenate([part.groups for part in given.values()])),
        shape=rows.x.shape[1:],
        vector=vector,
    )


def groups_of(groups: Any, parts: Split | None) -> Any:
    """The subjects given, or those of the split."""
    if groups is not None and parts is not None:
        values = np.asarray(groups)
        used = np.concatenate([rows for _, rows in parts.parts])
        if used.max() < len(values):
            parts.check(values)
        return values
    return groups if parts is None else parts.groups


def check_split(parts: Split | None, rows: Rows) -> None:
    """Refuse a split of more rows than there are; warn of rows behind those that it knows."""
    if parts is None:
        return
    known = np.concatenate([part for _, part in parts.parts])
    count = int(known.max()) + 1 if parts.groups is None else len(parts.groups)
    if count > len(rows) or (parts.groups is not None and count != len(rows)):
        raise DataError(invalid("split", f"a split of {count} rows", f"There are {len(rows)} rows of inputs"))
    if len(known) == count < len(rows):
        message = f"`split` is of {count} rows, the inputs have {len(rows)}: the last {len(rows) - count} are not used."
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _parts(parts: Split | None, rows: Rows, settings: Training, seed: int) -> Split:
    """The split, with a validation part where one was asked for."""
    everybody = np.arange(len(rows))
    if parts is None:
        parts = Split(everybody, everybody[:0], everybody[:0], None if rows.own else rows.groups)
    if settings.validation > 0 and not len(parts.validation):
        inner = split(rows.groups[parts.train], test=0.0, validation=settings.validation, seed=seed)
        own = parts.train
        parts = Split(own[inner.train], own[inner.validation], parts.test, None if rows.own else rows.groups)
    if settings.patience is not None and not len(parts.validation):
        fix = "Use validation=0.2, or a split with a validation part"
        raise ModelError(invalid("patience", settings.patience, "Nothing decides when to stop", fix=fix))
    return parts


def _check_parts(rows: Rows, parts: Split, settings: Training) -> None:
    """Refuse a part without weight, and columns without a value among the training rows."""
    for name, part in parts.parts[:2]:
        if len(part) and not rows.weights[part].any():
            raise DataError(invalid("weights", "0 in every row", "Some row counts", f"the {name} part"))
    x = rows.x[parts.train]
    empty = np.flatnonzero(np.isnan(x).all(axis=0)) if settings.missing and x.ndim == 2 else []
    if len(empty):
        expected = "What is missing is imputed by values of the training rows"
        where, fix = f"column {rows.inputs[empty[0]]}", "Leave the column out, or use other parts"
        raise DataError(invalid("inputs", "no value among the training rows", expected, where, fix))


def _part(rows: Rows, inputs: Standardisation, targets: Standardisation, train: Rows, settings: Training) -> Part:
    """Rows as tensors on the learning scale; the weights of the training rows have a mean of one."""
    arrays = (inputs.apply(rows.x), targets.apply(rows.y), rows.weights / train.weights.mean())
    return Part(*(torch.from_numpy(a).to(getattr(torch, settings.dtype)) for a in arrays))


def _usual(network: Any, y: np.ndarray) -> str:
    """The loss that goes without saying."""
    if isinstance(network, str) and network == "logistic":
        return "multiclass" if y.shape[1] == 1 and len(np.unique(y)) > 2 else "binary"
    return "perceptron" if isinstance(network, str) and network == "perceptron" else "mse"


def _suits(network: Any, loss: losses.Loss) -> None:
    """A baseline is named for its loss."""
    suits = {"linear": ("mse", "mae", "gaussian"), "logistic": ("binary", "multiclass"), "perceptron": ("perceptron",)}
    if isinstance(network, str) and network in suits and loss.name not in suits[network]:
        expected = f"The baseline {network} has {' or '.join(suits[network])}"
        raise ModelError(invalid("loss", repr(loss.name), expected))


def _kind(network: Any, module: nn.Module) -> str:
    if isinstance(network, str):
        return network
    return "feedforward" if isinstance(module, FeedForward) else type(module).__name__
