"""A formula of a few inputs and named constants: shown, counted and computed."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TINY = 1e-30
"""Least base of a power that is no whole number, and least argument of a logarithm."""


@dataclass(frozen=True)
class Formula:
    """y = f(inputs; constants).

    Powers that are not whole numbers and logarithms take what is below 1e-30 as 1e-30, so that a state that a solver
    has moved a little below zero has a value.

    Attributes:
        expression: A sympy expression.
        inputs: Names of the inputs, in the order of the network's.
        constants: Values by name; the other symbols of the expression.
        positive: Constants that are positive numbers.
        form: Its name in the library, or "found" by symbolic regression.
    """

    expression: Any
    inputs: tuple[str, ...]
    constants: dict[str, float]
    positive: frozenset[str]
    form: str

    @property
    def complexity(self) -> int:
        """Symbols, numbers and operations in it, a division counting as one operation."""
        return size(self.expression)

    @property
    def text(self) -> str:
        """The formula with its constants by name."""
        return str(self.expression)

    def valued(self, digits: int = 3) -> str:
        """The formula with the values of its constants."""
        import sympy

        numbers = {symbol(name): sympy.Float(f"{value:.{digits}g}") for name, value in self.constants.items()}
        return _rounded(self.expression.subs(numbers), digits)

    def evaluate(self, inputs: Mapping[str, Any], constants: Mapping[str, Any] | None = None) -> Any:
        """Its value for tensors or numbers that broadcast.

        Args:
            inputs: By name.
            constants: By name; their own values by default.
        """
        return evaluate(self.expression, {**(self.constants if constants is None else constants), **inputs})

    def __call__(self, *inputs: Any) -> Any:
        """Its value for numbers and arrays, in the order of the inputs."""
        arrays = [torch.tensor(np.asarray(value, dtype=float)) for value in inputs]
        shape = torch.broadcast_shapes(*(a.shape for a in arrays))
        found = self.evaluate(dict(zip(self.inputs, arrays, strict=True)))
        found = torch.as_tensor(found, dtype=torch.float64).expand(shape).numpy()
        return float(found) if found.ndim == 0 else found.copy()


def parsed(text: str, names: tuple[str, ...]) -> Any:
    """A sympy expression of these symbols, whatever their names mean to sympy."""
    from sympy.parsing.sympy_parser import parse_expr

    return parse_expr(text, {name: symbol(name) for name in names})


def symbol(name: str) -> Any:
    """An input or constant: a real number."""
    import sympy

    return sympy.Symbol(name, real=True)


def evaluate(node: Any, values: Mapping[str, Any]) -> Any:
    """The value of an expression of sums, products, powers, exp, log and abs, at tensors or numbers by name."""
    if node.is_Symbol:
        return values[node.name]
    if node.is_number:
        return float(node)
    if node.is_Pow:
        return _power(evaluate(node.base, values), node.exp, values)
    parts = [evaluate(part, values) for part in node.args]
    if node.is_Add:
        return functools.reduce(operator.add, parts)
    if node.is_Mul:
        return functools.reduce(operator.mul, parts)
    argument = torch.as_tensor(parts[0], dtype=torch.float64)
    name = node.func.__name__
    if name == "exp":
        return torch.exp(argument)
    if name == "log":
        return torch.log(torch.clamp(argument, min=TINY))
    if name == "Abs":
        return torch.abs(argument)
    raise ValueError(f"{name} is no part of a formula")


def _power(base: Any, exponent: Any, values: Mapping[str, Any]) -> Any:
    base = torch.as_tensor(base, dtype=torch.float64)
    if exponent.is_Integer:
        return base ** int(exponent)
    base = torch.clamp(base, min=TINY)
    return torch.pow(base, _tensor_like(evaluate(exponent, values), base))


def _tensor_like(value: Any, like: Tensor) -> Any:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)


def size(node: Any) -> int:
    """Symbols, numbers and operations of an expression as one writes it: a/b has three, x - y too."""
    if not node.args:
        return 1
    if node.is_Add:
        parts = [size(-part) if part.could_extract_minus_sign() else size(part) for part in node.args]
        return sum(parts) + len(parts) - 1
    if node.is_Mul:
        above, below = node.as_numer_denom()
        if below != 1 and below.is_number is False:
            return size(above) + 1 + size(below)
        parts = [size(part) for part in node.args if part != -1]
        return sum(parts) + max(len(parts) - 1, 0)
    if node.is_Pow:
        if node.exp == -1:
            return size(node.base) + 2
        return size(node.base) + 1 + size(node.exp)
    return 1 + sum(size(part) for part in node.args)


def _rounded(expression: Any, digits: int) -> str:
    import sympy

    short = {number: sympy.Float(number, digits) for number in expression.atoms(sympy.Float)}
    return str(expression.xreplace(short))
