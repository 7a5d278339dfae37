"""Fits and checkpoints on disk: one .npz file of numbers with a JSON head, no code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepnlme.data import Population
from deepnlme.errors import DataError, DeepNLMEError, ModelError
from deepnlme.estimation.fo import FO
from deepnlme.estimation.foce import FOCE
from deepnlme.estimation.laplace import Laplace
from deepnlme.estimation.method import Method
from deepnlme.estimation.naive_pooled import NaivePooled
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.model import Model
from deepnlme.nn import NeuralNetwork
from deepnlme.parameters import Parameter, RandomEffects, Real

FORMAT = 1
METHODS: dict[str, type[Method]] = {c.__name__: c for c in (FO, FOCE, Laplace, NaivePooled)}


def fingerprint(population: Population) -> str:
    """A hash of everything in the records that a likelihood can depend on."""
    digest = hashlib.sha256()
    r = population.records
    digest.update(repr(population.ids).encode())
    digest.update(repr(sorted(population.interpolation.items())).encode())
    for name in (
        "subject",
        "time",
        "dv",
        "evid",
        "observed",
        "amt",
        "rate",
        "duration",
        "ii",
        "addl",
        "ss",
        "cens",
        "limit",
        "occasion",
    ):
        digest.update(np.ascontiguousarray(getattr(r, name)).tobytes())
    for name in ("cmt", "endpoint"):
        digest.update("|".join(getattr(r, name).tolist()).encode())
    for name in sorted(r.covariates):
        digest.update(name.encode() + np.ascontiguousarray(r.covariates[name]).tobytes())
    for name, values in sorted(population.tensors.items()):
        digest.update(f"{name} {values.shape} {values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def write(path: Path, head: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write to a temporary file first, so that an interruption never leaves half a file."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a file.

    Raises:
        DataError: It is no file of this package, or of another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop("head")))
        found = head.get("format")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DataError(f"Invalid file {path}: it is not a fit written by this package ({error}).") from error
    if found != FORMAT:
        raise DataError(f"Invalid file {path}: got format {found}, expected {FORMAT}.")
    return head, arrays


def _declaration(declared: Any) -> str:
    """What turns free numbers into natural ones, and the objective: a value only where it matters."""
    if isinstance(declared, RandomEffects):
        kept = np.where(declared.fixed, np.diag(declared.omega), np.nan).tolist()
        if declared.block and declared.fixed.all():
            kept = declared.omega.tolist()
        return (
            f"RandomEffects({declared.names or declared.size}, block={declared.block}, by={declared.by}, kept={kept})"
        )
    if isinstance(declared, NeuralNetwork):
        kept = "" if not declared.fixed else f", kept={_hash(declared.initial())}"
        if declared.center is not None and declared.prior is not None and not declared.fixed:
            kept += f", around={_hash(declared.center)}"
        return f"{declared.describe()}({declared.size}, {_prior(declared.prior)}, {_units(declared)}{kept})"
    if isinstance(declared, Parameter):
        parts = {f.name: getattr(declared, f.name) for f in dataclasses.fields(declared)}
        value = parts.pop("value")
        parts.pop("unit")
        prior = parts.pop("prior")
        if declared.fixed:
            parts = {"value": value, "fixed": True}
        elif isinstance(declared, Real):
            parts["scale"] = declared.scale
        if prior is not None and not declared.fixed:
            parts["prior"] = _prior(prior)
        return f"{type(declared).__name__}({', '.join(f'{k}={v}' for k, v in parts.items())})"
    return type(declared).__name__


def _hash(weights: np.ndarray) -> str:
    return hashlib.sha256(weights.tobytes()).hexdigest()[:16]


def _units(network: NeuralNetwork) -> str:
    """Units of inputs and outputs, in which weights mean what they mean."""
    shown = []
    for name, values in vars(network.scaling).items():
        numbers = "from the data" if values is None else ", ".join(f"{v:.6g}" for v in values)
        shown.append(f"{name}=[{numbers}]")
    return ", ".join(shown)


def _prior(prior: Any) -> str:
    return type(prior).__name__ if " at 0x" in repr(prior) else repr(prior)


def heading_of(model: Model, population: Population, method: Method) -> dict[str, Any]:
    """What a file is of: the model, the data and the method."""
    return {
        "format": FORMAT,
        "model": type(model).__name__,
        "declared": {n: _declaration(d) for n, d in model.declared.items()},
        "names": list(model.space.names),
        "data": fingerprint(population),
        "method": {"class": type(method).__name__, **dataclasses.asdict(method)},  # type: ignore[call-overload]
    }


def check(head: dict[str, Any], model: Model, population: Population, path: Path) -> None:
    """Refuse a file of another model or other data."""
    names = [str(n) for n in head["names"]]
    here = {n: _declaration(d) for n, d in model.declared.items()}
    there = dict(head["declared"])
    if head["model"] != type(model).__name__ or list(there) != list(here):
        raise ModelError(
            f"Invalid model for {path}: it was written for {head['model']} with parameters {', '.join(names)}, "
            f"got {type(model).__name__} with {', '.join(model.space.names)}."
        )
    for name in here:
        if here[name] != there[name]:
            raise ModelError(
                f"Invalid model for {path}: `{name}` is declared as {here[name]}, the file was written for "
                f"{there[name]}. Declare it as it was."
            )
    if head["data"] != fingerprint(population):
        raise DataError(f"Invalid data for {path}: it was written for other data than these.")


def save_fit(fit: Any, path: str | Path) -> None:
    """Write a fit."""
    head = heading_of(fit.model, fit.population, fit.method)
    options = {f.name: getattr(fit.options, f.name) for f in dataclasses.fields(fit.options)}
    options["held_out"] = options["held_out"] if isinstance(options["held_out"], float) else None
    options["checkpoint"] = str(options["checkpoint"]) if options["checkpoint"] is not None else None
    head |= {
        "options": options,
        "status": fit.status.name,
        "decrement": fit.decrement,
        "trace": dataclasses.asdict(fit.trace),
        "seconds": fit.seconds,
        "versions": fit.versions,
        "starts": list(fit.starts),
        "scaling": {name: vars(net.scaling) for name, net in fit.model.networks.items()},
        "estimates": fit.estimates,
        "ofv": fit.ofv,
        "covariance": None
        if fit.covariance is None
        else {"kind": fit.covariance.kind, "message": fit.covariance.message},
    }
    arrays = {"free": fit.free}
    arrays |= {f"evaluation.{f}": getattr(fit.evaluation, f) for f in Evaluation.__dataclass_fields__}
    if fit.covariance is not None:
        arrays |= {f"covariance.{f}": getattr(fit.covariance, f) for f in ("r", "s", "free", "natural")}
    write(Path(path), head, arrays)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Whatever else goes wrong in reading a file is damage to the file."""
    try:
        yield
    except DeepNLMEError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"Invalid file {path}: it is damaged, or of another version ({what}).") from error


def sized(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array of a file, which must have this shape (KeyError, ValueError)."""
    if arrays[name].shape != shape:
        raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    return arrays[name]


@dataclass
class Checkpoint:
    """The best point so far of a running fit, on disk after every iteration.

    Attributes:
        path: The file.
        head: What it must be a fit of.
        u, z: The point it held when it was opened, if it existed.
        value: The objective at the point it holds now.
    """

    path: Path
    head: dict[str, Any]
    u: np.ndarray | None = None
    z: np.ndarray | None = None
    value: float = math.inf

    @classmethod
    def open(cls, path: str | Path | None, objective: MarginalObjective) -> Checkpoint | None:
        """Read the file if there is one.

        Raises:
            ModelError, DataError: It belongs to another model or to other data, or its folder does not exist.
        """
        if path is None:
            return None
        joint = objective.joint
        made = cls(Path(path), heading_of(joint.model, joint.population, objective.method))
        if not made.path.parent.is_dir():
            raise ModelError(
                f"Invalid `checkpoint`: got {path}, but there is no folder {made.path.parent}. Make it first."
            )
        if made.path.exists():
            head, arrays = read(made.path)
            with damage(made.path):
                check(head, joint.model, joint.population, made.path)
                made.u = sized(arrays, "u", (joint.space.size,))
                made.z = sized(arrays, "z", (len(joint.population), joint.k))
                made.value = float(sized(arrays, "value", (1,))[0])
        return made

    def save(self, u: np.ndarray, evaluation: Evaluation) -> None:
        """Write the point, unless the file holds a better one (of an earlier start, or of the fit that it resumes)."""
        value = float(evaluation.value[0])
        if value <= self.value:
            self.value = value
            write(self.path, self.head, {"u": u, "z": evaluation.z[0], "value": evaluation.value[:1]})
