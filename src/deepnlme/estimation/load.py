"""Reading a fit that was saved."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.estimation.covariance import Covariance
from deepnlme.estimation.method import Method
from deepnlme.estimation.objective import Evaluation
from deepnlme.estimation.options import Options
from deepnlme.estimation.result import Fit
from deepnlme.estimation.stages import split
from deepnlme.estimation.storage import METHODS, check, damage, fingerprint, read, sized
from deepnlme.estimation.watch import FitStatus, Trace
from deepnlme.joint import Joint
from deepnlme.model import Model


def load_fit(path: str | Path, model: Model, population: Population) -> Fit:
    """Read a fit that `Fit.save` wrote; the model and the data are given again and checked.

    After early stopping on a share of the subjects (`Options.held_out`) the data are all subjects, or those fitted.

    Raises:
        ModelError: Another model: other declarations, or equations that give another OFV.
        DataError: Other data, or a file that is no fit.
    """
    path = Path(path)
    head, arrays = read(path)
    with damage(path):
        parts = dict(head["method"])
        method = METHODS[parts.pop("class")](**parts)
    model = method.taking(model)
    with damage(path):
        model = _in_units(model, head.get("scaling", {}))
        population, aside = _parted(head, population)
        check(head, model, population, path)
        fit = _restored(head, arrays, model, population, aside, method)
        _check_equations(fit, path)
    if fit.options.device != "cpu" and not torch.cuda.is_available():
        fit = replace(fit, options=replace(fit.options, device="cpu"))
    return fit


def _parted(head: dict[str, Any], population: Population) -> tuple[Population, Population | None]:
    """The subjects that were fitted and those kept aside, where these were a share of the population."""
    options = Options(**head["options"])
    if options.held_out is None or fingerprint(population) == head["data"]:
        return population, None
    return split(population, options)


def _in_units(model: Model, scaling: dict[str, Any]) -> Model:
    """The model with the units of its networks that were found from the data of the fit."""
    new = copy.copy(model)
    new.declared = dict(model.declared)
    for name, net in model.networks.items():
        if name in scaling:
            new.declared[name] = net.scaled(net.scaling.filled(**scaling[name]))
    return new


def _check_equations(fit: Fit, path: Path) -> None:
    """Refuse a model whose declarations are those of the file but whose OFV is not."""
    on_cpu = replace(fit, options=replace(fit.options, device="cpu"))
    found = float(on_cpu.objective()(fit.free).ofv[0])
    if abs(found - fit.ofv) > 1e-3 + 1e-6 * abs(fit.ofv) or not math.isfinite(found):
        raise ModelError(
            f"Invalid model for {path}: its OFV at the estimates is {found:.4f}, that of the file is {fit.ofv:.4f}. "
            "The equations are not those that were fitted; give the model as it was."
        )


def _restored(
    head: dict[str, Any],
    arrays: dict[str, np.ndarray],
    model: Model,
    population: Population,
    aside: Population | None,
    method: Method,
) -> Fit:
    """The fit; arrays of the wrong size raise ValueError."""
    p, s, k = model.space.size, len(population), Joint(model, population).k
    q = model.space.row_size
    shapes = {"u": (1, p), "gradient": (1, p), "subject": (1, s), "subject_gradient": (1, s, q), "z": (1, s, k)}
    shapes |= {"curvature": (1, s, k, k), "status": (1, s)}
    evaluation = {}
    for f in Evaluation.__dataclass_fields__:
        evaluation[f] = sized(arrays, f"evaluation.{f}", shapes.get(f, (1,)))
    found = None
    if head["covariance"] is not None:
        parts = {f: sized(arrays, f"covariance.{f}", (p, p)) for f in ("r", "s", "free")}
        parts["natural"] = sized(arrays, "covariance.natural", (model.space.structural,) * 2)
        found = Covariance(head["covariance"]["kind"], **parts, message=head["covariance"]["message"], subjects=s)
    return Fit(
        model,
        population,
        method,
        Options(**head["options"]),
        FitStatus[head["status"]],
        sized(arrays, "free", (p,)),
        Evaluation(**evaluation),
        found,
        head["decrement"],
        Trace(**head["trace"]),
        head["seconds"],
        head["versions"],
        tuple(head["starts"]),
        aside,
    )
