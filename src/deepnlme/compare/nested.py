"""Whether one model is another with some of its parameters fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepnlme.model import Model
from deepnlme.parameters import Parameter, RandomEffects


@dataclass(frozen=True)
class Nesting:
    """How a reduced model lies in a full one.

    Attributes:
        df: Parameters that the reduced model fixes.
        boundary: Variances among them that it fixes at zero, on the boundary of what the full model allows.
    """

    df: int
    boundary: int


def nesting(reduced: Model, full: Model) -> Nesting | None:
    """How the reduced model is nested in the full one; None where the declarations do not show it.

    They show it for two instances of one class that differ in what is fixed: ``Pheno(apgar=dn.Real(0.0, fixed=True))``
    in ``Pheno()``, an Omega with variances fixed, at zero or elsewhere, in one where they are free, a diagonal Omega
    in a block.
    """
    if not _same_equations(reduced, full):
        return None
    df = boundary = 0
    for name, theirs in full.declared.items():
        ours = reduced.declared[name]
        if isinstance(theirs, Parameter):
            found = _parameter(ours, theirs)
        elif isinstance(theirs, RandomEffects):
            found = _group(ours, theirs, name)
        else:
            found = Nesting(0, 0) if ours.fixed == theirs.fixed and ours.size == theirs.size else None
        if found is None:
            return None
        df, boundary = df + found.df, boundary + found.boundary
    return Nesting(df, boundary)


def _same_equations(reduced: Model, full: Model) -> bool:
    """One class, the same names declared, and nothing else that an instance carries differs."""
    if type(reduced) is not type(full) or list(reduced.declared) != list(full.declared):
        return False
    ours = {k: v for k, v in vars(reduced).items() if k != "declared"}
    theirs = {k: v for k, v in vars(full).items() if k != "declared"}
    return ours.keys() == theirs.keys() and all(ours[k] is theirs[k] or repr(ours[k]) == repr(theirs[k]) for k in ours)


def _parameter(reduced: Parameter, full: Parameter) -> Nesting | None:
    if full.fixed:
        return Nesting(0, 0) if reduced.fixed and reduced.value == full.value else None
    if reduced.fixed:
        return Nesting(1, 0) if full.contains(reduced.value) else None
    ranges = [(type(p), getattr(p, "low", None), getattr(p, "high", None)) for p in (reduced, full)]
    return Nesting(0, 0) if ranges[0] == ranges[1] else None


def _group(reduced: RandomEffects, full: RandomEffects, name: str) -> Nesting | None:
    if reduced.labels(name) != full.labels(name) or reduced.by != full.by:
        return None
    df = full.free_size - reduced.free_size
    if not full.block:
        if reduced.block or df < 0:
            return None
        kept = np.diag(reduced.omega)[reduced.fixed]
        same = full.fixed <= reduced.fixed
        equal = np.array_equal(np.diag(reduced.omega)[full.fixed], np.diag(full.omega)[full.fixed])
        if not (same.all() and equal):
            return None
        free_in_full = ~full.fixed[reduced.fixed]
        return Nesting(df, int((kept[free_in_full] == 0.0).sum()))
    if full.fixed.all():
        equal = reduced.fixed.all() and np.array_equal(reduced.omega, full.omega)
        return Nesting(0, 0) if equal else None
    if reduced.block and not reduced.fixed.all():
        return Nesting(0, 0)
    part = reduced.omega[np.ix_(reduced.fixed, reduced.fixed)]
    missing = len(part) - int(np.linalg.matrix_rank(part, hermitian=True)) if len(part) else 0
    return Nesting(df, missing)
