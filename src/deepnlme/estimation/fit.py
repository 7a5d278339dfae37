"""`fit`, `evaluate_ofv` and `predict`."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.estimation.coding import coded
from deepnlme.estimation.covariance import covariance
from deepnlme.estimation.foce import FOCE
from deepnlme.estimation.individuals import block_cholesky, prediction_table
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.method import Method
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.optimiser import Optimum, optimise, together
from deepnlme.estimation.options import Options
from deepnlme.estimation.result import Fit
from deepnlme.estimation.stages import continued, initial_points, split
from deepnlme.estimation.start import check_start
from deepnlme.estimation.storage import Checkpoint
from deepnlme.estimation.watch import FitStatus, Trace
from deepnlme.joint import Joint, calibrated
from deepnlme.model import Model

MODES_OF_NETWORKS = 20
"""Iterations of a subject's random effects at one evaluation of a model with networks."""


def fit(
    model: Model,
    population: Population,
    method: Method | None = None,
    start: Mapping[str, Any] | Fit | None = None,
    options: Options | None = None,
) -> Fit:
    """Fit a population model by maximising an approximate marginal likelihood.

    Parameters with priors, the weights of networks among them, are estimated by their posterior mode: the penalty
    -2 log prior is added to what is minimised, and reported apart from the OFV.

    Args:
        model: The model; it is not changed.
        population: The data; every subject needs an observation.
        method: `FOCE()` (default, with interaction), `Laplace()`, `FO()` or `NaivePooled()`.
        start: Initial values by name that replace the declared ones, or an earlier fit to go on from.
        options: How to carry the fit out.

    Returns:
        The fit. Ctrl-C or the time limit return the best fit so far; its `status` says so.

    Raises:
        DataError: Data that the model cannot use.
        ModelError: A model or method that does not suit, or an OFV that is not finite at the initial values.
    """
    method, options = FOCE() if method is None else method, Options() if options is None else options
    _check_arguments(model, population, method, options, start, "start")
    began = time.perf_counter()
    population, aside = split(population, options)
    if isinstance(start, Fit):
        population = coded(population, start.population)
        model, start = continued(model, start)
    aside = None if aside is None else coded(aside, population)
    model = method.taking(model)
    joint = prepared(model, population, method)
    u = joint.space.initial(start)
    objective = MarginalObjective.of(joint, method, options, MODES_OF_NETWORKS if joint.space.weights else None)
    check_start(objective, u)
    held_out = None if aside is None else MarginalObjective.of(prepared(joint.model, aside, method), method, options)
    seconds = {"preparation": time.perf_counter() - began}
    began = time.perf_counter()
    best, ends = _best_of_starts(objective, u, options, held_out)
    if joint.space.weights:
        best = _found_again(best, MarginalObjective.of(joint, method, options))
    seconds["optimisation"] = time.perf_counter() - began
    began = time.perf_counter()
    found = None
    kind = options.covariance
    if kind == "auto":
        kind = None if joint.space.weights else "sandwich"
    if kind is not None and best.status is not FitStatus.INTERRUPTED:
        objective.start_from(best.u, best.evaluation.z[0])
        try:
            found = covariance(objective, best.u, best.evaluation, kind, best.hessian)
        except KeyboardInterrupt:
            found = None
    seconds["covariance"] = time.perf_counter() - began
    return Fit(
        joint.model,
        population,
        method,
        options,
        best.status,
        best.u,
        best.evaluation,
        found,
        best.decrement,
        best.trace,
        seconds,
        versions(),
        ends,
        aside,
    )


def _check_arguments(model: Any, population: Any, method: Any, options: Any, values: Any, argument: str) -> None:
    for name, value, kind, example in (
        ("model", model, Model, "an instance of a subclass of dn.Model"),
        ("population", population, Population, "a Population, such as dn.read_nonmem(...) gives"),
        ("method", method, Method, "a method such as dn.FOCE()"),
        ("options", options, Options, "dn.Options(...)"),
    ):
        if isinstance(value, type):
            call = f"dn.{value.__name__}()" if issubclass(value, Method | Options) else f"{value.__name__}()"
            raise ModelError(f"Invalid `{name}`: got the class {value.__name__}, expected an instance: {call}.")
        if not isinstance(value, kind):
            got = repr(value) if isinstance(value, str | int | float) else type(value).__name__
            raise ModelError(f"Invalid `{name}`: got {got}, expected {example}.")
    if values is not None and not isinstance(values, Mapping | Fit):
        raise ModelError(f"Invalid `{argument}`: got {type(values).__name__}, expected values by name, dict(ka=1.5).")
    _check_device(options.device)


def _check_device(device: Any) -> None:
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ModelError(f'Invalid `device`: got {device!r}, expected "cpu" or "cuda".')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f'Invalid `device`: got {device!r}, but torch sees no GPU here. Use device="cpu".')


def prepared(model: Model, population: Population, method: Method) -> Joint:
    """Model and data bound together and checked, the units of networks found."""
    population.require_observations()
    joint = Joint(calibrated(model, population), population)
    joint.check_data()
    method.check(joint)
    return joint


def _found_again(best: Optimum, objective: MarginalObjective) -> Optimum:
    """The optimum with modes searched to the end, if some were not found within the limit of the descent."""
    if not (best.evaluation.status == EBEStatus.MAX_ITERATIONS).any():
        return best
    objective.start_from(best.u, best.evaluation.z[0])
    again = objective(best.u)
    return replace(best, evaluation=again) if np.isfinite(again.value[0]) else best


def _best_of_starts(
    objective: MarginalObjective, u: np.ndarray, options: Options, held_out: MarginalObjective | None
) -> tuple[Optimum, tuple[float, ...]]:
    """Fits from the given and from drawn initial values; the best one, and the values all of them reached."""
    began = time.perf_counter()
    checkpoint = Checkpoint.open(options.checkpoint, objective)
    points = initial_points(objective, u, options)
    if checkpoint is not None and checkpoint.u is not None:
        points[0] = checkpoint.u
        if checkpoint.z is not None:
            objective.start_from(checkpoint.u, checkpoint.z)
    save = checkpoint.save if checkpoint is not None else (lambda u, e: None)
    if together(objective, options):
        found = optimise(objective, np.stack(points), options.since(began), save, held_out)
        return found, found.reached or (float(found.evaluation.value[0]),)
    best: Optimum | None = None
    reached = []
    for i, point in enumerate(points):
        if i:
            objective.forget()
            if not np.isfinite(objective(point).value[0]):
                reached.append(float("inf"))
                continue
        found = optimise(objective, point, options.since(began), save, held_out)
        value = float(found.evaluation.value[0])
        reached.append(value)
        if best is None or found.rank < best.rank:
            best = found
        if found.status in (FitStatus.INTERRUPTED, FitStatus.TIME_LIMIT):
            break
    assert best is not None
    return best, tuple(reached)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    out = {"python": platform.python_version()}
    for name in ("deepnlme", "torch", "torchdiffeq", "numpy", "scipy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def evaluate_ofv(
    model: Model,
    population: Population,
    method: Method | None = None,
    at: Mapping[str, Any] | Fit | None = None,
    options: Options | None = None,
) -> Fit:
    """The OFV at given parameter values, without fitting.

    Args:
        model: The model.
        population: The data.
        method: As in `fit`.
        at: Values by name that replace the declared initial ones, or a fit (of other data) whose values to take.
        options: As in `fit`; only device, seed and the settings of the random effects matter.

    Returns:
        A `Fit` that was only evaluated: `ofv`, `subject_ofv`, `ebes`, `predictions()` at these values.
    """
    method, options = FOCE() if method is None else method, Options() if options is None else options
    _check_arguments(model, population, method, options, at, "at")
    began = time.perf_counter()
    values = at
    if isinstance(at, Fit):
        population = coded(population, at.population)
        model, values = continued(model, at, strict=True)
    model = method.taking(model)
    joint = prepared(model, population, method)
    u = joint.space.initial(values)  # type: ignore[arg-type]
    objective = MarginalObjective.of(joint, method, options)
    evaluation = check_start(objective, u)
    seconds = {"evaluation": time.perf_counter() - began}
    status = FitStatus.NOTHING_TO_ESTIMATE if not len(u) else FitStatus.EVALUATED
    return Fit(
        joint.model,
        population,
        method,
        replace(options, covariance=None),
        status,
        u,
        evaluation,
        None,
        float("nan"),
        Trace(),
        seconds,
        versions(),
    )


def predict(
    model: Model,
    population: Population,
    at: Mapping[str, Any] | None = None,
    eta: np.ndarray | None = None,
    all_records: bool = False,
) -> pd.DataFrame:
    """Predictions of a model that need not be fitted: PRED, IPRED and residuals at given values.

    Args:
        model: The model.
        population: The data; observations may be missing (DV empty, MDV=1) with `all_records`.
        at: Parameter values by name that replace the declared initial ones.
        eta: [S, k] random effects; zero by default.
        all_records: One row per record instead of per observation.

    Returns:
        The table of `Fit.predictions`.
    """
    _check_arguments(model, population, FOCE(), Options(), at, "at")
    model = calibrated(model, population)
    joint = Joint(model, population)
    u = joint.space.initial(at)
    z = np.zeros((len(population), joint.k))
    if eta is not None:
        eta = np.atleast_2d(np.asarray(eta, dtype=float))
        if eta.shape != z.shape:
            raise ModelError(f"Invalid `eta`: got shape {eta.shape}, expected {z.shape}: subjects by random effects.")
        lower = block_cholesky(joint, u)
        z = eta @ np.linalg.pinv(lower).T
        if not np.allclose(z @ lower.T, eta, rtol=1e-8, atol=1e-10):
            raise ModelError(
                "Invalid `eta`: got an effect that Omega does not allow: its variance is fixed at zero. "
                "Set it to zero, or give the effect a variance."
            )
    return prediction_table(model, population, u, z, True, all_records)
