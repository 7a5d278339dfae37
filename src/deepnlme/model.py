"""The model: a declaration of parameters, random effects, dynamics and observations. It never holds fitted values."""

from __future__ import annotations

import copy
import dataclasses
import numbers
from typing import Any

from deepnlme.dynamics import CompartmentModel, LinearSystem, ParallelInTime, Solver
from deepnlme.errors import ModelError
from deepnlme.nn import Network, NeuralNetwork
from deepnlme.parameters import Parameter, ParameterSpace, RandomEffects

KINDS = (Parameter, RandomEffects, NeuralNetwork)
"""What a model may declare."""


class Model:
    """Base class of every population model.

    A subclass declares fixed effects (`Real`, `Positive`, `Bounded`), networks (`MLP`, `Network`), groups of
    `RandomEffects` and `dynamics` as class attributes, and says in methods how they make an individual's parameters
    and observations. Inside a method every name is a batch of scalars (tensors that broadcast against each other); use
    torch functions.

    Attributes:
        dynamics: A closed form (`OneCompartment`, ...), a `LinearSystem`, a method
            ``dynamics(self, theta, p, t, x)`` returning the derivative of every state by name, or None.
        solver: How differential equations are solved: `ParallelInTime` (default) or `TorchDiffEq`.

    Args:
        **changes: Declarations to replace in this instance, e.g. ``Theophylline(ka=dn.Positive(2.0, fixed=True))``;
            a number replaces the initial value.

    Example:
        >>> from deepnlme.parameters import Positive, RandomEffects
        >>> class Constant(Model):
        ...     base = Positive(2.0, unit="mg/L")
        ...     sd = Positive(0.3)
        ...     eta = RandomEffects("base", omega=0.1)
        >>> Constant(base=3.0).parameters["base"].value
        3.0
    """

    dynamics: Any = None
    solver: Solver = ParallelInTime()

    def __init__(self, **changes: Any):
        declared: dict[str, Any] = {}
        for cls in reversed(type(self).__mro__):
            for name, value in vars(cls).items():
                if isinstance(value, KINDS):
                    declared[name] = value
                elif name in declared:
                    del declared[name]
        for name, value in changes.items():
            declared[name] = self._changed(name, value, declared)
        self.declared = declared
        self._check()

    @staticmethod
    def _changed(name: str, value: Any, declared: dict[str, Any]) -> Any:
        if name not in declared:
            raise ModelError(
                f"Invalid declaration `{name}`: the model declares {', '.join(declared)}. Correct the spelling."
            )
        old = declared[name]
        if isinstance(old, Parameter) and isinstance(value, numbers.Real):
            return dataclasses.replace(old, value=float(value) if not isinstance(value, bool) else value)
        kind = next(k for k in KINDS if isinstance(old, k))
        if not isinstance(value, kind):
            raise ModelError(f"Invalid declaration `{name}`: got {value!r}, expected a {type(old).__name__}.")
        return value

    def _check(self) -> None:
        seen: dict[str, str] = {}
        for attribute, group in self.groups.items():
            for name in group.names or (attribute,):
                if name in seen:
                    raise ModelError(
                        f"Invalid random effect `{name}`: it is declared in `{seen[name]}` and in `{attribute}`. "
                        f"Give one another name, for example `iov_{name}`."
                    )
                seen[name] = attribute
        if not self.declared:
            raise ModelError(f"Invalid model {type(self).__name__}: it declares no parameter.")
        self._check_networks()

    def _check_networks(self) -> None:
        """Refuse weights that stand in two places: they would be fitted as if they were not the same."""
        owner: dict[int, str] = {}
        for name, network in self.networks.items():
            parts: list[object] = [network]
            if isinstance(network, Network):
                parts += network.module.parameters()
            for part in parts:
                if id(part) in owner:
                    raise ModelError(
                        f"Invalid network `{name}`: it has the same weights as `{owner[id(part)]}`. Use one network "
                        "in both places of the model, or declare each its own (copy.deepcopy of a module)."
                    )
                owner[id(part)] = name

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Fixed effects by name, in order of declaration."""
        return {n: d for n, d in self.declared.items() if isinstance(d, Parameter)}

    @property
    def groups(self) -> dict[str, RandomEffects]:
        """Random-effect groups by attribute name, in order of declaration."""
        return {n: d for n, d in self.declared.items() if isinstance(d, RandomEffects)}

    @property
    def networks(self) -> dict[str, NeuralNetwork]:
        """Networks by name, in order of declaration."""
        return {n: d for n, d in self.declared.items() if isinstance(d, NeuralNetwork)}

    @property
    def space(self) -> ParameterSpace:
        """The parameter space spanned by the declarations."""
        return ParameterSpace(self.parameters, self.groups, self.networks)

    def replace(self, **changes: Any) -> Model:
        """A copy with some declarations replaced (see the constructor)."""
        new = copy.copy(self)
        new.declared = {**self.declared, **{n: self._changed(n, v, self.declared) for n, v in changes.items()}}
        new._check()
        return new

    @property
    def is_ode(self) -> bool:
        """Whether the dynamics are differential equations written as a method."""
        return callable(self.dynamics) and not self.is_linear

    @property
    def is_linear(self) -> bool:
        """Whether the dynamics are a closed form or a linear system."""
        return isinstance(self.dynamics, CompartmentModel | LinearSystem)

    def __str__(self) -> str:
        return type(self).__name__

    def check_people(self, population: Any) -> None:
        """Refuse data that the model cannot take, by a DataError; by default it takes all."""
        del population

    def individual(self, theta: Any, eta: Any, cov: Any) -> dict[str, Any]:
        """Individual parameters by name, from fixed effects, random effects and covariates."""
        del eta, cov
        return {n: v for n, v in theta.items() if n in self.parameters}

    def initial(self, theta: Any, p: Any) -> dict[str, Any]:
        """Initial value of the states that do not start at zero."""
        del theta, p
        return {}

    def dosing(self, theta: Any, p: Any) -> dict[str, Any]:
        """`Dosing` (lag, bioavailability, rate, duration) by compartment, where it is not plain."""
        del theta, p
        return {}

    def observe(self, theta: Any, p: Any, x: Any) -> dict[str, Any]:
        """Distribution of each observed quantity by name; `x` has the states and ``x.time``."""
        raise ModelError(
            f"Invalid model {type(self).__name__}: it has no `observe`. Define observe(self, theta, p, x) that returns "
            "for example dict(dv=dn.Normal(x.central / p.v, theta.sd))."
        )
