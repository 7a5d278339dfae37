"""A model in which a formula stands where a network stood."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from deepnlme.axes import SCALAR_NDIM, Names
from deepnlme.discovery.formula import Formula
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.method import estimated_groups
from deepnlme.model import Model
from deepnlme.parameters import Parameter, Positive, Real

METHODS = ("individual", "initial", "dosing", "observe", "dynamics")
"""Methods of a model that get theta."""


@dataclasses.dataclass(frozen=True)
class BoundFormula:
    """What stands for ``theta.<network>``: called as the network is, with scalars, vectors and numbers.

    Attributes:
        formula: The formula.
        constants: Their values by name.
        outputs: Outputs of the network.
        output: Which of them is the formula.
        network: What gives the others: the network, or another formula; None behind the last of them.
    """

    formula: Formula
    constants: dict[str, Any]
    outputs: int = 1
    output: int = 0
    network: Any = None

    def __call__(self, *inputs: Any) -> Any:
        """The output [K, R, T], or a tuple of them."""
        parts = [part for value in inputs for part in _scalars(value)]
        names = self.formula.inputs
        if len(parts) != len(names):
            raise ModelError(
                f"Invalid call of a formula: got {len(parts)} inputs, expected {len(names)} ({', '.join(names)})."
            )
        found = self.formula.evaluate(dict(zip(names, parts, strict=True)), self.constants)
        tensors = [v for v in (*parts, *self.constants.values(), found) if isinstance(v, Tensor)]
        shape = torch.broadcast_shapes((1,) * SCALAR_NDIM, *(v.shape for v in tensors))
        like = tensors[0] if tensors else torch.zeros(())
        found = torch.as_tensor(found, dtype=torch.float64, device=like.device).expand(shape)
        if self.outputs == 1:
            return found
        others = [found] * self.outputs if self.network is None else list(self.network(*inputs))
        others[self.output] = found.expand(torch.broadcast_shapes(found.shape, others[self.output].shape))
        return tuple(others)

    def vector(self, *inputs: Any) -> Tensor:
        """All outputs as a vector, [K, R, T, outputs]."""
        found = self(*inputs)
        return torch.stack(torch.broadcast_tensors(*found), -1) if self.outputs > 1 else found.unsqueeze(-1)


def replaced(fit: Fit, name: str, formula: Formula, output: int = 0) -> Model:
    """The model of a fit with a formula in place of a network, its constants to be estimated.

    Everything else starts at the estimates of the fit. Of a network with several outputs the formula replaces one, and
    the network stays for the others until they all are formulas.

    Args:
        fit: The fit.
        name: Of the network.
        formula: The formula.
        output: Which output it replaces.

    Raises:
        ModelError: A formula stands for that output already, or a parameter has the name of one of its constants.
    """
    old = at_estimates(fit)
    if (name, output) in getattr(old, "formulas", {}):
        got = f"a formula for output {output + 1} of `{name}`"
        fix = "Put it into the fit that has the network there"
        raise ModelError(invalid("into", got, "A formula stands there already", fix=fix))
    outputs = old.networks[name].outputs
    done = {o for network, o in getattr(old, "formulas", {}) if network == name} | {output}
    declared = {n: d for n, d in old.declared.items() if n != name or len(done) < outputs}
    labels = {constant: label(name, output, outputs, constant) for constant in formula.constants}
    clash = [label for label in labels.values() if label in declared]
    if clash:
        fix = "Rename the parameter of the model"
        raise ModelError(invalid("into", repr(clash[0]), "The model declares a parameter of that name", fix=fix))
    for constant, value in formula.constants.items():
        declared[labels[constant]] = _declaration(value, constant in formula.positive)
    new = _subclass(type(old), name, formula, labels, outputs, output, old.is_ode)
    out = object.__new__(new)
    out.__dict__.update(old.__dict__)
    out.declared = declared
    out._check()
    return out


def label(network: str, output: int, outputs: int, constant: str) -> str:
    """Name of the parameter that a constant of a formula becomes."""
    return f"{network}_{constant}" if outputs == 1 else f"{network}_{output + 1}_{constant}"


def at_estimates(fit: Fit) -> Model:
    """The model with the estimates as initial values; an Omega that a pooled fit kept is estimated again."""
    model, estimates = fit.model, fit.estimates
    matrices = fit.joint.space.omega_matrices(fit.free)
    new = copy.copy(model)
    new.__dict__.pop("groups_before", None)
    new.declared = {}
    for name, declared in model.declared.items():
        if isinstance(declared, Parameter):
            new.declared[name] = dataclasses.replace(declared, value=estimates[name])
        elif name in model.groups:
            new.declared[name] = estimated_groups(model)[name].with_omega(matrices[name])
        else:
            network = model.networks[name]
            new.declared[name] = network.with_weights(fit.weights[name], network.fixed)
    return new


def _declaration(value: float, positive: bool) -> Parameter:
    return Positive(max(value, 1e-12)) if positive else Real(value)


def _subclass(
    base: type[Model], name: str, formula: Formula, labels: dict[str, str], outputs: int, output: int, ode: bool
) -> type[Model]:
    """A class whose methods see the formula under the name of the network."""

    def seen(theta: Any) -> Names:
        constants = {constant: theta[label] for constant, label in labels.items()}
        network = theta[name] if outputs > 1 and name in theta else None
        return Names("theta", {**theta, name: BoundFormula(formula, constants, outputs, output, network)})

    def overriding(method: str) -> Any:
        def call(self: Any, theta: Any, *rest: Any) -> Any:
            return getattr(super(new, self), method)(seen(theta), *rest)

        return call

    methods = {m: overriding(m) for m in METHODS if ode or m != "dynamics"}
    about = f"{base.__name__} with {name} = {formula.text}."
    formulas = {**getattr(base, "formulas", {}), (name, output): (formula, labels, outputs)}
    shared = {**methods, "__doc__": about, "formulas": formulas}
    new = type(f"{base.__name__}With{name.title().replace('_', '')}", (base,), shared)
    return new


def formulas_in(fit: Fit) -> pd.DataFrame:
    """The formulas that stand in a model where networks stood.

    Args:
        fit: The fit of a model from `candidate.into`, of any number of networks one after the other.

    Returns:
        One row per formula: NETWORK, FORMULA with constants by their names in the formula, VALUES with those of the
        fit; empty for other models.
    """
    rows = []
    for (name, output), (formula, labels, outputs) in getattr(fit.model, "formulas", {}).items():
        values = {constant: float(fit.estimates[parameter]) for constant, parameter in labels.items()}
        place = name if outputs == 1 else f"{name}, output {output + 1}"
        rows.append((place, formula.text, dataclasses.replace(formula, constants=values).valued()))
    return pd.DataFrame(rows, columns=["NETWORK", "FORMULA", "VALUES"])


def _scalars(value: Any) -> list[Any]:
    """The components of an input of a network."""
    if isinstance(value, Tensor) and value.dim() == SCALAR_NDIM + 1:
        return list(value.unbind(-1))
    return [value]
