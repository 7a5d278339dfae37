"""Random effects: eta ~ N(0, Omega), between subjects or between occasions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.errors import ModelError


class RandomEffects:
    """A group of random effects with a common covariance matrix Omega.

    Args:
        *names: Names of the effects (``eta.ka``), or a single count for an unnamed vector, which the model reads
            under the group's own name (``eta.latent``, with its components on the last axis).
        omega: Variances: a number for all, one per effect, or the full matrix.
        block: Estimate the full matrix instead of the variances only.
        fixed: True to keep Omega, or the names of the effects whose variance is kept (diagonal Omega only).
        by: "subject" (default), or "occasion" for one draw per occasion (IOV; the data need an OCC column).

    Raises:
        ModelError: Omega of the wrong shape, not symmetric, not positive definite (a variance of zero is allowed
            where it is fixed).

    Example:
        >>> RandomEffects("ka", "cl", omega=[0.4, 0.07]).size
        2
    """

    def __init__(
        self,
        *names: str | int,
        omega: Any = 0.1,
        block: bool = False,
        fixed: bool | Sequence[str] = False,
        by: str = "subject",
    ):
        self.vector = len(names) == 1 and isinstance(names[0], int) and not isinstance(names[0], bool)
        if self.vector:
            self.size = int(names[0])
            self.names: tuple[str, ...] = ()
        else:
            self.names = tuple(str(n) for n in names)
            self.size = len(names)
            if not all(isinstance(n, str) and n.isidentifier() for n in names):
                raise ModelError(f"Invalid random effects: got {names!r}, expected names, or one count.")
        if self.size < 1 or len(set(self.names)) != len(self.names):
            raise ModelError(f"Invalid random effects: got {names!r}, expected at least one, each name once.")
        if by not in ("subject", "occasion"):
            raise ModelError(f'Invalid `by`: got {by!r}, expected "subject" or "occasion".')
        self.by, self.block = by, bool(block)
        self.omega = self._matrix(omega)
        self.fixed = self._fixed(fixed)
        self._check()

    def _matrix(self, omega: Any) -> np.ndarray:
        try:
            value = np.asarray(omega, dtype=float)
        except (TypeError, ValueError):
            raise ModelError(f"Invalid `omega`: got {omega!r}, expected a number, variances or a matrix.") from None
        n = self.size
        if value.ndim == 0:
            return np.eye(n) * value
        if value.shape == (n,):
            return np.diag(value)
        if value.shape == (n, n):
            return value.copy()
        declared = f"the model declares eta {', '.join(self.names)}" if self.names else f"{n} effects are declared"
        raise ModelError(f"Invalid `omega`: got shape {value.shape}, expected ({n}, {n}): {declared}.")

    def _fixed(self, fixed: bool | Sequence[str]) -> np.ndarray:
        if isinstance(fixed, bool | np.bool_):
            return np.full(self.size, bool(fixed))
        if isinstance(fixed, str):
            raise ModelError(f"Invalid `fixed`: got {fixed!r}, expected True, False or a list of names.")
        if self.block:
            raise ModelError("Invalid `fixed`: got names, expected True or False: a block Omega is fixed as a whole.")
        unknown = [n for n in fixed if n not in self.names]
        if unknown:
            raise ModelError(f"Invalid `fixed`: got {unknown[0]!r}, expected some of {', '.join(self.names)}.")
        return np.array([n in fixed for n in self.names])

    def _check(self) -> None:
        om = self.omega
        if not np.isfinite(om).all() or not np.allclose(om, om.T, rtol=1e-10, atol=0):
            raise ModelError(f"Invalid `omega`: got {om.tolist()}, expected a finite symmetric matrix.")
        if not self.block and np.any(om != np.diag(np.diag(om))):
            raise ModelError("Invalid `omega`: got covariances in a diagonal Omega, expected block=True for them.")
        bad = np.diag(om) < 0 if self.fixed.all() else (np.diag(om) <= 0) & ~self.fixed
        if bad.any() or (np.diag(om) < 0).any():
            raise ModelError(
                f"Invalid `omega`: got variances {np.diag(om).tolist()}, expected positive ones "
                "(zero only where it is fixed)."
            )
        if self.block:
            free = not self.fixed.all()
            lowest = np.linalg.eigvalsh(om).min()
            if lowest < -1e-12 * np.abs(om).max() or (free and lowest <= 0):
                raise ModelError(
                    f"Invalid `omega`: got smallest eigenvalue {lowest:.3g}, expected a positive definite matrix."
                )

    def as_fixed(self) -> RandomEffects:
        """The same group with its Omega kept."""
        names = self.names or (self.size,)
        return RandomEffects(*names, omega=self.omega, block=self.block, fixed=True, by=self.by)

    def with_omega(self, omega: Any) -> RandomEffects:
        """The same group with another Omega; whether fixed parts stay is not looked at."""
        fixed = bool(self.fixed.all()) or tuple(n for n, f in zip(self.names, self.fixed, strict=False) if f)
        return RandomEffects(
            *(self.names or (self.size,)), omega=omega, block=self.block, fixed=fixed or False, by=self.by
        )

    def labels(self, attribute: str) -> tuple[str, ...]:
        """Names of the effects as shown in tables: the given ones, or ``latent1``, ``latent2``, ..."""
        return self.names if self.names else tuple(f"{attribute}{i + 1}" for i in range(self.size))

    @property
    def free_size(self) -> int:
        """Number of free numbers in Omega."""
        if self.block:
            return 0 if self.fixed.all() else self.size * (self.size + 1) // 2
        return int((~self.fixed).sum())

    def to_free(self, omega: np.ndarray) -> np.ndarray:
        """Omega -> unconstrained numbers: log sd's, or the Cholesky factor's lower triangle with log diagonal."""
        if self.free_size == 0:
            return np.zeros(0)
        if not self.block:
            return 0.5 * np.log(np.diag(omega)[~self.fixed])
        chol = np.linalg.cholesky(omega)
        return np.array(
            [math.log(chol[i, j]) if i == j else chol[i, j] for i in range(self.size) for j in range(i + 1)]
        )

    def cholesky(self, free: Tensor) -> Tensor:
        """Unconstrained numbers [..., free_size] -> lower Cholesky factor [..., size, size], differentiable."""
        n, lead = self.size, free.shape[:-1]
        if self.free_size == 0:
            return torch.tensor(_semidefinite_cholesky(self.omega), dtype=free.dtype, device=free.device).expand(
                *lead, n, n
            )
        if not self.block:
            sd = torch.tensor(np.sqrt(np.diag(self.omega)), dtype=free.dtype, device=free.device).expand(*lead, n)
            index = torch.tensor(np.flatnonzero(~self.fixed), device=free.device)
            return torch.diag_embed(sd.index_copy(-1, index, torch.exp(free)))
        i, j = np.tril_indices(n)
        diagonal = torch.tensor(i == j, device=free.device)
        entries = torch.where(diagonal, torch.exp(torch.where(diagonal, free, torch.zeros_like(free))), free)
        flat = torch.zeros(*lead, n * n, dtype=free.dtype, device=free.device)
        return flat.index_copy(-1, torch.tensor(i * n + j, device=free.device), entries).unflatten(-1, (n, n))

    def __repr__(self) -> str:
        inside = ", ".join(repr(n) for n in self.names) if self.names else str(self.size)
        return f"RandomEffects({inside}, block={self.block}, by={self.by!r})"


def _semidefinite_cholesky(omega: np.ndarray) -> np.ndarray:
    """Lower factor of a fixed Omega, which may be singular (an effect switched off by a zero variance)."""
    if np.all(omega == np.diag(np.diag(omega))):
        return np.sqrt(omega)
    values, vectors = np.linalg.eigh(omega)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    _, r = np.linalg.qr(root.T)
    return (r * np.where(np.diag(r) < 0, -1.0, 1.0)[:, None]).T
