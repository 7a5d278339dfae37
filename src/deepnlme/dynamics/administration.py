"""What a dose record becomes once lag time, bioavailability, rate and duration are known for a subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnlme.data.batch import Batch
from deepnlme.errors import ModelError


@dataclass(frozen=True)
class Dosing:
    """How doses enter one compartment; returned by a model's ``dosing`` method.

    Args:
        lag: Absorption lag time [time] (NONMEM's ALAG).
        bioavailability: Fraction absorbed (F). Of an infusion it scales the duration, not the rate.
        rate: Infusion rate [amount/time] of doses with RATE=-1 (R1).
        duration: Duration [time] of doses with RATE=-2 (D1).
    """

    lag: Any = None
    bioavailability: Any = None
    rate: Any = None
    duration: Any = None


@dataclass(frozen=True)
class Administered:
    """Effective doses of every row; [K, R, D] (K and R may be 1 where nothing depends on them).

    Attributes:
        start: Time the dose begins to enter [time].
        lag: start minus the record's time [time].
        amount: Amount that enters [amount].
        duration: Duration of the infusion, 0 for a bolus [time].
        rate: Rate of the infusion, 0 for a bolus [amount/time].
        moving: Whether `start` or `duration` may change with the parameters.
        infusions: Whether any dose is an infusion.
    """

    start: Tensor
    lag: Tensor
    amount: Tensor
    duration: Tensor
    rate: Tensor
    moving: bool
    infusions: bool


def _at_dose(value: Any, over: Any, batch: Batch) -> Tensor:
    """A control [K, R, 1 or T] at each dose, [K, R, D or 1].

    `value` is the control at the records; `over`, if not None, that over the intervals between them, which additional
    doses take.
    """
    value = torch.as_tensor(value, dtype=batch.time.dtype, device=batch.device)
    if value.dim() < 3 or value.shape[-1] == 1:
        return value
    lead = value.shape[:-1]
    found = value.gather(-1, batch.dose_record.expand(*lead, -1))
    if over is None:
        return found
    between = over.expand(*lead, value.shape[-1]).gather(-1, batch.dose_effect.expand(*lead, -1))
    return torch.where(batch.dose_additional, between, found)


def _control(
    controls: Mapping[int, Dosing],
    which: str,
    batch: Batch,
    default: Tensor,
    needed: Tensor | None = None,
    interval: Mapping[int, Dosing] | None = None,
) -> Tensor:
    """One control of every dose: of its compartment where declared, the default elsewhere."""
    out = default
    for compartment, dosing in controls.items():
        value = getattr(dosing, which)
        if value is None:
            continue
        here = batch.dose_cmt == compartment
        if needed is not None:
            here = here & needed
        over = None if interval is None else getattr(interval[compartment], which)
        out = torch.where(here, _at_dose(value, over, batch), out)
    return out


def _require(controls: Mapping[int, Dosing], which: str, needed: Tensor, batch: Batch, code: int, names: tuple) -> None:
    for compartment in torch.unique(batch.dose_cmt[needed]).tolist():
        if compartment not in controls or getattr(controls[compartment], which) is None:
            raise ModelError(
                f"Invalid `RATE`: got {code} for a dose into `{names[compartment]}`, expected a modelled {which}: "
                f"return dict({names[compartment]}=dn.Dosing({which}=p....)) from the model's `dosing` method."
            )


def administer(
    controls: Mapping[int, Dosing],
    batch: Batch,
    compartments: tuple[str, ...],
    always_modelled: bool = False,
    interval: Mapping[int, Dosing] | None = None,
) -> Administered:
    """Apply lag, bioavailability, modelled rate and duration to the doses of a batch.

    The lag of a dose record applies to its additional doses too. Their bioavailability, rate and duration are those in
    effect at their own time (before lag): over the interval that ends at the next record.

    Args:
        controls: Compartment index -> its `Dosing`, at the records.
        batch: Packed records.
        compartments: Names, for messages.
        always_modelled: Treat doses without RATE as RATE=-2 where their compartment has a duration (zero-order
            absorption).
        interval: The `Dosing` over the intervals that end at the records, where parameters change with time.

    A negative lag, bioavailability or duration, and a rate that is not positive, make the dose NaN: there is no such
    dose, and a search that passes there takes its step back.

    Raises:
        ModelError: RATE=-1 or -2 without a modelled rate or duration.
    """
    zero = torch.zeros_like(batch.dose_time).unsqueeze(0)
    valid = batch.dose_valid
    is_rate, is_duration = valid & (batch.dose_rate == -1), valid & (batch.dose_rate == -2)
    if always_modelled:
        with_duration = torch.zeros_like(valid)
        for compartment, dosing in controls.items():
            if dosing.duration is not None:
                with_duration |= batch.dose_cmt == compartment
        is_duration = is_duration | (valid & (batch.dose_rate == 0) & with_duration)
    flags = batch.cache.get("dose_flags")
    if flags is None:
        infusion = valid & ((batch.dose_rate != 0) | is_duration)
        flags = (bool(is_rate.any()), bool(is_duration.any()), bool(infusion.any()))
        batch.cache["dose_flags"] = flags
        if flags[0]:
            _require(controls, "rate", is_rate, batch, -1, compartments)
        if flags[1]:
            _require(controls, "duration", is_duration, batch, -2, compartments)
    any_rate, any_duration, infusions = flags
    impossible: list[Tensor] = []

    amount = batch.dose_amount.unsqueeze(0)
    if any(c.bioavailability is not None for c in controls.values()):
        amount = amount * _control(controls, "bioavailability", batch, torch.ones_like(zero), interval=interval)
        impossible.append(amount < 0)
    lagged = any(c.lag is not None for c in controls.values())
    lag = _control(controls, "lag", batch, zero) if lagged else zero
    if lagged:
        impossible.append(lag < 0)
    rate, duration = zero, zero
    if infusions:
        given = (valid & (batch.dose_rate > 0)).unsqueeze(0)
        rate = torch.where(given, batch.dose_rate, zero)
        if any_rate:
            rate = _control(controls, "rate", batch, rate, is_rate, interval)
            impossible.append(is_rate & (rate <= 0))
        by_rate = given | is_rate.unsqueeze(0)
        duration = torch.where(by_rate, amount / torch.where(by_rate, rate, torch.ones_like(rate)), zero)
        if any_duration:
            duration = _control(controls, "duration", batch, duration, is_duration, interval)
            impossible.append(is_duration & (duration < 0))
            lasting = is_duration & (duration > 0)
            rate = torch.where(lasting, amount / torch.where(lasting, duration, torch.ones_like(duration)), rate)
    if impossible:
        amount, rate, lag, duration = _without(impossible, valid, amount, rate, lag, duration)
    moving = lagged or any_rate or any_duration or (infusions and amount.requires_grad)
    return Administered(batch.dose_time.unsqueeze(0) + lag, lag, amount, duration, rate, moving, infusions)


def _without(
    impossible: list[Tensor], valid: Tensor, amount: Tensor, rate: Tensor, lag: Tensor, duration: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Amount, rate, lag and duration with NaN for doses that cannot be, at a time when they still act."""
    bad = impossible[0]
    for more in impossible[1:]:
        bad = bad | more
    bad = bad & valid
    if not bool(bad.any()):
        return amount, rate, lag, duration
    nothing = torch.full_like(amount, torch.nan)
    infused = bad & ((rate != 0) | (duration != 0))
    return (
        torch.where(bad, nothing, amount),
        torch.where(infused, nothing, rate),
        torch.where(bad, torch.zeros_like(lag), lag),
        torch.where(bad, duration.abs().nan_to_num(posinf=0.0), duration),
    )


@dataclass(frozen=True)
class SteadyState:
    """The repeated dosing that a steady-state dose implies, [K, R, D].

    The implied doses arrive at start - j II, j = 1, 2, ...; an infusion longer than II overlaps the next ones: over an
    interval the rate is (overlap + 1) r for a time `first`, and overlap r for the rest.

    Attributes:
        active: Doses with SS 1 or 2.
        constant: Those of them that are a constant infusion (AMT=0, II=0).
        period: II [time] (1 where it does not apply).
        overlap: floor(duration / II).
        first: duration - overlap II [time].
    """

    active: Tensor
    constant: Tensor
    period: Tensor
    overlap: Tensor
    first: Tensor


def steady_dosing(batch: Batch, doses: Administered) -> SteadyState:
    """Intervals and phases of the dosing before each steady-state dose."""
    active = (batch.dose_ss > 0).unsqueeze(0)
    constant = active & (batch.dose_ii == 0)
    repeated = active & ~constant
    period = torch.where(repeated, batch.dose_ii, torch.ones_like(batch.dose_ii))
    zero = torch.zeros_like(doses.duration)
    overlap = torch.where(repeated, torch.floor(doses.duration.detach() / period), zero)
    first = torch.where(repeated, doses.duration - overlap * period, zero)
    return SteadyState(active, constant, period, overlap, first)
