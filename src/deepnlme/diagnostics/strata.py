"""Strata: the observations divided by covariates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from deepnlme.diagnostics.arguments import check_mapping
from deepnlme.errors import ModelError, invalid

LEVELS = 6
"""Distinct numbers up to which each is a stratum of its own."""


def strata(
    covariates: Mapping[str, np.ndarray], stratify: str | Sequence[str] | None, cuts: Mapping[str, Any] | None, n: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Divide N observations by covariates.

    Args:
        covariates: Values by name at the observations ([N] each), text or numbers.
        stratify: Names of the covariates; several are crossed.
        cuts: Numbers at which a covariate is cut, by name: ``{"wt": [70]}`` gives "wt < 70" and "wt >= 70". A covariate
            with few distinct numbers needs none.
        n: Number of observations, N.

    Returns:
        Labels of the strata, and the stratum of each observation (int64 [N]). Without `stratify` one, named "".

    Raises:
        ModelError: An unknown covariate, or cuts that are missing or not increasing.
    """
    if not isinstance(stratify, Iterable | None):
        raise ModelError(invalid("stratify", repr(stratify), "It is the name of a covariate, or several names"))
    check_mapping("cuts", cuts or {}, '{"wt": [70]}')
    names = [] if stratify is None else [stratify] if isinstance(stratify, str) else list(stratify)
    cuts = dict(cuts or {})
    for name in names:
        if name not in covariates:
            raise ModelError(
                invalid("stratify", repr(name), f"Covariates of the data are {', '.join(covariates) or '(none)'}")
            )
    for name in cuts:
        if name not in names:
            raise ModelError(invalid("cuts", repr(name), f"It cuts {', '.join(names) or 'nothing: use stratify'}"))
    if not names:
        return ("",), np.zeros(n, dtype=np.int64)
    labels, codes = zip(*(_levels(name, covariates[name], cuts.get(name)) for name in names), strict=True)
    combined = np.zeros(n, dtype=np.int64)
    for own, code in zip(labels, codes, strict=True):
        combined = combined * len(own) + code
    found, index = np.unique(combined, return_inverse=True)
    texts = []
    for value in found:
        parts = []
        for own in reversed(labels):
            parts.append(own[value % len(own)])
            value //= len(own)
        texts.append(", ".join(reversed(parts)))
    return tuple(texts), index.astype(np.int64)


def _levels(name: str, values: np.ndarray, cut: Any) -> tuple[list[str], np.ndarray]:
    if values.dtype.kind not in "fiub":
        if cut is not None:
            raise ModelError(invalid("cuts", name, "Only numbers can be cut, this covariate is text"))
        found, codes = np.unique(values.astype(str), return_inverse=True)
        return [f"{name} {text}" for text in found], codes
    if cut is not None:
        return _cut(name, values, cut)
    found, codes = np.unique(values, return_inverse=True)
    if len(found) > LEVELS:
        middle = f"{float(np.median(values)):.3g}"
        fix = f"Cut it: cuts={{{name!r}: [{middle}]}}"
        expected = f"Without cuts a stratum is a distinct value, of which there may be {LEVELS}"
        raise ModelError(invalid("stratify", f"{len(found)} values", expected, f"covariate {name}", fix))
    return [f"{name} {value:g}" for value in found], codes


def _cut(name: str, values: np.ndarray, cut: Any) -> tuple[list[str], np.ndarray]:
    try:
        at = np.atleast_1d(np.asarray(cut, dtype=float))
    except (TypeError, ValueError):
        at = np.zeros(0)
    if at.ndim != 1 or not len(at) or not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise ModelError(invalid("cuts", repr(cut), "Cuts are increasing numbers", f"covariate {name}"))
    inner = [f"{low:g} <= {name} < {high:g}" for low, high in pairwise(at.tolist())]
    return [f"{name} < {at[0]:g}", *inner, f"{name} >= {at[-1]:g}"], np.searchsorted(at, values, side="right")
