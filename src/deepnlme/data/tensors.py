"""Covariates that are more than a number: one array per subject and name, such as an image or an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepnlme.data.frame import check_covariate_names
from deepnlme.errors import DataError, invalid

Tensors = dict[str, np.ndarray]
"""Arrays by name, [S, ...] each; float64 or float32, and not to be written to."""


def checked_tensors(given: Mapping[str, Any], ids: Sequence[int | str], covariates: Sequence[str]) -> Tensors:
    """One array per name, checked.

    Args:
        given: Per name an array [S, ...] (numpy, torch, nested lists), or a dict id -> array [...].
        ids: Identifiers of the subjects, [S].
        covariates: Names that are taken.

    Raises:
        DataError: A name that is taken; a number of arrays other than that of subjects; arrays of different shapes,
            without numbers or with numbers that are not finite.
    """
    check_covariate_names((*covariates, *given))
    return {str(name): _checked(str(name), value, ids) for name, value in given.items()}


def frozen(values: np.ndarray) -> np.ndarray:
    """The array, not to be written to."""
    values.setflags(write=False)
    return values


def take_tensors(tensors: Tensors, subjects: np.ndarray) -> Tensors:
    """The arrays of some subjects, who may repeat (int64 [M])."""
    return {name: frozen(values[subjects]) for name, values in tensors.items()}


def concat_tensors(parts: Sequence[tuple[Tensors, Sequence[int | str]]]) -> Tensors:
    """The arrays of several sets of subjects, one set after the other; each comes with its identifiers.

    Raises:
        DataError: Other names or shapes than in the first set.
    """
    first, first_ids = parts[0]
    for tensors, ids in parts[1:]:
        where = f"subject {ids[0]}"
        if set(tensors) != set(first):
            expected = f"All subjects have the same tensors; subject {first_ids[0]} has {_names(first)}"
            fix = "Give them with population.with_tensors(...) after the populations are joined"
            raise DataError(invalid("tensors", _names(tensors), expected, where, fix))
        for name, values in tensors.items():
            if values.shape[1:] != first[name].shape[1:]:
                raise _other_shape(name, values.shape[1:], ids[0], first[name].shape[1:], first_ids[0])
    return {name: frozen(np.concatenate([tensors[name] for tensors, _ in parts])) for name in first}


def same_tensors(a: Tensors, b: Tensors) -> bool:
    """Whether names, shapes and numbers are equal."""
    return set(a) == set(b) and all(np.array_equal(values, b[name]) for name, values in a.items())


def describe_tensors(tensors: Tensors) -> list[str]:
    """One line for each, for the summary of a population."""
    return [
        f"  tensor {name}: {shape_text(values.shape[1:])} per subject, {values.min():.6g} to {values.max():.6g}"
        for name, values in tensors.items()
    ]


def shape_text(shape: Sequence[int]) -> str:
    """For example ``8 x 8``."""
    return " x ".join(map(str, shape)) + (" numbers" if len(shape) == 1 else "")


def padded_series(series: Mapping[int | str, tuple[Any, Any]], length: int | None = None) -> tuple[dict, dict, dict]:
    """Series of different lengths, such as measurements before treatment, as arrays of one length.

    Each is filled up with zeros at its end; the mask is 1 where there is a measurement and 0 where there is none. Give
    all three to `Population.with_tensors`, which finds the subjects by their identifiers.

    Args:
        series: Per subject `(times, values)`, n times and n values or an array of values [n, C]; n may be 0.
        length: Their common length T; that of the longest one by default. Give it for new subjects.

    Returns:
        values, times, mask: each a dict id -> float64 [T] (values [T, C] if there are C per time).

    Raises:
        DataError: Times that do not increase, another number of values, a series longer than `length`.

    Example:
        >>> values, times, mask = padded_series({1: ([-7, -3, -1], [5.1, 4.8, 4.9]), 2: ([-2], [6.0])})
        >>> values[2], mask[2]
        (array([6., 0., 0.]), array([1., 0., 0.]))
    """
    if not isinstance(series, Mapping) or not series:
        raise DataError(invalid("series", repr(series), "It is a dict id -> (times, values)"))
    pairs = {id: _pair(given, id) for id, given in series.items()}
    channels = {values.shape[1:] for _, values in pairs.values() if len(values)} or {()}
    if len(channels) > 1:
        found = " and ".join(str(shape) for shape in sorted(channels))
        raise DataError(invalid("series", f"values of shape {found} per time", "All subjects have the same"))
    longest = max(pairs, key=lambda id: len(pairs[id][0]))
    most = max(len(pairs[longest][0]), 1)
    if length is None:
        length = most
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < most:
        fix = "Cut the series, or pad those that the model is fitted to with the same larger length"
        expected = f"It is a whole number of at least {most}, the longest series (subject {longest})"
        raise DataError(invalid("length", repr(length), expected, fix=fix))
    shape = (int(length), *channels.pop())
    values = {id: _filled(value, shape) for id, (_, value) in pairs.items()}
    times = {id: _filled(time, shape[:1]) for id, (time, _) in pairs.items()}
    mask = {id: _filled(np.ones(len(time)), shape[:1]) for id, (time, _) in pairs.items()}
    return values, times, mask


def _filled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape)
    if len(values):
        out[: len(values)] = values
    return out


def _pair(given: Any, id: Any) -> tuple[np.ndarray, np.ndarray]:
    where = f"subject {id}"
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(invalid("series", repr(given), "It is a pair (times, values)", where))
    times, values = (_numbers("series", part, id) for part in given)
    if times.ndim != 1 or values.ndim not in (1, 2) or len(times) != len(values):
        got = f"times of shape {times.shape} and values of shape {values.shape}"
        raise DataError(invalid("series", got, "There is one value, or one row of values, for each time", where))
    if np.any(np.diff(times) <= 0):
        raise DataError(invalid("series", f"times {times.tolist()}", "The times of a series increase", where))
    return times.astype(np.float64), values.astype(np.float64)


def _checked(name: str, given: Any, ids: Sequence[int | str]) -> np.ndarray:
    rows = [_numbers(name, row, id) for row, id in zip(_rows(name, given, ids), ids, strict=True)]
    shape = rows[0].shape
    for row, id in zip(rows, ids, strict=True):
        if row.shape != shape:
            raise _other_shape(name, row.shape, id, shape, ids[0])
    if not shape:
        fix = f"Make it a covariate, or give values[:, None] to read cov.{name}[..., 0]"
        raise DataError(invalid(name, "one number per subject", "A tensor has at least one axis", fix=fix))
    if not rows[0].size:
        raise DataError(invalid(name, f"shape {shape}", "It has at least one number per subject"))
    return frozen(np.stack(rows))


def _rows(name: str, given: Any, ids: Sequence[int | str]) -> Any:
    """What is given for each subject, in their order."""
    if isinstance(given, Mapping):
        known = set(ids)
        unknown = [id for id in given if id not in known]
        if unknown:
            expected = f"The {len(ids)} subjects are {', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''}"
            raise DataError(invalid(name, f"subject {unknown[0]!r}", expected, fix="Correct the identifier"))
        missing = [str(id) for id in ids if id not in given]
        if missing:
            fix = "Give one for them too, or leave them out: population.select(...)"
            got = f"none for {len(missing)} of {len(ids)} subjects ({', '.join(missing[:5])})"
            raise DataError(invalid(name, got, "Every subject has one", fix=fix))
        return [given[id] for id in ids]
    if isinstance(given, pd.Series | pd.DataFrame):  # its index might name the subjects, in another order
        fix = "Give x.to_numpy() if its rows are in the order of the subjects, else a dict id -> array"
        expected = "A table does not say whose its rows are"
        raise DataError(invalid(name, f"a pandas {type(given).__name__}", expected, fix=fix))
    if isinstance(given, Tensor):
        given = _numpy(given)
    if isinstance(given, str) or not hasattr(given, "__len__") or (hasattr(given, "ndim") and given.ndim == 0):
        raise DataError(invalid(name, repr(given), "It is an array [subjects, ...] or a dict id -> array"))
    if len(given) != len(ids):
        expected = f"There is one for each of {len(ids)} subjects, in their order"
        raise DataError(invalid(name, f"{len(given)} arrays", expected, fix="Or give a dict id -> array"))
    return given


def _numpy(values: Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return (values.double() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def _numbers(name: str, row: Any, id: Any) -> np.ndarray:
    """One subject's array: float32 stays, all else becomes float64."""
    where = f"subject {id}"
    if isinstance(row, Tensor):
        row = _numpy(row)
    if np.ma.is_masked(row):
        fix = "Fill in what is masked, and give the mask as a second tensor"
        raise DataError(invalid(name, "masked numbers", "It takes finite numbers", where, fix))
    try:
        array = np.asarray(row)
        if array.dtype.kind not in "buif":
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(invalid(name, f"{row!r:.80}", "It takes an array of numbers", where)) from None
    array = array if array.dtype == np.float32 else array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        expected = "It takes finite numbers"
        fix = "Fill in what is missing, and say where in a second tensor (a mask)"
        raise DataError(invalid(name, f"{array[at]} at {at}", expected, where, fix))
    return array


def _other_shape(name: str, got: Any, id: Any, expected: Any, first: Any) -> DataError:
    fix = "Resize or pad images to one size; series of different lengths: dn.padded_series"
    return DataError(
        invalid(name, f"shape {tuple(got)}", f"It is {tuple(expected)} in subject {first}", f"subject {id}", fix)
    )


def _names(tensors: Tensors) -> str:
    return ", ".join(sorted(tensors)) or "none"
