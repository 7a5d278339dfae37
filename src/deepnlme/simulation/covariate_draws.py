"""Covariates of virtual people: one by one, by a copula, or from rows of a data set."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtr

from deepnlme.data import Population
from deepnlme.data.frame import check_covariate_names
from deepnlme.errors import DataError, invalid
from deepnlme.simulation.distributions import Truncated, check_label, margin

_TINY = 2.0**-54
"""Least uniform number, so that no quantile is infinite."""


class Copula:
    """Correlated covariates: a Gaussian copula with any margins.

    z ~ N(0, correlation), u = Phi(z), value = F^-1(u), so every covariate keeps its own distribution. `correlation` is
    that of the latent normals z. Between normal covariates it is their correlation, between log-normal ones that of
    their logarithms. In general Spearman's rank correlation of two continuous covariates is 6/pi asin(correlation/2).
    The levels of a text covariate are in the order of the dict: a high z means a late level.

    Args:
        margins: Distribution of each covariate by name, as in `virtual_population` (no sequences, no functions).
        correlation: Correlation matrix in the order of `margins` ([k, k]), or a DataFrame with their names.

    Raises:
        DataError: It is no correlation matrix of these covariates, or not positive definite.

    Example:
        >>> from deepnlme.observation import LogNormal, Normal
        >>> body = Copula({"wt": LogNormal(70, 0.2), "ht": Normal(172, 9)}, correlation=[[1, 0.5], [0.5, 1]])
        >>> body.names
        ('wt', 'ht')
    """

    def __init__(self, margins: Mapping[str, Any], correlation: Any):
        if not isinstance(margins, Mapping) or not margins:
            raise DataError(invalid("margins", repr(margins), "It is a dict of distributions by name"))
        self.margins = {str(name): margin(f"covariates[{name!r}]", spec) for name, spec in margins.items()}
        self.names = tuple(self.margins)
        self.correlation = _correlation(self.names, correlation)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Values or codes of n people ([k, n])."""
        z = rng.standard_normal((n, len(self.names))) @ np.linalg.cholesky(self.correlation).T
        u = np.clip(ndtr(z), _TINY, 1.0 - 2.0**-53)
        return np.stack([one.quantile(u[:, i]) for i, one in enumerate(self.margins.values())])


@dataclass(frozen=True)
class Resampled:
    """Covariates of real people: each virtual person gets all covariates of one person, drawn with replacement.

    Whatever relation the covariates have is kept, and no value occurs that was not seen.

    Args:
        source: A population (a covariate that changes counts with its value at the subject's first record), or a
            DataFrame with one row per person (with an `ID` column: the first row of each person counts).
        columns: The covariates to take; all by default.

    Raises:
        DataError: There is no such covariate, or a value is missing.
    """

    source: Population | pd.DataFrame
    columns: Sequence[str] | None = None
    names: tuple[str, ...] = field(init=False, repr=False)
    values: np.ndarray = field(init=False, repr=False)
    labels: dict[str, tuple[str, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.source, Population | pd.DataFrame):
            raise DataError(invalid("source", type(self.source).__name__, "It is a Population or a DataFrame"))
        if isinstance(self.columns, str):
            fix = f"Write columns=[{self.columns!r}]"
            raise DataError(invalid("columns", repr(self.columns), "It is a list of names", fix=fix))
        table = _baseline(self.source)
        names = tuple(table.columns) if self.columns is None else tuple(self.columns)
        for name in names:
            if name not in table.columns:
                expected = f"The covariates of the source are {', '.join(map(str, table.columns)) or 'none'}"
                raise DataError(invalid("columns", repr(name), expected))
        if not names or not len(table):
            raise DataError(invalid("source", "no covariates", "There is something to draw from"))
        coded = [_coded(name, pd.Series(table[name])) for name in names]
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "values", np.stack([values for values, _ in coded]))
        object.__setattr__(self, "labels", {n: c[1] for n, c in zip(names, coded, strict=True) if c[1]})

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Values or codes of n people ([k, n])."""
        return self.values[:, rng.integers(self.values.shape[1], size=n)]


@dataclass(frozen=True)
class People:
    """Covariates of n people.

    Attributes:
        n: How many.
        values: Value, or code of a text, by covariate (float64 [n] each).
        labels: Texts of the text covariates; code = position.
    """

    n: int
    values: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def take(self, index: np.ndarray) -> People:
        """Some of these people, or the same more than once (int64 [m])."""
        return People(len(index), {name: values[index] for name, values in self.values.items()}, self.labels)

    def shown(self) -> dict[str, np.ndarray]:
        """The values by name, texts as texts."""
        return {
            name: np.array(self.labels[name])[values.astype(np.int64)] if name in self.labels else values
            for name, values in self.values.items()
        }


def draw_people(n: int, covariates: Any, seed: int) -> People:
    """Covariates of n people.

    Each covariate has a stream of random numbers of its own, found from the seed and its name: it does not change when
    others are added, and the first people stay the same when there are more.

    Args:
        n: Number of people.
        covariates: A dict by name, a `Copula`, a `Resampled`, or a list of those.
        seed: Seed of the draws.

    Raises:
        DataError: A specification that is none, or a value that is missing.
    """
    people = People(n)
    for part in covariates if isinstance(covariates, list | tuple) else [covariates or {}]:
        if isinstance(part, Mapping):
            for name, spec in part.items():
                _add(people, name, *_one(name, spec, people, seed))
        elif isinstance(part, Copula | Resampled):
            drawn = part.draw(n, _stream(seed, "|".join(part.names)))
            for i, name in enumerate(part.names):
                labels = part.margins[name].labels if isinstance(part, Copula) else part.labels.get(name, ())
                _add(people, name, drawn[i], labels)
        else:
            expected = "It is a dict of distributions by name, dn.Copula, dn.Resampled, or a list of those"
            raise DataError(invalid("covariates", repr(part), expected))
    return people


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _add(people: People, name: Any, values: np.ndarray, labels: tuple[str, ...]) -> None:
    check_covariate_names((*people.values, name))
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        where = f"person {bad[0] + 1} of {people.n}"
        raise DataError(invalid(f"covariates[{name!r}]", values[bad[0]], "A covariate is a finite number", where))
    people.values[name] = values
    if labels:
        people.labels[name] = labels


def _one(name: Any, spec: Any, people: People, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values of one covariate, or codes and the labels of a text."""
    what = f"covariates[{name!r}]"
    distribution = hasattr(spec, "cdf") or isinstance(spec, Truncated | torch.distributions.Distribution)
    if not distribution and callable(spec):
        spec = _computed(what, spec, people)
    elif isinstance(spec, range):
        spec = list(spec)
    if isinstance(spec, list | tuple | np.ndarray | pd.Series | pd.Categorical | torch.Tensor):
        if isinstance(spec, torch.Tensor):
            spec = spec.detach().cpu().numpy()
        values = pd.Series(spec) if np.ndim(spec) == 1 else None
        if values is None or len(values) != people.n:
            got = f"shape {np.shape(spec)}" if values is None else f"{len(values)} values"
            raise DataError(invalid(what, got, f"There is one value for each of {people.n} people"))
        return _coded(name, values.reset_index(drop=True))
    one = margin(what, spec)
    u = np.maximum(_stream(seed, str(name)).random(people.n), _TINY)
    return one.quantile(u), one.labels


def _computed(what: str, function: Any, people: People) -> Any:
    known, n = people.shown(), people.n
    try:
        result = function(known)
    except KeyError as error:
        if not error.args or error.args[0] in known:
            raise
        expected = f"The covariates before it are {', '.join(known) or 'none'}"
        fix = "Put it before this one, or correct the spelling"
        raise DataError(invalid(what, f"a function that reads {error.args[0]!r}", expected, fix=fix)) from None
    if np.ndim(result) == 0:
        return np.full(n, result)
    if np.ndim(result) != 1:
        raise DataError(
            invalid(what, f"shape {np.shape(result)}", f"The function gives one value for each of {n} people")
        )
    return result


def _coded(name: Any, column: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as numbers, or as codes with their labels in order of the text."""
    what = f"covariates[{name!r}]"
    if pd.api.types.is_numeric_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(invalid(what, values[bad[0]], "A covariate is a finite number", f"person {bad[0] + 1}"))
        return values, ()
    texts = column.to_numpy(dtype=object)
    kinds = {isinstance(text, str) for text in texts}
    if kinds != {True}:
        i = next(i for i, text in enumerate(texts) if not isinstance(text, str))
        expected = "The values of a covariate are all texts or all numbers, none missing"
        raise DataError(invalid(what, repr(texts[i]), expected, f"person {i + 1}"))
    labels, codes = np.unique(texts.astype(str), return_inverse=True)
    return codes.astype(np.float64), tuple(check_label(what, str(label)) for label in labels)


def _baseline(source: Population | pd.DataFrame) -> pd.DataFrame:
    """One row per person."""
    if isinstance(source, pd.DataFrame):
        persons = next((c for c in source.columns if str(c).upper() == "ID"), None)
        if persons is None:
            return source
        return source.drop_duplicates(persons).drop(columns=persons)
    first = source.starts[:-1]
    columns: dict[str, Any] = {}
    for name, values in source.records.covariates.items():
        labels = source.categories.get(name)
        columns[name] = np.array(labels, dtype=object)[values[first].astype(int)] if labels else values[first]
    return pd.DataFrame(columns)


def _correlation(names: tuple[str, ...], given: Any) -> np.ndarray:
    k = len(names)
    if isinstance(given, pd.DataFrame):
        if set(map(str, given.index)) != set(names) or set(map(str, given.columns)) != set(names):
            expected = f"Its rows and columns are {', '.join(names)}"
            raise DataError(invalid("correlation", f"columns {', '.join(map(str, given.columns))}", expected))
        given = given.loc[list(names), list(names)]
    try:
        matrix = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(invalid("correlation", repr(given), f"It is a {k} by {k} matrix of numbers")) from None
    if matrix.shape != (k, k):
        raise DataError(invalid("correlation", f"shape {matrix.shape}", f"It is {k} by {k}: {', '.join(names)}"))
    if not np.isfinite(matrix).all() or not np.allclose(np.diag(matrix), 1.0) or not np.allclose(matrix, matrix.T):
        expected = "A correlation matrix is symmetric, with ones on the diagonal"
        raise DataError(invalid("correlation", matrix.tolist(), expected))
    least = float(np.linalg.eigvalsh(matrix)[0])
    if least <= 1e-12:
        expected = "A correlation matrix of a copula is positive definite"
        fix = "These correlations contradict each other, or one covariate follows from the others: make them smaller"
        raise DataError(invalid("correlation", f"a matrix whose least eigenvalue is {least:.2g}", expected, fix=fix))
    return matrix
