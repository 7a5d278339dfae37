"""Subjects dealt into folds, and what is kept of a cross-validation on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepnlme.data import Population
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Method, Options
from deepnlme.estimation.storage import fingerprint
from deepnlme.model import Model

FORMAT = 1


def deal(population: Population, folds: int, seed: int, stratify: str | None) -> np.ndarray:
    """The fold of every subject, 0 .. folds-1, [S]; sizes differ by at most one.

    With `stratify` subjects are ordered by the covariate at their first record, ties at random, and every `folds`
    neighbours are dealt to different folds, so that its distribution is alike in all of them.
    """
    count = len(population)
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or not 2 <= folds <= count:
        raise ModelError(invalid("folds", repr(folds), f"It is a whole number from 2 to {count}, the subjects"))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ModelError(invalid("seed", repr(seed), "It is a whole number of at least 0"))
    generator = np.random.default_rng([int(seed), 5])
    value = np.zeros(count)
    if stratify is not None:
        if stratify not in population.covariates:
            expected = f"The population has the covariates {', '.join(population.covariates) or '(none)'}"
            raise DataError(invalid("stratify", repr(stratify), expected, fix="Read it with covariates=[...]"))
        value = population.records.covariates[stratify][population.starts[:-1]]
    order = np.lexsort((generator.random(count), value))
    out = np.empty(count, dtype=np.int64)
    for start in range(0, count, folds):
        block = order[start : start + folds]
        out[block] = generator.permutation(folds)[: len(block)]
    return out


@dataclass
class Kept:
    """Finished folds, on disk after every one of them where there is a path.

    Attributes:
        path: The file, or None.
        head: What it is a cross-validation of.
        done: What was found, by "model|fold".
    """

    path: Path | None
    head: dict[str, Any]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path | None, head: dict[str, Any]) -> Kept:
        """Read the file if there is one.

        Raises:
            ModelError: It belongs to another cross-validation, or its folder does not exist.
            DataError: It is damaged.
        """
        if path is None:
            return cls(None, head)
        made = cls(Path(path), head)
        assert made.path is not None
        if made.path.is_dir():
            raise ModelError(invalid("checkpoint", str(path), "It is a folder", fix="Give a file in it"))
        if not made.path.parent.is_dir():
            raise ModelError(invalid("checkpoint", str(path), f"There is no folder {made.path.parent}", fix="Make it"))
        if made.path.exists():
            made._read()
        return made

    def _read(self) -> None:
        assert self.path is not None
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            head, done = found["head"], dict(found["done"])
        except (ValueError, KeyError, TypeError) as error:
            expected = f"It is not a cross-validation of this package ({type(error).__name__}: {error})"
            raise DataError(invalid("checkpoint", str(self.path), expected)) from error
        for name, value in self.head.items():
            if not _same(head.get(name), value):
                fix = "Give another file, or delete this one"
                expected = f"It was written for another cross-validation: its {name} differs"
                raise ModelError(invalid("checkpoint", str(self.path), expected, fix=fix))
        self.done = done

    def save(self, model: str, fold: int, found: dict[str, Any]) -> None:
        """Keep one finished fold; an interruption never leaves half a file."""
        self.done[f"{model}|{fold}"] = found
        if self.path is None:
            return
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(json.dumps({"head": self.head, "done": self.done}), encoding="utf-8")
        os.replace(temporary, self.path)

    def get(self, model: str, fold: int) -> dict[str, Any] | None:
        """What was found, or None."""
        return self.done.get(f"{model}|{fold}")


def head(
    models: Mapping[str, tuple[Model, Options]],
    population: Population,
    method: Method,
    fold: np.ndarray,
    seed: int,
    start: Mapping[str, float],
) -> dict[str, Any]:
    """What a cross-validation depends on, as JSON; models by their parameters and their objective at the start."""
    return {
        "format": FORMAT,
        "data": fingerprint(population),
        "method": repr(method),
        "folds": hashlib.sha256(np.ascontiguousarray(fold).tobytes()).hexdigest(),
        "seed": int(seed),
        "models": {name: f"{type(m).__name__}({', '.join(m.space.all_names)})" for name, (m, _) in models.items()},
        "options": {name: repr(options) for name, (_, options) in models.items()},
        "start": dict(start),
    }


def _same(found: Any, expected: Any) -> bool:
    """Equal, numbers but for rounding."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(_same(found[k], expected[k]) for k in expected)
        )
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)
    return found == expected
