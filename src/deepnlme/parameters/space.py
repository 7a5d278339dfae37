"""The parameter space of a model: everything estimated as one unconstrained vector, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.errors import ModelError
from deepnlme.parameters.declarations import Parameter
from deepnlme.parameters.random_effects import RandomEffects


@dataclass(frozen=True)
class Values:
    """Population parameters on the natural scale, for a batch of parameter vectors.

    Attributes:
        theta: name -> [...] fixed effects.
        cholesky: group -> [..., size, size] lower Cholesky factor of its Omega.
    """

    theta: dict[str, Tensor]
    cholesky: dict[str, Tensor]


def _number(name: str, value: Any) -> float:
    if isinstance(value, str | bool) or np.ndim(value) != 0:
        raise ModelError(f"Invalid value of `{name}`: got {value!r}, expected a number.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ModelError(f"Invalid value of `{name}`: got {value!r}, expected a number.") from None


class ParameterSpace:
    """Maps between the free vector u (unconstrained, what is optimised) and the natural parameters.

    The free vector holds, in the order of declaration, the free fixed effects and then the free numbers of each
    Omega. The *natural vector* holds the same information as a pharmacometrician reads it: fixed effects, then the
    variances and covariances (``omega[cl,ka]``); it is as long as the free one.

    Args:
        parameters: Fixed effects by name.
        groups: Random-effect groups by attribute name.
    """

    def __init__(self, parameters: Mapping[str, Parameter], groups: Mapping[str, RandomEffects]):
        self.parameters = dict(parameters)
        self.groups = dict(groups)
        self.free_theta = tuple(n for n, p in self.parameters.items() if not p.fixed)
        self._slices: dict[str, slice] = {}
        start = len(self.free_theta)
        for name, group in self.groups.items():
            self._slices[name] = slice(start, start + group.free_size)
            start += group.free_size
        self.size = start
        self.names = (*self.free_theta, *(n for g in self.groups for n in self._omega_names(g, free_only=True)))

    def _omega_names(self, attribute: str, free_only: bool) -> list[str]:
        group = self.groups[attribute]
        label = group.labels(attribute)
        if group.block:
            if free_only and group.free_size == 0:
                return []
            return [
                f"omega[{label[i]}]" if i == j else f"omega[{label[i]},{label[j]}]"
                for i in range(group.size)
                for j in range(i + 1)
            ]
        return [f"omega[{label[i]}]" for i in range(group.size) if not (free_only and group.fixed[i])]

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names of every natural parameter, the fixed ones included."""
        return (*self.parameters, *(n for g in self.groups for n in self._omega_names(g, free_only=False)))

    def initial(self, at: Mapping[str, Any] | None = None) -> np.ndarray:
        """The free vector [size] at the declared initial values, or at the values given.

        Args:
            at: Natural values by name: fixed effects (``ka``), single variances (``omega[ka]``), or a whole Omega
                under its group's name (``eta``).

        Raises:
            ModelError: Unknown name, a fixed parameter, a value outside its bounds, an Omega that is not positive
                definite.
        """
        return self._free_vector(self._natural_values(at or {}))

    def _natural_values(self, at: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        theta = {n: p.value for n, p in self.parameters.items()}
        omega = {n: g.omega.copy() for n, g in self.groups.items()}
        for name, value in at.items():
            if name in theta:
                theta[name] = self._checked_theta(name, value)
            elif name in omega:
                omega[name] = self.groups[name].with_omega(value).omega
            else:
                self._set_omega_element(omega, name, _number(name, value))
        for name, group in self.groups.items():
            keep = (
                np.outer(group.fixed, group.fixed) if not group.block else np.full((group.size,) * 2, group.fixed.all())
            )
            if not np.allclose(omega[name][keep], group.omega[keep], rtol=1e-10, atol=0):
                raise ModelError(f"Invalid Omega of `{name}`: it is fixed. Declare it without fixed=True to change it.")
            omega[name][keep] = group.omega[keep]
            if not np.isfinite(omega[name]).all():
                raise ModelError(f"Invalid Omega of `{name}`: got {omega[name].tolist()}, expected finite numbers.")
            if not group.block and np.any(np.diag(omega[name])[~group.fixed] <= 0):
                raise ModelError(f"Invalid Omega of `{name}`: got {omega[name].tolist()}, expected positive variances.")
            if group.block and group.free_size and np.linalg.eigvalsh(omega[name]).min() <= 0:
                raise ModelError(
                    f"Invalid Omega of `{name}`: got {omega[name].tolist()}, not positive definite. "
                    "Make the covariances smaller."
                )
        return theta, omega

    def _checked_theta(self, name: str, value: Any) -> float:
        declared = self.parameters[name]
        number = _number(name, value)
        if declared.fixed and number != declared.value:
            raise ModelError(
                f"Invalid value of `{name}`: got {number:g}, but it is fixed at {declared.value:g}. "
                "Declare it without fixed=True to change it."
            )
        if not declared.contains(number):
            raise ModelError(f"Invalid value of `{name}`: got {number:g}, expected {declared.range}.")
        return number

    def _set_omega_element(self, omega: dict[str, np.ndarray], name: str, value: float) -> None:
        for attribute, group in self.groups.items():
            label = group.labels(attribute)
            for i in range(group.size):
                for j in range(i + 1):
                    key = f"omega[{label[i]}]" if i == j else f"omega[{label[i]},{label[j]}]"
                    if key == name:
                        if i != j and not group.block:
                            raise ModelError(f"Invalid name `{name}`: `{attribute}` has a diagonal Omega.")
                        omega[attribute][i, j] = omega[attribute][j, i] = value
                        return
        raise ModelError(
            f"Invalid parameter name `{name}`: there is no such parameter, expected one of "
            f"{', '.join((*self.all_names, *self.groups))}."
        )

    def _free_vector(self, natural: tuple[dict[str, float], dict[str, np.ndarray]]) -> np.ndarray:
        theta, omega = natural
        parts = [np.array([self.parameters[n].to_free(theta[n]) for n in self.free_theta])]
        parts += [group.to_free(omega[name]) for name, group in self.groups.items()]
        return np.concatenate(parts) if parts else np.zeros(0)

    def values(self, free: Tensor) -> Values:
        """Natural values of a batch of free vectors [..., size], differentiable."""
        theta: dict[str, Tensor] = {}
        position = {n: i for i, n in enumerate(self.free_theta)}
        for name, declared in self.parameters.items():
            if name in position:
                theta[name] = declared.to_natural(free[..., position[name]])
            else:
                theta[name] = torch.full(free.shape[:-1], declared.value, dtype=free.dtype, device=free.device)
        chol = {n: g.cholesky(free[..., self._slices[n]]) for n, g in self.groups.items()}
        return Values(theta, chol)

    def natural(self, free: Tensor) -> Tensor:
        """The natural vector [..., size] of a free one, in the order of `names`, differentiable."""
        values = self.values(free)
        parts = [values.theta[n].unsqueeze(-1) for n in self.free_theta]
        for name, group in self.groups.items():
            if group.free_size == 0:
                continue
            omega = values.cholesky[name] @ values.cholesky[name].mT
            if group.block:
                i, j = np.tril_indices(group.size)
                parts.append(omega[..., i, j])
            else:
                parts.append(omega.diagonal(dim1=-2, dim2=-1)[..., np.flatnonzero(~group.fixed)])
        return torch.cat(parts, -1) if parts else free

    def natural_jacobian(self, free: np.ndarray) -> np.ndarray:
        """d natural / d free, [size, size], at one free vector."""
        if self.size == 0:
            return np.zeros((0, 0))
        u = torch.tensor(free, dtype=torch.float64)
        return torch.autograd.functional.jacobian(self.natural, u).numpy()  # type: ignore[union-attr]

    def as_dict(self, free: np.ndarray) -> dict[str, float]:
        """Every natural parameter by name, the fixed ones included."""
        values = self.values(torch.tensor(free, dtype=torch.float64))
        out = {n: float(v) for n, v in values.theta.items()}
        for name, group in self.groups.items():
            omega = (values.cholesky[name] @ values.cholesky[name].mT).numpy()
            label = group.labels(name)
            for i in range(group.size):
                for j in range(i + 1) if group.block else (i,):
                    out[f"omega[{label[i]}]" if i == j else f"omega[{label[i]},{label[j]}]"] = float(omega[i, j])
        return out

    def omega_matrices(self, free: np.ndarray) -> dict[str, np.ndarray]:
        """Omega of each group as a matrix."""
        values = self.values(torch.tensor(free, dtype=torch.float64))
        return {n: (c @ c.mT).numpy() for n, c in values.cholesky.items()}

    @property
    def has_priors(self) -> bool:
        """Whether any estimated parameter has a prior."""
        return any(self.parameters[n].prior is not None for n in self.free_theta)

    def log_prior(self, free: Tensor) -> Tensor:
        """Sum of the log prior densities of the natural values, [...], differentiable."""
        total = torch.zeros(free.shape[:-1], dtype=free.dtype, device=free.device)
        for i, name in enumerate(self.free_theta):
            declared = self.parameters[name]
            if declared.prior is not None:
                total = total + declared.log_prior(declared.to_natural(free[..., i]))
        return total
