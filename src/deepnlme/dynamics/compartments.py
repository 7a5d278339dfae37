"""Closed forms: one, two and three compartments, IV or oral."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deepnlme.errors import ModelError
from deepnlme.numerics import exponential_difference, exponential_difference_integral, exponential_integral

Entries = dict[tuple[int, int], Tensor]
"""Non-zero entries (to, from) of a matrix that acts on the compartments, each a batch of scalars."""

_MICRO = {0: ("k",), 1: ("k", "k12", "k21"), 2: ("k", "k12", "k21", "k13", "k31")}
_CLEARANCE = {0: ("cl", "v"), 1: ("cl", "v1", "q", "v2"), 2: ("cl", "v1", "q2", "v2", "q3", "v3")}


@dataclass(frozen=True)
class CompartmentModel:
    """A mammillary compartment model, solved in closed form; amounts in each compartment.

    With disposition rates lambda_i (the roots of the characteristic polynomial) the amounts move by
    E(tau) = sum_i C_i exp(-lambda_i tau); absorption adds ka (exp(-lambda_i tau) - exp(-ka tau))/(ka - lambda_i),
    which is computed without cancellation also where ka meets a lambda_i.

    Compartments, in the order of NONMEM's numbers: depot (first-order absorption only), central, peripheral
    (peripheral1, peripheral2 with three compartments). Doses without CMT go to the first.

    Args:
        absorption: None (doses into central), "first-order" (needs ka) or "zero-order" (needs `duration` [time]:
            doses without RATE enter central at a constant rate over that time).
        parameters: "clearance": one compartment cl, v; two cl, v1, q, v2; three cl, v1, q2, v2, q3, v3
            [volume/time, volume]. "rates": k; k, k12, k21; k, k12, k21, k13, k31 [1/time].

    Raises:
        ModelError: Unknown absorption or parameters.
    """

    absorption: str | None = None
    parameters: str = "clearance"
    peripherals = 0

    def __post_init__(self) -> None:
        if self.absorption not in (None, "first-order", "zero-order"):
            raise ModelError(
                f'Invalid `absorption`: got {self.absorption!r}, expected None, "first-order" or "zero-order".'
            )
        if self.parameters not in ("clearance", "rates"):
            raise ModelError(f'Invalid `parameters`: got {self.parameters!r}, expected "clearance" or "rates".')

    @property
    def oral(self) -> bool:
        """Whether there is a depot."""
        return self.absorption == "first-order"

    @cached_property
    def compartments(self) -> tuple[str, ...]:
        """Names of the compartments, in order."""
        numbers = ("",) if self.peripherals == 1 else tuple(str(i + 1) for i in range(self.peripherals))
        outer = tuple(f"peripheral{i}" for i in numbers)
        return (*(("depot",) if self.oral else ()), "central", *outer)

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """Names that `individual` must return."""
        names = _CLEARANCE[self.peripherals] if self.parameters == "clearance" else _MICRO[self.peripherals]
        extra = {"first-order": ("ka",), "zero-order": ("duration",), None: ()}[self.absorption]
        return (*extra, *names)

    def micro(self, p: Mapping[str, Tensor]) -> list[Tensor]:
        """Rate constants k, k12, k21, ... [1/time]."""
        if self.parameters == "rates":
            return [p[n] for n in _MICRO[self.peripherals]]
        if self.peripherals == 0:
            return [p["cl"] / p["v"]]
        if self.peripherals == 1:
            return [p["cl"] / p["v1"], p["q"] / p["v1"], p["q"] / p["v2"]]
        return [p["cl"] / p["v1"], p["q2"] / p["v1"], p["q2"] / p["v2"], p["q3"] / p["v1"], p["q3"] / p["v3"]]

    def modes(self, p: Mapping[str, Tensor]) -> _Modes:
        """Disposition rates and the coefficients of each entry."""
        rates = self.micro(p)
        return (_one_mode, _two_modes, _three_modes)[self.peripherals](*rates)

    def transfer(self, p: Mapping[str, Tensor], tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """E(tau): amounts after tau, per amount at the start; only the columns asked for."""
        modes, entries = self.modes(p), {}
        decay = [torch.exp(-rate * tau) for rate in modes.rates]
        n, first = 1 + self.peripherals, int(self.oral)
        for column in columns:
            if self.oral and column == 0:
                ka = p["ka"]
                entries[0, 0] = torch.exp(-ka * tau)
                chain = [ka * exponential_difference(rate, ka, tau) for rate in modes.rates]
                for to in range(n):
                    entries[to + 1, 0] = _combine(modes.coefficients[to, 0], chain)
            else:
                for to in range(n):
                    entries[to + first, column] = _combine(modes.coefficients[to, column - first], decay)
        return entries

    def forced(self, p: Mapping[str, Tensor], tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """Q(tau) = int_0^tau E: amounts after an infusion of unit rate for a time tau."""
        modes, entries = self.modes(p), {}
        n, first = 1 + self.peripherals, int(self.oral)
        for column in columns:
            if self.oral and column == 0:
                ka = p["ka"]
                entries[0, 0] = exponential_integral(ka, tau)
                chain = [ka * exponential_difference_integral(rate, ka, tau) for rate in modes.rates]
                for to in range(n):
                    entries[to + 1, 0] = _combine(modes.coefficients[to, 0], chain)
            else:
                integrals = [exponential_integral(rate, tau) for rate in modes.rates]
                for to in range(n):
                    entries[to + first, column] = _combine(modes.coefficients[to, column - first], integrals)
        return entries

    def equilibrium(self, p: Mapping[str, Tensor], columns: tuple[int, ...]) -> Entries:
        """Q(infinity): amounts under a constant infusion of unit rate."""
        modes, entries = self.modes(p), {}
        n, first = 1 + self.peripherals, int(self.oral)
        inverse = [1.0 / rate for rate in modes.rates]
        for column in columns:
            source = 0 if self.oral and column == 0 else column - first
            for to in range(n):
                entries[to + first, column] = _combine(modes.coefficients[to, source], inverse)
            if self.oral and column == 0:
                entries[0, 0] = 1.0 / p["ka"]
        return entries


@dataclass(frozen=True)
class OneCompartment(CompartmentModel):  # noqa: D101
    __doc__ = (CompartmentModel.__doc__ or "").replace("A mammillary compartment model", "One compartment", 1)
    peripherals = 0


@dataclass(frozen=True)
class TwoCompartment(CompartmentModel):  # noqa: D101
    __doc__ = (CompartmentModel.__doc__ or "").replace("A mammillary compartment model", "Two compartments", 1)
    peripherals = 1


@dataclass(frozen=True)
class ThreeCompartment(CompartmentModel):  # noqa: D101
    __doc__ = (CompartmentModel.__doc__ or "").replace("A mammillary compartment model", "Three compartments", 1)
    peripherals = 2


@dataclass(frozen=True)
class _Modes:
    """Rates lambda_i and, per entry (to, from) of the disposition block, the coefficients of the modes."""

    rates: list[Tensor]
    coefficients: dict[tuple[int, int], list[Tensor | None]]


def _combine(coefficients: list[Tensor | None], terms: list[Tensor]) -> Tensor:
    total = None
    for c, term in zip(coefficients, terms, strict=True):
        product = term if c is None else c * term
        total = product if total is None else total + product
    assert total is not None
    return total


def _one_mode(k: Tensor) -> _Modes:
    return _Modes([k], {(0, 0): [None]})


def _two_modes(k: Tensor, k12: Tensor, k21: Tensor) -> _Modes:
    total = k + k12
    # (total + k21)^2 - 4 k k21 written as a sum of positive terms
    root = torch.sqrt((total - k21) ** 2 + 4.0 * k12 * k21)
    fast = 0.5 * (total + k21 + root)
    slow = k * k21 / fast
    inverse = 1.0 / root
    # the two sum to one; each is positive and exact however small
    first = _half_sum(total - k21, root, k12 * k21) * inverse
    second = _half_sum(k12 + k21 - k, root, k * k12) * (k21 / fast) * inverse
    out, back = k12 * inverse, k21 * inverse
    return _Modes(
        [fast, slow],
        {(0, 0): [first, second], (1, 0): [-out, out], (0, 1): [-back, back], (1, 1): [second, first]},
    )


def _half_sum(u: Tensor, root: Tensor, product: Tensor) -> Tensor:
    """(u + root)/2 where root^2 = u^2 + 4 product, without cancellation for negative u."""
    down = u < 0
    apart = torch.where(down, root - u, torch.ones_like(root))
    return torch.where(down, 2.0 * product / apart, 0.5 * (u + root))


def _three_modes(k: Tensor, k12: Tensor, k21: Tensor, k13: Tensor, k31: Tensor) -> _Modes:
    total = k + k12 + k13
    rates = _cubic_roots(total + k21 + k31, k * k21 + k * k31 + k21 * k31 + k12 * k31 + k13 * k21, k * k21 * k31)
    columns: dict[tuple[int, int], list[Tensor | None]] = {(i, j): [] for i in range(3) for j in range(3)}
    for i, rate in enumerate(rates):
        a, b = rates[(i + 1) % 3], rates[(i + 2) % 3]
        inverse = 1.0 / ((a - rate) * (b - rate))
        d, e, f = total - rate, k21 - rate, k31 - rate
        for key, value in {
            (0, 0): e * f,
            (1, 0): k12 * f,
            (2, 0): k13 * e,
            (0, 1): k21 * f,
            (0, 2): k31 * e,
            (1, 1): d * f - k13 * k31,
            (1, 2): k12 * k31,
            (2, 1): k13 * k21,
            (2, 2): d * e - k12 * k21,
        }.items():
            columns[key].append(value * inverse)
    return _Modes(rates, columns)


def _cubic_roots(a2: Tensor, a1: Tensor, a0: Tensor) -> list[Tensor]:
    """The three positive roots of z^3 - a2 z^2 + a1 z - a0, differentiable.

    Trigonometric formula without a graph, then Newton steps: the first two polish the digits the formula loses in
    the small root, the last two, with a graph, carry derivatives exact to third order.
    """
    b2, b1, b0 = (a.unsqueeze(-1) for a in torch.broadcast_tensors(a2, a1, a0))
    with torch.no_grad():
        shift = a2 / 3.0
        p = torch.clamp(shift * shift - a1 / 3.0, min=0.0)
        q = shift**3 - shift * a1 / 2.0 + a0 / 2.0
        scale = torch.sqrt(p)
        ratio = torch.clamp(q / torch.clamp(scale**3, min=1e-300), -1.0, 1.0)
        angle = torch.acos(ratio) / 3.0
        turn = 2.0 * torch.pi / 3.0
        z = torch.stack([shift + 2.0 * scale * torch.cos(angle - turn * i) for i in range(3)], -1)
        z = z.broadcast_to(*b2.shape[:-1], 3)

    def newton(z: Tensor) -> Tensor:
        value = ((z - b2) * z + b1) * z - b0
        slope = (3.0 * z - 2.0 * b2) * z + b1
        return z - value / slope

    with torch.no_grad():
        z = newton(newton(z))
    return list(newton(newton(z)).unbind(-1))
