"""Cross-validation by subject, and what more subjects would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.learning.learn import check_split, groups_of, learn_rows
from deepnlme.learning.learned import Learned
from deepnlme.learning.loss import named
from deepnlme.learning.split import Split, deal, subjects
from deepnlme.learning.table import Rows, read
from deepnlme.learning.training import Training


@dataclass(frozen=True, eq=False)
class LearnedFolds:
    """A cross-validation.

    Attributes:
        table: DataFrame FOLD SUBJECTS ROWS and the scores of the rows held out.
        predictions: DataFrame SUBJECT FOLD, targets, and their predictions by a network that has not seen the subject.
        learned: The network of every fold.
        metric: Name of the score that decides; less is better.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    learned: tuple[Learned, ...]
    metric: str

    @property
    def score(self) -> float:
        """Mean over folds of the score that decides."""
        return float(np.mean(self._scores))

    @property
    def se(self) -> float:
        """Standard error of that mean, from the spread between folds."""
        return float(np.std(self._scores, ddof=1) / np.sqrt(len(self.table)))

    @property
    def _scores(self) -> np.ndarray:
        return self.table[self.metric].to_numpy(dtype=np.float64)

    def __str__(self) -> str:
        shown = self.table.to_string(index=False, float_format=lambda v: f"{v:.5g}")
        return f"{len(self.table)} folds, {self.metric} {self.score:.5g} (standard error {self.se:.2g})\n\n{shown}"

    def __repr__(self) -> str:
        return f"<LearnedFolds {len(self.table)} folds, {self.metric} {self.score:.5g}>"


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Scores against the number of subjects learned from.

    Attributes:
        table: DataFrame SUBJECTS TRAIN TRAIN_SE HELD_OUT HELD_OUT_SE: means over folds and their standard errors.
        metric: Name of the score; less is better.
    """

    table: pd.DataFrame
    metric: str

    def __str__(self) -> str:
        shown = self.table.to_string(index=False, float_format=lambda v: f"{v:.5g}")
        return f"{self.metric} by the number of subjects\n\n{shown}"


def learn_folds(
    network: Any,
    inputs: Any,
    targets: Any,
    *,
    folds: int = 5,
    loss: str | None = None,
    split: Split | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    weights: Any = None,
    seed: int = 0,
    **training: Any,
) -> LearnedFolds:
    """Learn `folds` times, each time without one part of the subjects, and judge by that part.

    Args:
        network: As for `learn`; every fold starts from the same weights.
        inputs: As for `learn`.
        targets: As for `learn`.
        folds: Number of parts; their numbers of subjects differ by at most one.
        loss: As for `learn`.
        split: Its test part is left alone; the others are dealt into folds.
        groups: Subject of every row.
        weights: As for `learn`; scores are not weighted.
        seed: Of the folds and of learning.
        **training: As for `learn`; with `patience` give `validation=`, a fraction of each fold's training subjects.

    Returns:
        Scores, predictions and networks.

    Raises:
        DataError: As `learn`.
        ModelError: As `learn`; more folds than subjects.
    """
    settings = Training.of(network, training)
    rows = read(inputs, targets, weights, groups_of(groups, split), settings.missing)
    return folds_of(network, rows, usable_rows(split, rows), loss, settings, folds, seed, np.ndim(targets) == 1)


def folds_of(
    network: Any,
    rows: Rows,
    usable: np.ndarray,
    loss: str | None,
    settings: Training,
    folds: int,
    seed: int,
    vector: bool = False,
) -> LearnedFolds:
    """The same on rows that were checked, those in `usable`."""
    fold = deal(rows.groups[usable], folds, seed)
    taken = [name for name in rows.targets if name in ("SUBJECT", "FOLD")]
    if taken:
        raise DataError(invalid("targets", f"a column {taken[0]}", "The table of predictions has one of that name"))
    learned, scores, predictions = [], [], []
    for k in range(folds):
        held = usable[fold == k]
        one = learn_rows(network, rows, loss, _without(rows, usable[fold != k], held), settings, seed, vector)
        found = rows.of(held)
        values = np.reshape(one.predict(found.x), (len(held), -1))
        scores.append({"FOLD": k + 1, "SUBJECTS": len(np.unique(found.groups)), "ROWS": len(held)})
        scores[-1] |= named(one.loss).scores(values, found.y)
        columns = [f"PREDICTED {c}" for c in named(one.loss).columns(rows.targets, one.classes)]
        left = pd.DataFrame({"SUBJECT": found.groups, "FOLD": k + 1}, index=held)
        left[list(rows.targets)] = found.y
        left[columns] = values
        predictions.append(left)
        learned.append(one)
    table = pd.DataFrame(scores)
    return LearnedFolds(table, pd.concat(predictions).sort_index(), tuple(learned), str(table.columns[3]))


def learning_curve(
    network: Any,
    inputs: Any,
    targets: Any,
    *,
    sizes: Sequence[float] = (0.1, 0.2, 0.4, 0.7, 1.0),
    folds: int = 5,
    loss: str | None = None,
    split: Split | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    weights: Any = None,
    seed: int = 0,
    **training: Any,
) -> LearningCurve:
    """Cross-validate with part of the training subjects: would more of them help?

    The smaller parts are contained in the larger; what is held out is the same for all.

    Args:
        network: As for `learn`.
        inputs: As for `learn`.
        targets: As for `learn`.
        sizes: Fractions of the training subjects, increasing, at most 1.
        folds: As for `learn_folds`.
        loss: As for `learn`.
        split: As for `learn_folds`.
        groups: Subject of every row.
        weights: As for `learn`.
        seed: Of folds, parts and learning.
        **training: As for `learn`.

    Returns:
        Scores of the rows learned from and of those held out.

    Raises:
        DataError: As `learn`.
        ModelError: As `learn_folds`; sizes that are not increasing fractions.
    """
    if not len(sizes) or sizes[0] <= 0 or sizes[-1] > 1 or any(a >= b for a, b in pairwise(sizes)):
        raise ModelError(invalid("sizes", list(sizes), "They are fractions above 0 up to 1, increasing"))
    settings = Training.of(network, training)
    rows = read(inputs, targets, weights, groups_of(groups, split), settings.missing)
    usable = usable_rows(split, rows)
    fold = deal(rows.groups[usable], folds, seed)
    counts = np.empty((folds, len(sizes)))
    values = np.empty((folds, len(sizes), 2))
    metric = ""
    for k in range(folds):
        ids, position = subjects(rows.groups[usable[fold != k]])
        rank = np.random.default_rng([seed, 15, k]).permutation(len(ids))
        for i, size in enumerate(sizes):
            counts[k, i] = max(1, round(size * len(ids)))
            parts = _without(rows, usable[fold != k][rank[position] < counts[k, i]], usable[fold == k])
            one = learn_rows(network, rows, loss, parts, settings, seed, False)
            for j, side in enumerate((parts.train, parts.test)):
                metric, values[k, i, j] = _judged(one, rows.of(side))
    mean, se = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(folds)
    table = {"SUBJECTS": counts.mean(axis=0).round().astype(np.int64)}
    table |= {"TRAIN": mean[:, 0], "TRAIN_SE": se[:, 0], "HELD_OUT": mean[:, 1], "HELD_OUT_SE": se[:, 1]}
    return LearningCurve(pd.DataFrame(table), metric)


def _judged(learned: Learned, rows: Rows) -> tuple[str, float]:
    """Name and value of the score that decides."""
    predicted = np.reshape(learned.predict(rows.x), (len(rows), -1))
    return next(iter(named(learned.loss).scores(predicted, rows.y).items()))


def usable_rows(split: Split | None, rows: Rows) -> np.ndarray:
    """All rows but those of the test part.

    Raises:
        DataError: A split of other rows.
    """
    check_split(split, rows)
    return np.arange(len(rows)) if split is None else np.sort(np.concatenate([split.train, split.validation]))


def _without(rows: Rows, train: np.ndarray, held: np.ndarray) -> Split:
    return Split(train, held[:0], held, None if rows.own else rows.groups)
