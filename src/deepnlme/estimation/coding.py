"""Text covariates of other people, coded as in the population that a model was fitted to."""

from __future__ import annotations

import numpy as np

from deepnlme.data import Population, Records
from deepnlme.errors import DataError, invalid


def coded(population: Population, like: Population) -> Population:
    """The population with its text covariates coded as those that the model was fitted to.

    Raises:
        DataError: Labels that the fit's population has not; a tensor of another shape.
    """
    if population is like:
        return population
    for name, values in population.tensors.items():
        known = like.tensors.get(name, values).shape[1:]
        if values.shape[1:] != known:
            got, size = f"shape {values.shape[1:]}", "Resize or pad it to that size"
            raise DataError(invalid(name, got, f"The tensor of the fit's population is {known}", fix=size))
    fix = "Read it with covariates=fit.population.reading(), or leave the covariate out if the model does not read it"
    covariates, categories = dict(population.records.covariates), dict(population.categories)
    for name in like.covariates:
        ours, theirs = population.categories.get(name), like.categories.get(name)
        if name not in covariates or ours == theirs:
            continue
        if ours is None or theirs is None:
            got, expected = ("numbers", f"texts ({', '.join(theirs)})") if theirs else ("texts", "numbers")
            raise DataError(invalid(name, got, f"The fit's population has {expected}", fix=fix))
        present = [ours[code] for code in np.unique(covariates[name]).astype(int)]
        unknown = [label for label in present if label not in theirs]
        if unknown:
            raise DataError(invalid(name, repr(unknown[0]), f"The fit's population has {', '.join(theirs)}", fix=fix))
        codes = np.array([theirs.index(label) if label in theirs else 0 for label in ours], dtype=float)
        covariates[name] = codes[covariates[name].astype(int)]
        categories[name] = theirs
    records = Records(**dict(population.records.columns()), covariates=covariates)
    return population.with_records(records, categories)
