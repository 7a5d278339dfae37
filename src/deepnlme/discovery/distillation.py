"""The formulas that a learned function may be: by complexity and error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.discovery.formula import Formula
from deepnlme.discovery.points import Points
from deepnlme.discovery.replaced import replaced
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.model import Model


@dataclass(frozen=True)
class Candidate:
    """A formula that may stand for a network.

    Attributes:
        formula: The formula, with the constants that are closest to the network.
        error: Root mean square of formula - network over the region visited, relative to the network's spread there.
        worst: Largest difference, relative to the same.
        network: Name of the network.
        output: Which of its outputs.
        pareto: Whether no simpler formula is as close.
        knee: Whether it is the one to prefer: the simplest within the tolerance, or where the front bends.
    """

    formula: Formula
    error: float
    worst: float
    network: str
    output: int
    pareto: bool = False
    knee: bool = False

    @property
    def complexity(self) -> int:
        """Symbols and operations in the formula."""
        return self.formula.complexity

    def __call__(self, *inputs: Any) -> Any:
        """The formula at numbers or arrays."""
        return self.formula(*inputs)

    def into(self, fit: Fit) -> Model:
        """The model with the formula in place of the network: fit it, simulate it, compare it.

        Constants become parameters ``<network>_<constant>`` that start at the values of the formula (of a network
        with several outputs ``<network>_<number of the output>_<constant>``); everything else starts at the estimates.
        A network with several outputs stays for the others until a formula stands for each of them.

        Raises:
            ModelError: Not a fit of a model with this network, or a parameter of that name.
        """
        if not isinstance(fit, Fit) or self.network not in fit.model.networks:
            got = type(fit).__name__ if not isinstance(fit, Fit) else f"a fit of {type(fit.model).__name__}"
            raise ModelError(invalid("fit", got, f"It is a fit of a model with the network `{self.network}`"))
        network = fit.model.networks[self.network]
        if network.inputs != len(self.formula.inputs) or network.outputs <= self.output:
            got = f"a network of {network.inputs} inputs and {network.outputs} outputs"
            raise ModelError(invalid("fit", got, f"The formula has {len(self.formula.inputs)} inputs", self.network))
        return replaced(fit, self.network, self.formula, self.output)

    def __repr__(self) -> str:
        return f"<Candidate {self.formula.valued()}, error {self.error:.3g}>"


@dataclass(frozen=True)
class Distillation:
    """Formulas for a network, the simplest first; `print` shows the table.

    Attributes:
        network: Name of the network.
        output: Which of its outputs.
        candidates: All of them; ``distillation[i]`` is one.
        points: The network over the region visited.
        tolerance: Error at which a formula is as good as the network.
    """

    network: str
    output: int
    candidates: tuple[Candidate, ...]
    points: Points
    tolerance: float

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The Pareto front: those to which none is preferable in both complexity and error."""
        return tuple(c for c in self.candidates if c.pareto)

    @property
    def knee(self) -> Candidate:
        """The simplest formula within the tolerance; where none is, the one at which the front bends."""
        return next(c for c in self.candidates if c.knee)

    def form(self, name: str) -> Candidate:
        """The candidate of the library of that name, such as "sigmoid Emax".

        Raises:
            ModelError: No such form among the candidates.
        """
        for candidate in self.candidates:
            if candidate.formula.form == name:
                return candidate
        known = ", ".join(dict.fromkeys(c.formula.form for c in self.candidates))
        raise ModelError(invalid("name", repr(name), f"The forms are {known}"))

    def table(self) -> pd.DataFrame:
        """One row per candidate: FORM COMPLEXITY CONSTANTS ERROR WORST PARETO KNEE FORMULA VALUES."""
        rows = [
            (c.formula.form, c.complexity, len(c.formula.constants), c.error, c.worst, c.pareto, c.knee,
             c.formula.text, c.formula.valued())
            for c in self.candidates
        ]  # fmt: skip
        columns = ["FORM", "COMPLEXITY", "CONSTANTS", "ERROR", "WORST", "PARETO", "KNEE", "FORMULA", "VALUES"]
        return pd.DataFrame(rows, columns=columns)

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> Candidate:
        return self.candidates[index]

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __str__(self) -> str:
        head = f"Formulas for the network `{self.network}` at {len(self.points.y)} points of the region visited"
        shown = pd.DataFrame(
            [
                (
                    "knee" if c.knee else "*" if c.pareto else "",
                    c.complexity,
                    f"{100 * c.error:.3g}",
                    f"{100 * c.worst:.3g}",
                    c.formula.form,
                    c.formula.valued(),
                )
                for c in self.candidates
            ],
            columns=["front", "complexity", "error %", "worst %", "form", "formula"],
        )
        return f"{head}\n\n{shown.to_string(index=False)}"


def ranked(network: str, output: int, found: Sequence[Formula], points: Points, tolerance: float) -> Distillation:
    """The candidates in order, the Pareto front and its knee marked."""
    made = [Candidate(f, points.error(f), points.worst(f), network, output) for f in found]
    kept: list[Candidate] = []
    best = np.inf
    for candidate in sorted(made, key=lambda c: (c.complexity, c.error)):
        kept.append(replace(candidate, pareto=candidate.error < best))
        best = min(best, candidate.error)
    front = [i for i, c in enumerate(kept) if c.pareto]
    at = knee(np.array([kept[i].complexity for i in front]), np.array([kept[i].error for i in front]), tolerance)
    kept[front[at]] = replace(kept[front[at]], knee=True)
    return Distillation(network, output, tuple(kept), points, tolerance)


def knee(complexity: np.ndarray, error: np.ndarray, tolerance: float) -> int:
    """The place on a front to prefer.

    It is the first whose error is within the tolerance. Where there is none the front bends at the point that is
    farthest below the line from its first point to its last, errors on a logarithmic axis.

    Args:
        complexity: [n], increasing.
        error: [n], decreasing.
        tolerance: Error that is good enough.
    """
    good = np.flatnonzero(error <= tolerance)
    if len(good):
        return int(good[0])
    y = np.log(error)
    if len(y) < 3:
        return len(y) - 1
    across = (complexity - complexity[0]) / (complexity[-1] - complexity[0])
    down = (y[0] - y) / (y[0] - y[-1])
    return int(np.argmax(down - across))
