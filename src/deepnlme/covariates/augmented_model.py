"""A model whose random effects are what covariates leave unexplained: eta := g(covariates) + eta."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.covariates.augment_inputs import Inputs
from deepnlme.data import Population
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.model import Model
from deepnlme.nn import NeuralNetwork

NETWORK = "covariate_effects"
"""Name of the network in an augmented model."""


@dataclass(frozen=True)
class Shift:
    """How expected effects enter a model.

    Attributes:
        places: Of each expected effect: its group, its name or None in a vector, and its position in the group.
        inputs: Of the network, or None where the expected effects themselves are covariates.
        columns: Names of those covariates.
    """

    places: tuple[tuple[str, str | None, int], ...]
    inputs: Inputs | None
    columns: tuple[str, ...] = ()

    def values(self, theta: Any, cov: Any) -> list[Tensor]:
        """The expected effects, each [K, R, 1]."""
        if self.inputs is None:
            return [cov[name][..., :1] for name in self.columns]
        return list(theta[NETWORK].vector(*self.inputs.tensors(cov)).unbind(-1))

    def shifted(self, eta: Any, expected: Sequence[Tensor]) -> Names:
        """The random effects that the base model is given."""
        out = dict(eta)
        for (attribute, name, position), value in zip(self.places, expected, strict=True):
            if name is not None:
                out[name] = out[name] + value
                continue
            vector = out[attribute]
            unit = torch.zeros(vector.shape[-1], dtype=vector.dtype, device=vector.device)
            unit[position] = 1.0
            out[attribute] = vector + value.unsqueeze(-1) * unit
        return Names("eta", out)


class Shifted:
    """What an augmented model's class has besides those of the base model's."""

    shift: Shift

    def individual(self, theta: Any, eta: Any, cov: Any) -> dict[str, Any]:
        """Individual parameters of the base model at eta + g(covariates)."""
        bare = Names("theta", {name: value for name, value in theta.items() if name != NETWORK})
        return super().individual(bare, self.shift.shifted(eta, self.shift.values(theta, cov)), cov)  # type: ignore[misc]

    def check_people(self, population: Population) -> None:
        """Refuse people whose text covariates have other codes than those that the effects were learned from."""
        super().check_people(population)  # type: ignore[misc]
        if self.shift.inputs is not None:
            self.shift.inputs.check(population)

    def __str__(self) -> str:
        base = super().__str__()
        return base if base == type(self).__name__ else f"Augmented {base}"

    def __reduce__(self) -> Any:
        return _rebuild, (type(self).__mro__[2], self.__dict__)


@cache
def _class(base: type[Model]) -> type[Model]:
    """The base model's class with shifted random effects."""
    return type(
        f"Augmented{base.__name__}", (Shifted, base), {"__doc__": f"{base.__name__}, eta := g(covariates) + eta."}
    )


def _rebuild(base: type[Model], state: dict[str, Any]) -> Model:
    new = object.__new__(_class(base))
    new.__dict__.update(state)
    return new


def augmented_model(fit: Fit, shift: Shift, omegas: dict[str, np.ndarray], network: NeuralNetwork | None) -> Model:
    """The model of a fit with shifted random effects; declared as it was, its initial values those of the fit.

    Args:
        fit: The fit.
        shift: How expected effects enter.
        omegas: Omega of groups, where it is another than the fit's.
        network: The network that makes the expected effects, if a network does.

    Raises:
        ModelError: A model that is augmented already.
    """
    if isinstance(fit.model, Shifted):
        raise ModelError(
            invalid("fit", repr(fit), "Its model is augmented already", fix="Augment the fit without covariates")
        )
    if NETWORK in fit.model.declared:
        raise ModelError(
            invalid("fit", f"a model that declares `{NETWORK}`", "That name is needed here", fix="Rename it")
        )
    found = fit.joint.space.omega_matrices(fit.free) | omegas
    declared: dict[str, Any] = {}
    for name, old in fit.model.declared.items():
        if name in fit.model.parameters:
            declared[name] = replace(old, value=fit.estimates[name])
        elif name in fit.model.groups:
            declared[name] = old.with_omega(found[name])
        else:
            declared[name] = old.with_weights(fit.weights[name], old.fixed)
    new = copy.copy(fit.model)
    new.__class__ = _class(type(fit.model))
    new.declared = declared if network is None else {**declared, NETWORK: network}
    new.shift = shift  # type: ignore[attr-defined]
    new._check()
    return new


def around_weights(model: Model) -> Model:
    """The model whose prior of the covariates' network holds around its weights."""
    network = model.networks[NETWORK]
    new = copy.copy(model)
    new.declared = {**model.declared, NETWORK: network.around(network.initial())}
    return new


def frozen(model: Model, free: Sequence[str], omegas: Sequence[str]) -> Model:
    """The model with everything fixed but some declarations and the Omegas of some groups.

    Args:
        model: An augmented model.
        free: Names of parameters, networks and groups that stay as they are declared.
        omegas: Groups whose Omega is estimated, whatever was declared.
    """
    declared: dict[str, Any] = {}
    for name, old in model.declared.items():
        if name in omegas:
            declared[name] = _free_group(old)
        elif name in free:
            declared[name] = old
        elif name in model.groups:
            declared[name] = old.as_fixed()
        elif name in model.networks:
            declared[name] = old.with_weights(old.initial(), fixed=True)
        else:
            declared[name] = replace(old, fixed=True)
    new = copy.copy(model)
    new.declared = declared
    return new


def _free_group(group: Any) -> Any:
    """The group with its Omega estimated, but for variances of zero."""
    zero = np.diag(group.omega) == 0
    if zero.any() and (group.block or group.vector):
        got, expected = "an Omega with a variance of zero", "A vector or a block of effects is estimated as a whole"
        raise ModelError(invalid("what", got, expected, fix="Declare the effect of no variance apart, or leave it out"))
    kept = [name for name, none in zip(group.names, zero, strict=False) if none]
    names = group.names or (group.size,)
    return type(group)(*names, omega=group.omega, block=group.block, fixed=kept or False, by=group.by)
