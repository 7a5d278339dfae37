"""The parameter space of a model: everything estimated as one unconstrained vector, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

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
        weights: network -> [..., W], or [W] where all vectors share them.
    """

    theta: dict[str, Tensor]
    cholesky: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)


class Weighted(Protocol):
    """What the space needs to know of a network."""

    fixed: bool

    @property
    def size(self) -> int:
        """Number of weights."""
        ...

    @property
    def shared(self) -> bool:
        """Whether all rows of a batch have the same weights."""
        ...

    @property
    def prior(self) -> Any:
        """The prior of the weights, or None."""
        ...

    def initial(self, generator: np.random.Generator | None = None, number: int = 0) -> np.ndarray:
        """Initial weights."""
        ...

    def log_prior(self, weights: Tensor) -> Tensor:
        """Log prior density of weights [..., W]."""
        ...


def _number(name: str, value: Any) -> float:
    if isinstance(value, str | bool) or np.ndim(value) != 0:
        raise ModelError(f"Invalid value of `{name}`: got {value!r}, expected a number.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ModelError(f"Invalid value of `{name}`: got {value!r}, expected a number.") from None


class ParameterSpace:
    """Maps between the free vector u (unconstrained, what is optimised) and the natural parameters.

    The free vector holds, in the order of declaration, the free fixed effects, then the free numbers of each Omega,
    then the weights of networks, those that all rows share last. The *natural vector* holds the first two as a
    pharmacometrician reads them: fixed effects, then the variances and covariances (``omega[cl,ka]``); without
    networks it is as long as the free one.

    Args:
        parameters: Fixed effects by name.
        groups: Random-effect groups by attribute name.
        networks: Networks by name.

    Attributes:
        names: Of the natural vector.
        size: Length of the free vector.
        structural: Its first numbers, those without the weights of networks; as many as there are names.
        row_size: Its first numbers without the weights that all rows share.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        groups: Mapping[str, RandomEffects],
        networks: Mapping[str, Weighted] | None = None,
    ):
        self.parameters = dict(parameters)
        self.groups = dict(groups)
        self.networks: dict[str, Any] = dict(networks or {})
        self.free_theta = tuple(n for n, p in self.parameters.items() if not p.fixed)
        self._slices: dict[str, slice] = {}
        start = len(self.free_theta)
        for name, group in self.groups.items():
            self._slices[name] = slice(start, start + group.free_size)
            start += group.free_size
        self.structural = start
        free = [(n, w) for n, w in self.networks.items() if not w.fixed]
        self.weights: dict[str, slice] = {}
        for name, network in [*((n, w) for n, w in free if not w.shared), *((n, w) for n, w in free if w.shared)]:
            self.weights[name] = slice(start, start + network.size)
            start += network.size
        self.size = start
        self.row_size = start - sum(w.size for _, w in free if w.shared)
        self._kept = {n: torch.tensor(w.initial()) for n, w in self.networks.items() if w.fixed}
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
            at: Natural values by name: fixed effects (``ka``), single variances (``omega[ka]``), a whole Omega
                under its group's name (``eta``), or the weights of a network under its name.

        Raises:
            ModelError: Unknown name, a fixed parameter, a value outside its bounds, an Omega that is not positive
                definite.
        """
        at = dict(at or {})
        weights = {n: self._checked_weights(n, at.pop(n)) for n in list(at) if n in self.networks}
        weights |= {n: self.networks[n].initial(number=i) for i, n in enumerate(self.weights) if n not in weights}
        free = self._free_vector(self._natural_values(at))
        return np.concatenate([free, *(weights[n] for n in self.weights)])

    def with_weights(self, free: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The free vector with newly drawn weights of every network."""
        drawn = [self.networks[n].initial(generator) for n in self.weights]
        return np.concatenate([free[: self.structural], *drawn])

    def _checked_weights(self, name: str, value: Any) -> np.ndarray:
        size = self.networks[name].size
        try:
            found = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            found = np.zeros(0)
        if found.shape != (size,) or not np.isfinite(found).all():
            raise ModelError(f"Invalid weights of `{name}`: got {np.shape(value)}, expected {size} finite numbers.")
        if name not in self.weights and not np.array_equal(found, self._kept[name].numpy()):
            raise ModelError(
                f"Invalid weights of `{name}`: they are fixed. Declare it without fixed=True to change them."
            )
        return found

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

    def values(self, free: Tensor, shared: Tensor | None = None) -> Values:
        """Natural values of a batch of free vectors, differentiable.

        Args:
            free: [..., size], all with the same shared weights; or [..., row_size] if `shared` is given.
            shared: [size - row_size] the weights that all vectors share.
        """
        theta: dict[str, Tensor] = {}
        position = {n: i for i, n in enumerate(self.free_theta)}
        for name, declared in self.parameters.items():
            if name in position:
                theta[name] = declared.to_natural(free[..., position[name]])
            else:
                theta[name] = torch.full(free.shape[:-1], declared.value, dtype=free.dtype, device=free.device)
        return Values(theta, self._cholesky(free), self._weights(free, shared))

    def _cholesky(self, free: Tensor) -> dict[str, Tensor]:
        return {n: g.cholesky(free[..., self._slices[n]]) for n, g in self.groups.items()}

    def _weights(self, free: Tensor, shared: Tensor | None) -> dict[str, Tensor]:
        out = {n: w.to(free.device) for n, w in self._kept.items()}
        for name, sl in self.weights.items():
            if not self.networks[name].shared:
                out[name] = free[..., sl]
            elif shared is None:
                out[name] = free[(0,) * (free.dim() - 1)][sl]
            else:
                out[name] = shared[sl.start - self.row_size : sl.stop - self.row_size]
        return out

    def natural(self, free: Tensor) -> Tensor:
        """The natural vector [..., structural] of a free one, in the order of `names`, differentiable."""
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
        return torch.cat(parts, -1) if parts else free[..., :0]

    def natural_jacobian(self, free: np.ndarray) -> np.ndarray:
        """d natural / d free of everything but weights, [structural, structural], at one free vector."""
        if self.structural == 0:
            return np.zeros((0, 0))
        u = torch.tensor(free, dtype=torch.float64)
        found = torch.autograd.functional.jacobian(self.natural, u).numpy()  # type: ignore[union-attr]
        return found[:, : self.structural]

    def as_dict(self, free: np.ndarray) -> dict[str, float]:
        """Every natural parameter by name, the fixed ones included; weights are not among them."""
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
        declared = [self.parameters[n] for n in self.free_theta] + [self.networks[n] for n in self.weights]
        return any(d.prior is not None for d in declared)

    def log_prior(self, free: Tensor) -> Tensor:
        """Sum of the log prior densities of the natural values, [...], differentiable."""
        total = 0.0 * free.sum(-1)  # differentiable, even if every prior is flat
        for i, name in enumerate(self.free_theta):
            declared = self.parameters[name]
            if declared.prior is not None:
                total = total + declared.log_prior(declared.to_natural(free[..., i]))
        for name, sl in self.weights.items():
            if self.networks[name].prior is not None:
                total = total + self.networks[name].log_prior(free[..., sl])
        return total
