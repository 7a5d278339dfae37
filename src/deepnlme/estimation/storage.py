"""Fits and checkpoints on disk: one .npz file of numbers with a JSON head, no code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepnlme.data import Population
from deepnlme.errors import DataError, ModelError
from deepnlme.estimation.covariance import Covariance
from deepnlme.estimation.fo import FO
from deepnlme.estimation.foce import FOCE
from deepnlme.estimation.laplace import Laplace
from deepnlme.estimation.method import Method
from deepnlme.estimation.naive_pooled import NaivePooled
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.optimiser import FitStatus, Trace
from deepnlme.estimation.options import Options
from deepnlme.model import Model

FORMAT = 1
METHODS: dict[str, type[Method]] = {c.__name__: c for c in (FO, FOCE, Laplace, NaivePooled)}


def fingerprint(population: Population) -> str:
    """A hash of everything in the records that a likelihood can depend on."""
    digest = hashlib.sha256()
    r = population.records
    digest.update(repr(population.ids).encode())
    for name in ("subject", "time", "dv", "evid", "observed", "amt", "rate", "duration", "ii", "addl", "ss", "cens",
                 "limit", "occasion"):
        digest.update(np.ascontiguousarray(getattr(r, name)).tobytes())
    for name in ("cmt", "endpoint"):
        digest.update("|".join(getattr(r, name).tolist()).encode())
    for name in sorted(r.covariates):
        digest.update(name.encode() + np.ascontiguousarray(r.covariates[name]).tobytes())
    return digest.hexdigest()


def _write(path: Path, head: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write to a temporary file first, so that an interruption never leaves half a file."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop("head")))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DataError(f"Invalid file {path}: it is not a fit written by this package ({error}).") from error
    if head.get("format") != FORMAT:
        raise DataError(f"Invalid file {path}: got format {head.get('format')}, expected {FORMAT}.")
    return head, arrays


def _head(model: Model, population: Population, method: Method) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": type(model).__name__,
        "declared": {n: repr(d) for n, d in model.declared.items()},
        "names": list(model.space.names),
        "data": fingerprint(population),
        "method": {"class": type(method).__name__, **dataclasses.asdict(method)},  # type: ignore[call-overload]
    }


def _check(head: dict[str, Any], model: Model, population: Population, path: Path) -> None:
    if head["model"] != type(model).__name__ or head["names"] != list(model.space.names):
        raise ModelError(
            f"Invalid model for {path}: it was written for {head['model']} with parameters {', '.join(head['names'])}, "
            f"got {type(model).__name__} with {', '.join(model.space.names)}."
        )
    if head["data"] != fingerprint(population):
        raise DataError(f"Invalid data for {path}: it was written for other data than these.")


def save_fit(fit: Any, path: str | Path) -> None:
    """Write a fit."""
    head = _head(fit.model, fit.population, fit.method)
    options = dataclasses.asdict(fit.options)
    options["checkpoint"] = str(options["checkpoint"]) if options["checkpoint"] is not None else None
    head |= {
        "options": options,
        "status": fit.status.name,
        "decrement": fit.decrement,
        "trace": dataclasses.asdict(fit.trace),
        "seconds": fit.seconds,
        "versions": fit.versions,
        "starts": list(fit.starts),
        "estimates": fit.estimates,
        "ofv": fit.ofv,
        "covariance": None if fit.covariance is None else {"kind": fit.covariance.kind, "message": fit.covariance.message},
    }
    arrays = {"free": fit.free}
    arrays |= {f"evaluation.{f}": getattr(fit.evaluation, f) for f in Evaluation.__dataclass_fields__}
    if fit.covariance is not None:
        arrays |= {f"covariance.{f}": getattr(fit.covariance, f) for f in ("r", "s", "free", "natural")}
    _write(Path(path), head, arrays)


def load_fit(path: str | Path, model: Model, population: Population) -> Any:
    """Read a fit that `Fit.save` wrote; the model and the data are given again and checked.

    Raises:
        ModelError: Another model.
        DataError: Other data, or a file that is no fit.
    """
    from deepnlme.estimation.result import Fit

    path = Path(path)
    head, arrays = _read(path)
    method = dict(head["method"])
    method = METHODS[method.pop("class")](**method)
    if not method.uses_omega and model.groups:
        model = model.replace(**{n: g.as_fixed() for n, g in model.groups.items()})
    _check(head, model, population, path)
    evaluation = Evaluation(**{f: arrays[f"evaluation.{f}"] for f in Evaluation.__dataclass_fields__})
    found = None
    if head["covariance"] is not None:
        parts = {f: arrays[f"covariance.{f}"] for f in ("r", "s", "free", "natural")}
        found = Covariance(head["covariance"]["kind"], **parts, message=head["covariance"]["message"])
    return Fit(
        model,
        population,
        method,
        Options(**head["options"]),
        FitStatus[head["status"]],
        arrays["free"],
        evaluation,
        found,
        head["decrement"],
        Trace(**head["trace"]),
        head["seconds"],
        head["versions"],
        tuple(head["starts"]),
    )


@dataclass
class Checkpoint:
    """The best point so far of a running fit, on disk after every iteration.

    Attributes:
        path: The file.
        head: What it must be a fit of.
        u, z: The point it holds, if it existed.
    """

    path: Path
    head: dict[str, Any]
    u: np.ndarray | None = None
    z: np.ndarray | None = None

    @classmethod
    def open(cls, path: str | Path | None, objective: MarginalObjective) -> Checkpoint | None:
        """Read the file if there is one.

        Raises:
            ModelError, DataError: It belongs to another model or to other data.
        """
        if path is None:
            return None
        joint = objective.joint
        made = cls(Path(path), _head(joint.model, joint.population, objective.method))
        if made.path.exists():
            head, arrays = _read(made.path)
            _check(head, joint.model, joint.population, made.path)
            made.u, made.z = arrays["u"], arrays["z"]
        return made

    def save(self, u: np.ndarray, evaluation: Evaluation) -> None:
        """Write the point."""
        _write(self.path, self.head, {"u": u, "z": evaluation.z[0], "value": evaluation.value})
