"""Doses and regimens for scripts: what is given, when, where and how fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepnlme.data.records import DOSE, RESET, RESET_DOSE, Records
from deepnlme.errors import DataError, invalid


@dataclass(frozen=True)
class Dose:
    """One dose, with NONMEM's meaning of its items.

    Args:
        amount: Amount (AMT); 0 only for a constant infusion at steady state or a pure reset (evid=3).
        time: Time of the dose.
        cmt: Compartment, number or name; None for the model's default.
        rate: Rate of an infusion; 0 bolus, -1 modelled rate, -2 modelled duration.
        duration: Duration of an infusion; instead of `rate`.
        ii: Interdose interval of additional or steady-state doses.
        addl: Number of additional doses, each `ii` after the one before.
        ss: Steady state: 0 no, 1 reset to it, 2 added to what there is.
        evid: 1 dose, 4 reset and dose, 3 reset without a dose.

    Raises:
        DataError: When the items do not make a dose.

    Example:
        >>> Dose(100, ii=24, addl=6)
        Dose(100, ii=24, addl=6)
    """

    amount: float
    time: float = 0.0
    cmt: int | str | None = None
    rate: float = 0.0
    duration: float = 0.0
    ii: float = 0.0
    addl: int = 0
    ss: int = 0
    evid: int = 1

    def __post_init__(self) -> None:
        for name in ("amount", "time", "rate", "duration", "ii", "addl", "ss", "evid"):
            _check_number(name, getattr(self, name), whole=name in ("addl", "ss", "evid"))
        if self.evid not in (DOSE, RESET, RESET_DOSE):
            raise DataError(invalid("evid", self.evid, "A dose has EVID 1, 4 (reset and dose) or 3 (reset only)"))
        if self.ii > 0 and not (self.addl or self.ss):
            fix = "Give addl=<number of additional doses> or ss=1"
            raise DataError(invalid("ii", self.ii, "An interval without addl or ss repeats nothing", repr(self), fix))
        _check_compartment(self.cmt)
        self.records().validate(where=repr(self))

    def records(self) -> Records:
        """The dose as one record."""
        rate = self.amount / self.duration if self.duration and not self.rate else self.rate
        return Records.build(
            [self.time],
            evid=self.evid,
            amt=self.amount,
            rate=rate,
            duration=self.duration,
            ii=self.ii,
            addl=self.addl,
            ss=self.ss,
            cmt="" if self.cmt in (None, 0) else str(self.cmt),
        )

    def __repr__(self) -> str:
        defaults = {name: f.default for name, f in self.__dataclass_fields__.items()}
        items = [f"{k}={v!r}" for k, v in vars(self).items() if k != "amount" and v != defaults[k]]
        return f"Dose({', '.join([repr(self.amount), *items])})"


class Regimen:
    """Doses in order of time; doses at the same time keep the order in which they were given.

    Args:
        *doses: Doses and regimens.

    Example:
        >>> loading, maintenance = Dose(200), Regimen(Dose(100)).repeat(3, every=12).shift(12)
        >>> Regimen(loading) + maintenance
        Regimen(Dose(200), Dose(100, time=12.0), Dose(100, time=24.0), Dose(100, time=36.0))
    """

    __slots__ = ("_records", "doses")
    doses: tuple[Dose, ...]
    _records: Records | None

    def __init__(self, *doses: Dose | Regimen) -> None:
        flat: list[Dose] = []
        for dose in doses:
            if not isinstance(dose, Dose | Regimen):
                raise DataError(invalid("doses", repr(dose), "A regimen is made of Dose and Regimen"))
            flat.extend(dose.doses if isinstance(dose, Regimen) else [dose])
        object.__setattr__(self, "doses", tuple(sorted(flat, key=lambda dose: dose.time)))
        object.__setattr__(self, "_records", None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Regimen does not change; make a new one with +, shift, repeat or scale")

    def __reduce__(self) -> Any:
        return Regimen, self.doses

    def __iter__(self) -> Iterator[Dose]:
        return iter(self.doses)

    def __len__(self) -> int:
        return len(self.doses)

    def __eq__(self, other: object) -> bool:
        return self.doses == other.doses if isinstance(other, Regimen) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.doses)

    def __repr__(self) -> str:
        return f"Regimen({', '.join(map(repr, self.doses))})"

    def __add__(self, other: Dose | Regimen) -> Regimen:
        return Regimen(self, other) if isinstance(other, Dose | Regimen) else NotImplemented

    def __radd__(self, other: Dose) -> Regimen:
        return Regimen(other, self) if isinstance(other, Dose) else NotImplemented

    def shift(self, time: float) -> Regimen:
        """The same doses `time` later."""
        _check_number("time", time)
        return Regimen(*(replace(dose, time=dose.time + time) for dose in self))

    def repeat(self, times: int, every: float) -> Regimen:
        """The regimen `times` times, each beginning `every` after the one before."""
        _check_number("times", times, whole=True)
        _check_number("every", every)
        if times < 1 or every <= 0:
            got = f"times={times}, every={every}"
            raise DataError(invalid("repeat", got, "A regimen repeats at least once, after a positive time"))
        return Regimen(*(self.shift(k * every) for k in range(times)))

    def scale(self, factor: float) -> Regimen:
        """The doses times `factor`: amounts and rates, so that the infusions last as long as before."""
        _check_number("factor", factor)
        if factor <= 0:
            raise DataError(invalid("factor", factor, "Doses are scaled by a positive number"))
        return Regimen(*(_scaled(dose, factor) for dose in self))

    def records(self) -> Records | None:
        """The doses as the records of one subject, or None when there are none."""
        if self._records is None and self.doses:
            merged = Records.concat([dose.records() for dose in self])
            one = merged.take(np.arange(len(self)), np.zeros(len(self), dtype=np.int64))
            object.__setattr__(self, "_records", one)
        return self._records


def _scaled(dose: Dose, factor: float) -> Dose:
    return replace(dose, amount=dose.amount * factor, rate=dose.rate * factor if dose.rate > 0 else dose.rate)


def _check_number(name: str, value: Any, whole: bool = False) -> None:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or (whole and value != int(value)):
        raise DataError(invalid(name, repr(value), f"It is a {'whole' if whole else 'finite'} number"))


def _check_compartment(cmt: Any) -> None:
    number = isinstance(cmt, int | np.integer) and not isinstance(cmt, bool) and cmt >= 0
    if not (cmt is None or number or (isinstance(cmt, str) and cmt.strip() == cmt and cmt)):
        raise DataError(invalid("cmt", repr(cmt), "A compartment is a number from 1 or a name; None is the default"))
