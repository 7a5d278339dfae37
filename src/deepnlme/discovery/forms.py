"""The formulas of pharmacology: how effects depend on concentrations, and rates on amounts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from deepnlme.discovery.formula import Formula, parsed, symbol
from deepnlme.discovery.points import Points, adjusted, independent

QUANTILES = (0.1, 0.5, 0.9)
"""Where constants in the units of an input start: at these quantiles of its positive values."""
SHORT, LONG = 15, 300
"""Evaluations for every start, and for the best one."""


@dataclass(frozen=True)
class Form:
    """A formula of one input x.

    Attributes:
        name: What it is called.
        text: The formula, of x.
        located: Constants in the units of x: positive.
        shaped: Constants without a unit, positive, with their starts.
        rates: Constants in units of 1/x, of any sign, with their starts in units of the spread of x.
        intercept: Name of a constant that is added where the function has no zero of its own; "" for none.
        positive: Whether x must not be negative.
    """

    name: str
    text: str
    located: tuple[str, ...] = ()
    shaped: tuple[tuple[str, tuple[float, ...]], ...] = ()
    rates: tuple[tuple[str, tuple[float, ...]], ...] = ()
    intercept: str = "e0"
    positive: bool = True


FORMS = (
    Form("linear", "slope*x", positive=False),
    Form("power", "scale*x**gamma", shaped=(("gamma", (0.5, 2.0)),)),
    Form("Emax", "emax*x/(ec50 + x)", located=("ec50",)),
    Form("sigmoid Emax", "emax*x**gamma/(ec50**gamma + x**gamma)", ("ec50",), (("gamma", (1.0, 3.0)),)),
    Form("exponential", "scale*exp(rate*x)", rates=(("rate", (-3.0, -0.5, 0.5)),), positive=False),
    Form("log-linear", "slope*log(1 + x/shift)", located=("shift",)),
    Form("inhibitory Imax", "e0*(1 - imax*x/(ic50 + x))", ("ic50",), (("imax", (0.5,)),), intercept=""),
    Form("Michaelis-Menten", "vmax*x/(km + x)", located=("km",), intercept=""),
)
"""With a baseline the last two are Emax, and left out; the others then have no intercept."""


def library(points: Points) -> list[Formula]:
    """The forms fitted to the points: of each input, the others absent or linear; the best start of each.

    Forms of positive inputs are left out where an input is negative. One whose constants the points do not tell apart
    is left out too: it has gone to a limit that is a simpler form, such as Emax with an infinite ec50.
    """
    found = [_best([_constant(points)], points)]
    for i, form in product(range(len(points.names)), _suited(points)):
        if form.positive and (points.x[:, i] < 0).any():
            continue
        found.append(_best(list(_starts(form, i, (), points)), points))
        others = tuple(j for j in range(len(points.names)) if j != i)
        if others and not (form.name.startswith("linear") and i > 0):
            found.append(_best(list(_starts(form, i, others, points)), points))
    return [f for f in found if len(independent(f, points)) == len(f.constants) and f.constants.get("imax", 0.0) <= 1]


def _suited(points: Points) -> list[Form]:
    """The forms, with and without an intercept where the function has no zero of its own."""
    if points.baseline is not None:
        return [form for form in FORMS if form.intercept]
    through = [
        replace(form, name=f"{form.name} through 0", intercept="")
        for form in FORMS
        if form.intercept and form.name != "Emax"  # that is Michaelis-Menten
    ]
    return [*FORMS, *through]


def _constant(points: Points) -> Formula:
    free = points.baseline is None
    text, constants = ("e0", {"e0": float(points.y.mean())}) if free else ("0", {})
    return Formula(parsed(text, ("e0",)), points.names, constants, frozenset(), "constant")


def _best(starts: list[Formula], points: Points) -> Formula:
    found = [adjusted(formula, points, SHORT) for formula in starts] if len(starts) > 1 else starts
    return adjusted(min(found, key=points.error), points, LONG)


def _starts(form: Form, column: int, others: tuple[int, ...], points: Points) -> Iterator[Formula]:
    """The form of one input, other inputs added linearly, from several values of its constants."""
    x, name = points.x[:, column], points.names[column]
    extra = [points.names[j] for j in others]
    intercept = form.intercept if points.baseline is None else ""
    body = parsed(f"{intercept or 0} + {form.text}", (*_constants(form), *([intercept] if intercept else []), "x"))
    body = body.xreplace({symbol("x"): symbol(name)}) + sum(symbol(f"slope_{n}") * symbol(n) for n in extra)
    constants = sorted(str(s) for s in body.free_symbols if str(s) not in points.names)
    label = form.name if not others else f"{form.name} of {name}, linear in the rest"
    label = label if others or len(points.names) == 1 else f"{form.name} of {name}"
    positive = frozenset(form.located) | {n for n, _ in form.shaped}
    seen = x[x > 0] if (x > 0).any() else np.ones(1)
    located = [[(n, float(q)) for q in np.quantile(seen, QUANTILES)] for n in form.located]
    shaped = [[(n, v) for v in values] for n, values in form.shaped]
    width = float(x.std()) or 1.0
    rates = [[(n, v / width) for v in values] for n, values in form.rates]
    for chosen in product(*located, *shaped, *rates):
        own = {**dict.fromkeys(constants, 0.0), **dict(chosen)}
        yield _with_linear(Formula(body, points.names, own, positive, label), dict(chosen), points)


def constant_names(inputs: tuple[str, ...]) -> set[str]:
    """Names that constants of the forms and of formulas that are found may have, for inputs of these names."""
    own = {name for form in FORMS for name in (*_constants(form), form.intercept) if name}
    return own | {f"slope_{name}" for name in inputs} | {f"c{i + 1}" for i in range(99)}


def _constants(form: Form) -> tuple[str, ...]:
    known = {"exp", "log", "x"}
    words = "".join(c if c.isalnum() or c == "_" else " " for c in form.text).split()
    return tuple(w for w in dict.fromkeys(words) if not w[0].isdigit() and w not in known)


def _with_linear(formula: Formula, given: dict[str, float], points: Points) -> Formula:
    """The constants that enter linearly, by linear least squares; the formula is zero where they all are."""
    linear = [n for n in formula.constants if n not in given]
    columns = [points.values(formula, {**formula.constants, n: 1.0}) for n in linear]
    matrix = np.stack(columns, 1)
    if not np.isfinite(matrix).all():
        return formula
    solved = np.linalg.lstsq(matrix, points.y, rcond=None)[0]
    return replace(formula, constants={**formula.constants, **dict(zip(linear, map(float, solved), strict=True))})
