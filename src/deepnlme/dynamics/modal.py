"""Sums over doses mode by mode: the compartments are put together once per observation, not once per dose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered
from deepnlme.dynamics.compartments import CompartmentModel
from deepnlme.numerics import exponential_difference, exponential_integral


@dataclass(frozen=True)
class Given:
    """The doses of a batch as seen from its slots.

    Attributes:
        since: Time since each dose began, 0 where it is not in effect, [K, R, N, D].
        active: Whether it is in effect.
        doses: Their amounts, rates and durations.
        into: Compartment -> whether each dose goes there, [1, R, 1, D]; None where all go to the only one.
        batch: The batch; its cache keeps what depends on the data alone.
    """

    since: Tensor
    active: Tensor
    doses: Administered
    into: Mapping[int, Tensor | None]
    batch: Batch

    def each(self, value: Tensor, compartment: int) -> Tensor:
        """A value of each dose [K, R, D] that is zero for doses into other compartments, [K, R, 1, D]."""
        here = self.into[compartment]
        return value[:, :, None, :] if here is None else value[:, :, None, :] * here


def has_modes(dynamics: Any, columns: tuple[int, ...], doses: Administered) -> bool:
    """Whether `modal_amounts` applies: a compartment model, doses that do not move, no infusion into a depot."""
    fixed = not doses.moving and doses.start.shape[0] == 1 and doses.duration.shape[0] == 1
    return fixed and isinstance(dynamics, CompartmentModel) and not (doses.infusions and dynamics.oral and 0 in columns)


def modal_amounts(dynamics: CompartmentModel, p: Mapping[str, Tensor], given: Given) -> dict[int, Tensor]:
    r"""Amounts of every compartment from all doses.

    A mode decays by itself. With Q(tau) = (1 - exp(-lambda_i tau)) / lambda_i, doses into compartment j leave in mode i
    w_ij = sum over doses that ended of exp(-lambda_i after) (bolus + rate Q(duration)) + sum over infusions that still
    run of rate Q(since), and compartment k holds sum_ij C_kij w_ij. A bolus into the depot reaches mode i by a chain of
    two processes.

    Args:
        dynamics: The compartments.
        p: Individual parameters, each [K, R, 1, 1].
        given: The doses.

    Returns:
        Compartment -> amounts [K, R, N, 1].
    """
    modes, first, out = dynamics.modes(p), int(dynamics.oral), {}
    running = _running(given) if given.doses.infusions else None
    after = given.since if running is None else running.after
    ended = given.active.to(after.dtype) if running is None else running.ended
    for column in given.into:
        if column < first:
            amount, ka = given.each(given.doses.amount, column), p["ka"]
            chains = [ka * exponential_difference(rate, ka, after) for rate in modes.rates]
            out[0] = _left(ka, amount, after, ended)
            weights = [(ended * amount * chain).sum(-1, keepdim=True) for chain in chains]
        else:
            weights = [_weight(rate, column, given, running, after, ended) for rate in modes.rates]
        for to in range(1 + dynamics.peripherals):
            parts = zip(modes.coefficients[to, max(column - first, 0)], weights, strict=True)
            total = sum(weight if c is None else c * weight for c, weight in parts)
            out[to + first] = out[to + first] + total if to + first in out else total
    return out


@dataclass(frozen=True)
class _Running:
    """Which infusions run at which slot.

    Attributes:
        duration: [1, R, D] for which this was found.
        after: Time since the end of each dose, [1, R, N, D].
        ended: 1 where it has ended (a bolus at once), else 0.
        which: Positions of those that run, [R, N, M].
        since: How long they have been running, 0 where there are fewer than M, [1, R, N, M].
    """

    duration: Tensor
    after: Tensor
    ended: Tensor
    which: Tensor
    since: Tensor


def _running(given: Given) -> _Running:
    known: _Running | None = given.batch.cache.get("running")
    duration = given.doses.duration
    if known is not None and torch.equal(known.duration, duration):
        return known
    every = given.active & (given.since < duration[:, :, None, :])
    most = max(int(every.sum(-1).max()), 1)
    there, which = torch.topk(every[0].to(given.since.dtype), min(most, every.shape[-1]), dim=-1)
    since = torch.where(there > 0, given.since[0].gather(-1, which), torch.zeros_like(there))
    after = torch.clamp(given.since - duration[:, :, None, :], min=0.0).detach()
    ended = (given.active & ~every).to(after.dtype)
    found = _Running(duration.detach().clone(), after, ended, which, since.unsqueeze(0))
    given.batch.cache["running"] = found
    return found


def _weight(rate: Tensor, column: int, given: Given, running: _Running | None, after: Tensor, ended: Tensor) -> Tensor:
    """What the doses into a compartment leave in a mode, [K, R, N, 1]."""
    doses = given.doses
    if running is None:
        return _left(rate, given.each(doses.amount, column), after, ended)
    duration = doses.duration[:, :, None, :]
    bolus = given.each(torch.where(doses.duration > 0, torch.zeros_like(doses.amount), doses.amount), column)
    infused = given.each(doses.rate, column)
    left = _left(rate, bolus + infused * exponential_integral(rate, duration), after, ended)
    lead = torch.broadcast_shapes(infused.shape[:2], running.since.shape[:2])
    at = running.which.expand(*lead, -1, -1)
    now = infused.expand(*lead, at.shape[2], -1).gather(-1, at)
    return left + (now * exponential_integral(rate, running.since)).sum(-1, keepdim=True)


def _left(rate: Tensor, amount: Tensor, after: Tensor, ended: Tensor) -> Tensor:
    """sum_d ended exp(-rate after_d) amount_d, [K, R, N, 1]."""
    found: Tensor = _Decayed.apply(rate, amount, after, ended, 0, False)  # type: ignore[assignment]
    return found


class _Decayed(torch.autograd.Function):
    """f_m = sum_d ended after^m exp(-rate after) amount_d, or the sum over slots instead; differentiable to any order.

    d f_m/d rate = -f_(m+1), and the adjoint in `amount` is the sum over slots of the same terms: nothing of the size
    slots x doses is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx, rate, amount, after, ended, order: int, over_slots: bool):  # type: ignore[override]
        ctx.save_for_backward(rate, amount, after, ended)
        ctx.order, ctx.over_slots = order, over_slots
        terms = torch.exp(-rate * after).mul_(ended)
        for _ in range(order):
            terms.mul_(after)
        if over_slots:  # amount [K, R, N, 1] -> [K, R, 1, D]
            return torch.matmul(amount.transpose(-1, -2), terms)
        return torch.matmul(terms, amount.transpose(-1, -2))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        rate, amount, after, ended = ctx.saved_tensors
        by_rate = by_amount = None
        if ctx.needs_input_grad[0]:
            slope = _Decayed.apply(rate, amount, after, ended, ctx.order + 1, ctx.over_slots)
            by_rate = -(grad * slope).sum_to_size(rate.shape)
        if ctx.needs_input_grad[1]:
            by_amount = _Decayed.apply(rate, grad, after, ended, ctx.order, not ctx.over_slots)
            by_amount = by_amount.sum_to_size(amount.shape)
        return by_rate, by_amount, None, None, None, None
