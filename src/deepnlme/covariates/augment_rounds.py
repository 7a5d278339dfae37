"""What the data say about random effects, approximated anew around what covariates were found to say.

The first approximation is at the EBEs of the fit without covariates, shrunk towards zero. Where the model is not linear
in a random effect, the likelihood of sparse data looks different there from where the effect is, and what is learned
comes out too small. With the covariates learned (for each subject without it), eta = g(x) + r, the EBEs of r are shrunk
towards g(x) instead; the approximation around them is P_r and h_r = P_r y_r of r, and so P = P_r and h = h_r + P_r g
of eta.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deepnlme.covariates.augmented_model import Shift, augmented_model
from deepnlme.covariates.targets import EffectTargets, effect_targets
from deepnlme.data import Population, Records
from deepnlme.estimation import evaluate_ofv

SAME = 1e-3
"""Relative change of the information below which data say the same as before, as in a linear model."""
SETTLED = 0.02
"""Root mean square change of the expected effects, in standard deviations, below which there is no further round."""


def renewed(made: Any, people: Population, g: np.ndarray) -> EffectTargets | None:
    """The targets, approximated around expected effects; None if that changes nothing.

    Args:
        made: The `Augmented` so far.
        people: Those learned from, coded as the fit's.
        g: [S, k] their expected effects, learned without each of them: else a network that follows the noise would see
            it confirmed.
    """
    fit, old, places = made.base, made.targets, made.model.shift.places
    columns = tuple(f"expected_effect_{i}" for i in range(len(places)))
    omegas = {block.attribute: made.model.groups[block.attribute].omega for block in old.blocks}
    model = augmented_model(fit, Shift(places, None, columns), omegas, None)
    at = [old.names.index(name) for name in made.predicted]

    def expecting(population: Population, values: np.ndarray) -> Population:
        r = population.records
        new = {name: values[:, i][r.subject] for name, i in zip(columns, at, strict=True)}
        return population.with_records(Records(**dict(r.columns()), covariates={**r.covariates, **new}))

    own = people is fit.population
    options = replace(fit.options, checkpoint=None, held_out=None, covariance=None, progress=False)
    around = g if own else np.zeros((len(fit.population), g.shape[1]))
    here = evaluate_ofv(model, expecting(fit.population, around), fit.method, options=options)
    found = effect_targets(here, None if own else expecting(people, g))
    information = found.information + np.einsum("sij,sj->si", found.precision, g)
    pairs = (found.precision, old.precision), (information, old.information)
    if all(np.linalg.norm(a - b) <= SAME * np.linalg.norm(b) for a, b in pairs):
        return None
    return replace(old, precision=found.precision, information=information)


def settled(before: Any, after: Any) -> bool:
    """Whether two `Augmented` expect nearly the same effects."""
    change = (after.expected - before.expected) / np.sqrt(np.diag(after.targets.omega))
    return bool(np.sqrt(np.mean(change**2, axis=0)).max() < SETTLED)
