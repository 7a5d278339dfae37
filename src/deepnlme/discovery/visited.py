"""The region that the data visited: the inputs that a network saw, and its outputs."""

from __future__ import annotations

from keyword import iskeyword
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.discovery.listening import Followed
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.posterior import own_posterior

COLUMNS = ("ID", "TIME", "OBSERVED", "CALL", "PART")
"""What the table says of every place, besides inputs and outputs."""
SUBJECTS = 200
"""Subjects at a time."""


def visited(fit: Fit, network: str, names: list[str] | None = None, *, points: int = 101) -> pd.DataFrame:
    """What a network saw in the subjects of a fit, at their EBEs, and what it returned.

    Every subject is followed over `points` times from its first record to its last observation, and at the times of
    its observations. Calls whose inputs are numbers, as in ``theta.effect(0.0)``, are left out.

    Args:
        fit: The fit.
        network: Its name.
        names: Of the inputs, in the order of the calls; x1, x2, ... by default.
        points: Times of each subject, besides those of the observations.

    Returns:
        One row per call and place: ID, TIME (NaN for what is constant in time), OBSERVED (whether it was then), CALL
        (the number of the call), PART (the method of the model that called), the inputs by name, OUTPUT (or OUTPUT1,
        OUTPUT2, ...).

    Raises:
        ModelError: Not a fit, no such network, names of another number.
    """
    check_network(fit, network)
    declared = fit.model.networks[network]
    inputs = check_names(names, declared.inputs, network)
    if isinstance(points, bool) or not isinstance(points, int | np.integer) or points < 2:
        raise ModelError(invalid("points", repr(points), "It is a whole number of at least 2"))
    modes = own_posterior(fit).mode
    tables = []
    for first in range(0, len(fit.population), SUBJECTS):
        part = slice(first, min(first + SUBJECTS, len(fit.population)))
        tables += Followed(fit, network, fit.population[part], modes[part], points).tables(inputs)
    if not tables:
        fix = "Formulas are found for functions of states, parameters, covariates or time"
        raise ModelError(invalid("network", repr(network), "The model calls it with numbers only, or never", fix=fix))
    return pd.concat(tables, ignore_index=True)


def check_network(fit: Any, network: Any) -> None:
    """Refuse what is no fit of a model with that network.

    Raises:
        ModelError: It is not.
    """
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit", fix="Use the result of dn.fit"))
    known = fit.model.networks
    if not isinstance(network, str) or network not in known:
        raise ModelError(
            invalid("network", repr(network), f"The networks of the model are {', '.join(known) or 'none'}")
        )


def check_names(names: Any, count: int, network: str) -> tuple[str, ...]:
    """Names of the inputs.

    Raises:
        ModelError: Another number, the same twice, or not such as a formula can have.
    """
    if names is None:
        return tuple(f"x{i + 1}" for i in range(count))
    given = (names,) if isinstance(names, str) else tuple(names)
    if len(given) != count or len(set(given)) != count:
        expected = f"The network `{network}` has {count} inputs, each needs a name of its own"
        raise ModelError(invalid("names", repr(names), expected))
    wrong = [n for n in given if not (isinstance(n, str) and n.isidentifier()) or iskeyword(n)]
    if wrong:
        raise ModelError(invalid("names", repr(wrong[0]), "Names are words, such as cp"))
    taken = [n for n in given if n in COLUMNS or n.startswith("OUTPUT")]
    if taken:
        raise ModelError(
            invalid("names", repr(taken[0]), "A column of the table has that name", fix="Use small letters")
        )
    return given
