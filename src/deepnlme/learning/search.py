"""Hyperparameters by cross-validation: a grid, random draws, or Bayesian optimisation by optuna."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.learning.folds import folds_of, usable_rows
from deepnlme.learning.learn import groups_of, learn
from deepnlme.learning.learned import Learned
from deepnlme.learning.network import own_random
from deepnlme.learning.proposals import check, proposals
from deepnlme.learning.split import Split, checked_seed
from deepnlme.learning.table import Rows, read
from deepnlme.learning.training import Training

SETTINGS = tuple(f.name for f in fields(Training))


@dataclass(frozen=True, eq=False)
class Search:
    """What a search found.

    Attributes:
        table: DataFrame TRIAL, hyperparameters, SCORE SE SECONDS STATUS; in the order of the trials.
        metric: Name of the score: its mean over folds, less is better.
        best: Hyperparameters of the least score.
        build: Makes a network of those that are no settings of `learn`.
        settings: What was the same in all trials.
    """

    table: pd.DataFrame
    metric: str
    best: dict[str, Any]
    build: Any
    settings: dict[str, Any]

    def network(self) -> Any:
        """The network of the best trial, before learning."""
        return _network(self.build, self.best, self.settings["seed"])

    def learn(self, inputs: Any, targets: Any, **more: Any) -> Learned:
        """Learn once more with the best hyperparameters; `more` as for `deepnlme.learn`."""
        chosen = {k: v for k, v in self.best.items() if k in SETTINGS}
        return learn(self.network(), inputs, targets, **{**self.settings, **chosen, **more})

    def __str__(self) -> str:
        top = self.table.sort_values("SCORE").head(10)
        shown = top.to_string(index=False, float_format=lambda v: f"{v:.5g}")
        return f"{len(self.table)} trials by {self.metric}, the best first\n\n{shown}"

    def __repr__(self) -> str:
        return f"<Search {len(self.table)} trials, best {self.metric} {self.table['SCORE'].min():.5g}: {self.best}>"


def search(
    build: Any,
    space: Mapping[str, Any],
    inputs: Any,
    targets: Any,
    *,
    method: str = "random",
    trials: int | None = None,
    folds: int = 5,
    loss: str | None = None,
    split: Split | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    weights: Any = None,
    seed: int = 0,
    path: str | Path | None = None,
    **training: Any,
) -> Search:
    """Try hyperparameters, each by cross-validation by subject; the test part of the split is left alone.

    Args:
        build: Function that makes a network of the hyperparameters that are no settings of `learn` (its weights come
            from the seed); or a network as for `learn`, where all of them are.
        space: Name -> list of values, or `Range`. Names of settings of `learn` (learning_rate, l2, ...) go there.
        inputs: As for `learn`.
        targets: As for `learn`.
        method: "grid" (all combinations of lists), "random", or "bayesian" (tree-structured Parzen estimator by
            optuna, extra `learning`).
        trials: How many; 20 by default, and all with a grid.
        folds: As for `learn_folds`; the folds are the same in all trials.
        loss: As for `learn`.
        split: As for `learn_folds`.
        groups: Subject of every row.
        weights: As for `learn`.
        seed: Of trials, folds and learning.
        path: JSON file that keeps finished trials; a search that was interrupted goes on from there.
        **training: Settings of `learn` that are the same in all trials.

    Returns:
        All trials and the best of them; after Ctrl-C those that were finished.

    Raises:
        DataError: As `learn`; the file is damaged.
        ModelError: As `learn`; an empty space, a `Range` in a grid, a file of another search.
        MissingExtraError: Bayesian without optuna.
    """
    check(space, method, trials, training)
    settings = Training.of(build, training)
    rows = read(inputs, targets, weights, groups_of(groups, split), settings.missing)
    usable = usable_rows(split, rows)
    head = _head(rows, usable, space, method, folds, loss, training, checked_seed(seed))
    kept = _Kept.open(path, head)

    def score(chosen: dict[str, Any], network: Any) -> dict[str, Any]:
        own = Training.of(build, {**training, **{k: v for k, v in chosen.items() if k in SETTINGS}})
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            made = folds_of(network, rows, usable, loss, own, folds, seed)
        finite = all("not finite" not in one.status for one in made.learned) and math.isfinite(made.score)
        found = {"SCORE": made.score if finite else None, "SE": made.se if finite else None, "metric": made.metric}
        return {**found, "SECONDS": time.perf_counter() - start, "STATUS": "ok" if finite else "loss not finite"}

    tried = ((chosen, _network(build, chosen, seed), tell) for chosen, tell in proposals(space, method, trials, seed))
    table = _run(tried, score, kept, seed)
    finished = [row for row in table if row["SCORE"] is not None]
    if not finished:
        raise ModelError(invalid("space", f"{len(table)} trials, none with a finite loss", "Lower the learning_rate"))
    least = min(finished, key=lambda row: row["SCORE"])
    columns = ["TRIAL", *space, "SCORE", "SE", "SECONDS", "STATUS"]
    frame = pd.DataFrame({c: [row[c] for row in table] for c in columns}).astype({"SCORE": float, "SE": float})
    same = {**training, "loss": loss, "split": split, "groups": groups, "weights": weights, "seed": seed}
    return Search(frame, least["metric"], {k: least[k] for k in space}, build, same)


def _run(
    tried: Iterator[tuple[dict[str, Any], Any, Callable[[float | None], None]]],
    score: Callable[[dict[str, Any], Any], dict[str, Any]],
    kept: _Kept,
    seed: int,
) -> list[dict[str, Any]]:
    """Every proposal's row; a finished one is taken from the file."""
    table: list[dict[str, Any]] = []
    try:
        for number, (chosen, network, tell) in enumerate(tried, 1):
            key = json.dumps([_described(network, seed), chosen], sort_keys=True, default=str)
            if key not in kept.done:
                kept.save(key, score(chosen, network))
            found = kept.done[key]
            tell(found["SCORE"])
            table.append({"TRIAL": number, **chosen, **found})
    except KeyboardInterrupt:
        if not table:
            raise
        warnings.warn(f"The search was interrupted after {len(table)} trials.", RuntimeWarning, stacklevel=3)
    return table


def _network(build: Any, chosen: Mapping[str, Any], seed: int) -> Any:
    """What the trial learns; the weights of what is made here come from the seed."""
    own = {k: v for k, v in chosen.items() if k not in SETTINGS}
    if not own:
        return build
    if isinstance(build, str) or not callable(build) or hasattr(build, "parameters"):
        expected = f"{next(iter(own))} is no setting of learn, and `build` is no function that takes it"
        raise ModelError(invalid("space", ", ".join(own), expected, fix="Give a function that makes the network"))
    with own_random(seed):
        return build(**own)


def _described(network: Any, seed: int) -> str:
    """The network in words, without its weights: a trial of another one is another trial."""
    if isinstance(network, str):
        return network
    if not isinstance(network, nn.Module) and callable(network):
        with own_random(seed):
            network = network()
    return f"{network!r} {getattr(network, 'architecture', '')}" if isinstance(network, nn.Module) else ""


def _head(rows: Rows, usable: np.ndarray, space: Any, method: str, folds: int, loss: Any, training: Any, seed: int):
    """What a search depends on, but for the networks, which stand with every trial."""
    digest = hashlib.sha256("|".join(map(str, rows.groups.tolist())).encode())
    for array in (rows.x, rows.y, rows.weights, usable):
        digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "data": digest.hexdigest(),
        "space": {name: repr(values) for name, values in space.items()},
        "method": method,
        "folds": int(folds),
        "loss": loss,
        "training": {name: repr(value) for name, value in sorted(training.items())},
        "seed": seed,
    }


@dataclass
class _Kept:
    """Finished trials, on disk after every one where there is a path."""

    path: Path | None
    head: dict[str, Any]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path | None, head: dict[str, Any]) -> _Kept:
        made = cls(None if path is None else Path(path), head)
        if made.path is None:
            return made
        if not made.path.parent.is_dir() or made.path.is_dir():
            raise ModelError(invalid("path", str(path), "It is a file in a folder that exists"))
        if not made.path.exists():
            return made
        try:
            found = json.loads(made.path.read_text(encoding="utf-8"))
            before, made.done = found["head"], dict(found["done"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(invalid("path", str(path), f"It is no file of a search ({error})")) from error
        for name, value in head.items():
            if before.get(name) != value:
                expected = f"It belongs to another search: its {name} differs"
                raise ModelError(invalid("path", str(path), expected, fix="Give another file, or delete this one"))
        return made

    def save(self, key: str, found: dict[str, Any]) -> None:
        self.done[key] = found
        if self.path is not None:
            temporary = self.path.with_name(self.path.name + ".part")
            temporary.write_text(json.dumps({"head": self.head, "done": self.done}), encoding="utf-8")
            os.replace(temporary, self.path)
