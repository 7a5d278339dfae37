"""Formulas found by symbolic regression: genetic programming by pyoperon."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deepnlme.discovery.formula import Formula, evaluate, parsed, size, symbol
from deepnlme.discovery.points import Points, adjusted, independent
from deepnlme.errors import MissingExtraError

ALPHABETS = (
    "add,sub,mul,div,constant,variable",
    "add,sub,mul,div,exp,log,sqrt,constant,variable",
    "add,sub,mul,div,pow,constant,variable",
)
"""Operations of the searches: rational functions, functions, powers."""
LONGEST = 20
"""Nodes of a formula, at most."""
PEOPLE = 500
"""Formulas in a generation."""
BETWEEN = 2000
"""Places between two points where a formula must have a value."""
PREFIX = "operand_"
"""Names under which inputs are written in a formula that is read: no functions and constants of sympy."""


def regressor() -> Any:
    """pyoperon's class.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from pyoperon.sklearn import SymbolicRegressor
    except ImportError as error:
        raise MissingExtraError("pyoperon", "discovery") from error
    return SymbolicRegressor


def searched(points: Points, evaluations: int, seed: int) -> list[Formula]:
    """Formulas from the Pareto fronts of searches, simplified, their constants fitted to the points.

    Inputs are divided by their size and the function is standardised, so that the search does not see their units.
    Formulas with inputs in an exponent (other than of e) are left out: no mechanism has them.

    Args:
        points: The function.
        evaluations: Formulas tried in each search.
        seed: Of the searches.
    """
    kind = regressor()
    unit = np.abs(points.x).max(0)
    unit[unit == 0] = 1.0
    center, scale = float(points.y.mean()), points.spread
    found: dict[str, Formula] = {}
    for alphabet in ALPHABETS:
        search = kind(
            allowed_symbols=alphabet,
            objectives=["mse", "length"],
            max_length=LONGEST,
            population_size=PEOPLE,
            pool_size=PEOPLE,
            generations=1000,
            max_evaluations=evaluations,
            optimizer_iterations=3,
            n_threads=1,
            random_state=seed + 1,
        )
        search.fit(points.x / unit, (points.y - center) / scale)
        inputs = [f"{PREFIX}{i}" for i in range(len(unit))]
        for member in search.pareto_front_:
            text = search.get_model_string(member["tree"], 12, inputs).replace("^", "**")
            formula = _read(text, points, unit, center, scale)
            if formula is not None:
                found.setdefault(formula.text, formula)
    return list(found.values())


def _read(text: str, points: Points, unit: np.ndarray, center: float, scale: float) -> Formula | None:
    """The formula of a text in standardised units; None if it has no place among the others."""
    import sympy

    symbols = tuple(f"{PREFIX}{i}" for i in range(len(unit)))
    node = center + scale * parsed(text, symbols)
    own = [symbol(name) for name in points.names]
    node = node.subs({symbol(s): x / u for s, x, u in zip(symbols, own, unit.tolist(), strict=True)})
    if node.has(sympy.zoo, sympy.nan, sympy.oo, sympy.I) or _odd(node, set(own)):
        return None
    formula = _anchored(_named(_short(node), points), points)
    for _ in range(len(formula.constants) + 1):  # numbers that others can stand for go one after the other
        kept = independent(formula, points)
        if len(kept) == len(formula.constants):
            break
        spare = next(n for n in formula.constants if n not in kept)
        formula = _without(formula, spare, points)
    formula = _canonical(adjusted(_anchored(formula, points), points), points)
    return formula if np.isfinite(points.error(formula)) and not singular(formula, points) else None


def singular(formula: Formula, points: Points) -> bool:
    """Whether it has a pole, or no value, among the points or between two of them.

    A denominator that changes its sign from one point to another is zero somewhere between; so close to both sides the
    formula may well be, somebody who comes to stand there gets nonsense.
    """
    parts = _bases(formula.expression)
    if not parts or not len(points.x):
        return False
    random = np.random.default_rng(len(points.x))
    first, second = random.integers(0, len(points.x), (2, BETWEEN))
    share = random.uniform(0.0, 1.0, (BETWEEN, 1))
    x = np.concatenate([points.x, share * points.x[first] + (1.0 - share) * points.x[second]])
    inputs = {name: torch.tensor(x[:, i]) for i, name in enumerate(points.names)}
    for base, exponent in parts:
        value = torch.as_tensor(evaluate(base, {**formula.constants, **inputs}), dtype=torch.float64)
        low, high = float(value.min()), float(value.max())
        rounding = 1e-9 * max(abs(low), abs(high))
        if exponent is not None and float(evaluate(exponent, formula.constants)) > 0:
            fine = low >= -rounding  # a root
        else:
            whole = exponent is not None and bool(exponent.is_Integer)
            fine = low > rounding or (whole and high < -rounding)
        if not fine:
            return True
    return False


def _bases(node: Any) -> list[tuple[Any, Any]]:
    """What a logarithm (exponent None) or a power, other than a whole positive one, is of."""
    import sympy

    found = [(part.args[0], None) for part in node.atoms(sympy.log)]
    found += [(p.base, p.exp) for p in node.atoms(sympy.Pow) if not (p.exp.is_Integer and p.exp.is_positive)]
    return [(base, exponent) for base, exponent in found if base.free_symbols]


def _anchored(formula: Formula, points: Points) -> Formula:
    """Without an additive constant where there is a baseline: it has no meaning there."""
    if points.baseline is None:
        return formula
    node = formula.expression.as_independent(*(symbol(n) for n in points.names), as_Add=True)[1]
    used = {n: v for n, v in formula.constants.items() if symbol(n) in node.free_symbols}
    return replace(formula, expression=node, constants=used)


def _odd(node: Any, inputs: set[Any]) -> bool:
    """Whether an input stands in an exponent, or exponentials and logarithms are nested."""
    import sympy

    if any(power.exp.free_symbols & inputs for power in node.atoms(sympy.Pow)):
        return True
    inside = [part.args[0] for part in node.atoms(sympy.exp, sympy.log)]
    return any(part.has(sympy.exp, sympy.log) for part in inside)


def _short(node: Any) -> Any:
    """The shortest of a few ways to write it."""
    import sympy

    ways = [node, sympy.factor_terms(node), sympy.powsimp(node), sympy.expand(node)]
    return min(ways, key=size)


def _named(node: Any, points: Points) -> Formula:
    """Numbers that are not whole become constants c1, c2, ..."""
    import sympy

    constants: dict[str, float] = {}

    def walk(part: Any) -> Any:
        if part.is_Float or (part.is_Rational and not part.is_Integer and part != sympy.Rational(1, 2)):
            name = f"c{len(constants) + 1}"
            constants[name] = float(part)
            return symbol(name)
        return part.func(*(walk(a) for a in part.args)) if part.args else part

    return Formula(walk(node), points.names, constants, frozenset(), "found")


def _without(formula: Formula, spare: str, points: Points) -> Formula:
    """The formula without a constant: it becomes 1 or 0, whichever is closer after the others are fitted again."""
    import sympy

    rest = {n: v for n, v in formula.constants.items() if n != spare}
    ways = []
    for value in (sympy.Integer(1), sympy.Integer(0), sympy.Float(formula.constants[spare])):
        node = formula.expression.subs(symbol(spare), value)
        if not node.has(sympy.zoo, sympy.nan, sympy.oo):
            used = {n: v for n, v in rest.items() if symbol(n) in node.free_symbols}
            ways.append(adjusted(replace(formula, expression=node, constants=used), points, 20))
    best = min(points.error(way) for way in ways)
    return next(way for way in ways if points.error(way) <= 1.01 * best + 1e-9)


def _canonical(formula: Formula, points: Points) -> Formula:
    """Constants numbered in the order in which they are written."""
    order = sorted(formula.constants, key=lambda n: (str(formula.expression).find(n), n))
    new = {old: symbol(f"c{i + 1}") for i, old in enumerate(order)}
    node = formula.expression.xreplace({symbol(old): own for old, own in new.items()})
    constants = {str(new[old]): formula.constants[old] for old in order}
    return replace(formula, expression=node, constants=constants)
