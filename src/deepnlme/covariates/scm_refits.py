"""Fits of the candidate models of a stepwise search: from their parent's estimates, in parallel, kept in a file."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepnlme.covariates.forms import Term
from deepnlme.covariates.relations import CovariateModel
from deepnlme.data import Population
from deepnlme.errors import DataError, DeepNLMEError, ModelError, invalid
from deepnlme.estimation import EBEStatus, Fit, FitStatus, Method, Options
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.optimiser import optimise
from deepnlme.estimation.storage import fingerprint
from deepnlme.joint import Joint
from deepnlme.model import Model

CLOSE = 0.05
"""Expected further improvement [OFV units] below which a candidate counts as fitted."""


@dataclass(frozen=True)
class Outcome:
    """The fit of one candidate model.

    Attributes:
        ofv: What was minimised, the OFV and the penalty of priors; NaN if the fit failed.
        estimates: Natural values by name.
        modes: [S, k] whitened random effects; may be empty, then they are searched from the start.
        status: Empty if it is good, else what went wrong.
    """

    ofv: float
    estimates: dict[str, float]
    modes: list[list[float]]
    status: str = ""


@dataclass(frozen=True)
class Job:
    """A candidate model and where its fit starts."""

    terms: tuple[Term, ...]
    start: dict[str, float]
    modes: list[list[float]]

    @property
    def key(self) -> str:
        """What tells this candidate model from the others."""
        return " + ".join(sorted(term.label for term in self.terms))


@dataclass(frozen=True)
class Base:
    """What all candidate models have in common."""

    model: Model
    population: Population
    method: Method
    options: Options
    weights: dict[str, np.ndarray]

    @classmethod
    def of(cls, fit: Fit, tolerance: float) -> Base:
        """That of a fit, with the tolerance [OFV units] of the candidates' fits."""
        options = replace(fit.options, progress=False, checkpoint=None, held_out=None, covariance=None, starts=1)
        return cls(fit.model, fit.population, fit.method, replace(options, tolerance=tolerance), fit.weights)

    def fitted(self, job: Job) -> Outcome:
        """Fit one candidate; whatever the model or the data refuse is its status."""
        try:
            model = CovariateModel(self.model, job.terms) if job.terms else self.model
            joint = Joint(model, self.population)
            objective = MarginalObjective.of(joint, self.method, self.options)
            known: dict[str, Any] = {n: v for n, v in job.start.items() if n in joint.space.names}
            known |= {n: self.weights[n] for n in joint.space.weights}
            u = joint.space.initial(known)
            if len(job.modes):
                objective.start_from(u, np.asarray(job.modes))
            best = optimise(objective, u, self.options)
        except (DeepNLMEError, RuntimeError, np.linalg.LinAlgError) as error:  # one must not sink the others
            return Outcome(math.nan, {}, [], str(error))
        if best.status is FitStatus.INTERRUPTED:
            raise KeyboardInterrupt("interrupted in the fit of a candidate")
        lost = int((best.evaluation.status != EBEStatus.CONVERGED).sum())
        good = best.status in (FitStatus.CONVERGED, FitStatus.FLAT) or best.decrement < CLOSE
        status = f"random effects not found for {lost} subjects" if lost else "" if good else best.status.value
        value = float(best.evaluation.value[0])
        modes = best.evaluation.z[0].tolist()
        return Outcome(value if math.isfinite(value) else math.nan, joint.space.as_dict(best.u), modes, status)


_BASE: Base | None = None


def _prepare(base: Base) -> None:
    global _BASE
    torch.set_num_threads(1)
    _BASE = base


def _one(job: Job) -> Outcome:
    assert _BASE is not None
    return _BASE.fitted(job)


@contextmanager
def fitter(base: Base, workers: int) -> Iterator[Callable[[Sequence[Job]], Iterator[Outcome]]]:
    """A function that fits jobs in order, one after the other or in as many processes of one thread each."""
    if workers == 1:
        yield lambda jobs: map(base.fitted, jobs)
        return
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(kind)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, initargs=(base,)) as pool:
        yield lambda jobs: pool.map(_one, jobs)


def _digest(head: Any, found: Any) -> str:
    return hashlib.sha256(json.dumps([head, found], sort_keys=True).encode()).hexdigest()


@dataclass
class Store:
    """Outcomes by candidate model, on disk after every one; without a path only in memory.

    Attributes:
        path: The file, or None.
        head: What the outcomes are of.
        found: The outcomes.
    """

    path: Path | None
    head: dict[str, Any]
    found: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path | None, fit: Fit, settings: Mapping[str, Any]) -> Store:
        """Read the file if there is one.

        Raises:
            ModelError: It is of another fit or other settings, or its folder does not exist.
            DataError: It is damaged.
        """
        head = {
            "format": 2,
            "names": list(fit.joint.space.names),
            "data": fingerprint(fit.population),
            "method": fit.method.name,
            "free": fit.free.tolist(),
            "ofv": fit.ofv,
            "settings": dict(settings),
        }
        store = cls(None if path is None else Path(path), json.loads(json.dumps(head)))
        if store.path is None:
            return store
        if not store.path.parent.is_dir():
            expected = f"There is no folder {store.path.parent}"
            raise ModelError(invalid("checkpoint", path, expected, fix="Make it first"))
        if store.path.exists():
            store._read(store.path)
        return store

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["digest"] != _digest(content["head"], content["found"]):
                raise ValueError("it was changed")
            head, found = content["head"], {k: Outcome(**v) for k, v in content["found"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            expected = f"It is not a search of this package ({error})"
            raise DataError(invalid("checkpoint", path, expected, fix="Delete it, or name another file")) from error
        different = [name for name in self.head if head.get(name) != self.head[name]]
        if different and set(different) <= {"free", "ofv"} and self._close(head):
            different = []
        if different:
            what = {"data": "other data", "settings": "other settings"}.get(different[0], "another fit")
            fix = "Use the same again, or another file"
            raise ModelError(invalid("checkpoint", path, f"It was written for {what}", fix=fix))
        self.found = found

    def _close(self, head: Mapping[str, Any]) -> bool:
        """Whether a fit is the same up to what two runs of it differ by."""
        a, b = np.array(head["free"]), np.array(self.head["free"])
        same = a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-6)
        return same and abs(head["ofv"] - self.head["ofv"]) < CLOSE

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep one more outcome."""
        self.found[key] = outcome
        if self.path is None:
            return
        found = {k: asdict(v) for k, v in self.found.items()}
        content = {"head": self.head, "found": found, "digest": _digest(self.head, found)}
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, self.path)
