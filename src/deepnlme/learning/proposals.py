"""What a search tries next: a grid, random draws, or Bayesian optimisation by optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from deepnlme.errors import MissingExtraError, ModelError, invalid

METHODS = ("grid", "random", "bayesian")
TAKEN = ("TRIAL", "SCORE", "SE", "SECONDS", "STATUS", "metric")
"""What the table of a search says of a trial besides its hyperparameters."""
Proposal = tuple[dict[str, Any], Callable[[float | None], None]]


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`.

    Attributes:
        low: Least value.
        high: Greatest value.
        log: Whether factors rather than differences are alike.
        integer: Whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ModelError(invalid("Range", f"{self.low} to {self.high}", "low and high are finite and low < high"))
        if self.log and self.low <= 0:
            raise ModelError(invalid("Range", f"low {self.low}", "With log=True both are positive"))

    def draw(self, generator: np.random.Generator) -> float | int:
        """One of them."""
        if self.integer and not self.log:
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = generator.uniform(low, high)
        value = math.exp(value) if self.log else value
        return int(min(max(round(value), self.low), self.high)) if self.integer else float(value)


def proposals(space: Mapping[str, Any], method: str, trials: int | None, seed: int) -> Iterator[Proposal]:
    """Hyperparameters to try, each with a function that takes its score."""

    def ignore(value: float | None) -> None:
        del value

    if method == "grid":
        combinations = list(product(*space.values()))
        for values in combinations[:trials]:
            yield dict(zip(space, values)), ignore
    elif method == "random":
        for i in range(trials or 20):
            generator = np.random.default_rng([seed, 14, i])
            yield {name: _drawn(values, generator) for name, values in space.items()}, ignore
    else:
        yield from _bayesian(space, trials or 20, seed)


def _drawn(values: Any, generator: np.random.Generator) -> Any:
    return values.draw(generator) if isinstance(values, Range) else values[int(generator.integers(len(values)))]


def _bayesian(space: Mapping[str, Any], trials: int, seed: int) -> Iterator[Proposal]:
    """By optuna; the same seed and scores propose the same, so that a resumed search is the uninterrupted one."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "learning") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        for _ in range(trials):
            trial = study.ask()
            chosen: dict[str, Any] = {}
            for name, values in space.items():
                if not isinstance(values, Range):
                    chosen[name] = values[trial.suggest_categorical(name, list(range(len(values))))]
                elif values.integer:
                    chosen[name] = trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
                else:
                    chosen[name] = trial.suggest_float(name, values.low, values.high, log=values.log)

            def tell(value: float | None, trial: Any = trial) -> None:
                failed = optuna.trial.TrialState.FAIL
                study.tell(trial, value, state=None if value is not None else failed)

            yield chosen, tell
    finally:
        optuna.logging.set_verbosity(before)


def check(space: Mapping[str, Any], method: str, trials: int | None, training: Mapping[str, Any]) -> None:
    """Refuse a space or a method without a meaning.

    Raises:
        ModelError: Names what is wrong.
    """
    if method not in METHODS:
        raise ModelError(invalid("method", repr(method), f"It is one of {', '.join(METHODS)}"))
    if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        raise ModelError(invalid("trials", repr(trials), "It is a whole number of at least 1"))
    if not space:
        raise ModelError(invalid("space", "nothing", "There must be a hyperparameter to search for"))
    for name, values in space.items():
        if name in TAKEN:
            raise ModelError(invalid("space", repr(name), "A column of the table has that name", fix="Rename it"))
        if name in training:
            raise ModelError(invalid(name, repr(training[name]), "It is in the space, too", fix="Leave one out"))
        if isinstance(values, Range):
            if method == "grid":
                raise ModelError(invalid(name, values, "A grid has lists of values", fix="List them, or use random"))
        elif isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            raise ModelError(invalid(name, repr(values), "It is a list of values or dn.Range(low, high)"))
