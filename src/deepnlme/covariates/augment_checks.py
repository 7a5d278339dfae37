"""Refusals of what `augment` is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepnlme.covariates.augment_inputs import Inputs
from deepnlme.covariates.augmented_model import NETWORK
from deepnlme.covariates.targets import EffectTargets
from deepnlme.errors import ModelError, invalid
from deepnlme.model import Model
from deepnlme.nn import NeuralNetwork


def chosen_effects(targets: EffectTargets, effects: Sequence[str] | None) -> tuple[int, ...]:
    """Positions of the effects to learn among those of the targets.

    Raises:
        ModelError: An unknown effect, none, or one twice.
    """
    if effects is None:
        return tuple(range(len(targets.names)))
    names = [effects] if isinstance(effects, str) else list(effects)
    unknown = [name for name in names if name not in targets.names]
    if unknown or not names or len(set(names)) < len(names):
        got = repr(unknown[0]) if unknown else repr(names)
        expected = f"The random effects between subjects are {', '.join(targets.names)}, each at most once"
        raise ModelError(invalid("effects", got, expected))
    return tuple(targets.names.index(name) for name in names)


def check_network(
    network: NeuralNetwork, inputs: Inputs, effects: list[str], penalties: Sequence[float] | None, folds: int
) -> None:
    """Refuse a network whose inputs and outputs are not those of the data.

    Raises:
        ModelError: Saying how many there are.
    """
    for what, size, names in (("inputs", network.inputs, inputs.names), ("outputs", network.outputs, effects)):
        if size != len(names):
            expected = f"There are {len(names)}: {', '.join(names)}"
            raise ModelError(invalid("network", f"{size} {what}", expected, fix=f"Declare {what}={len(names)}"))
    if penalties is not None and not folds and len(penalties) > 1:
        expected = "Choosing among penalties needs cross-validation"
        raise ModelError(invalid("folds", "0", expected, fix="Give one penalty, or folds=5"))


def check_prior(prior: str, model: Model, what: str | Sequence[str]) -> None:
    """Refuse a prior that there is not, and one around weights that are not estimated.

    Raises:
        ModelError: Saying what it is.
    """
    if prior not in ("declared", "learned"):
        raise ModelError(invalid("prior", repr(prior), 'It is "declared" or "learned"'))
    if prior == "declared":
        return
    network = model.networks.get(NETWORK)
    if network is None or network.prior is None or network.fixed:
        got = "a regressor" if network is None else "a fixed network" if network.fixed else "a network without a prior"
        expected = "It is that of a network with a penalty that is estimated"
        raise ModelError(
            invalid("prior", f'"learned" for {got}', expected, fix="Leave it out, or give prior=dn.L2(1.0)")
        )
    if what != "all" and NETWORK not in ([what] if isinstance(what, str) else what):
        expected = f'The weights of `{NETWORK}` are estimated with what="all", or where `what` names it'
        raise ModelError(
            invalid("prior", f'"learned" with what={what!r}', expected, fix='Leave it out, or give what="all"')
        )


def check_settings(penalties: Sequence[float] | None, folds: int, starts: int, rounds: int, subjects: int) -> None:
    """Refuse settings out of range.

    Raises:
        ModelError: Naming the setting.
    """
    numbers = [] if penalties is None else list(penalties)
    if penalties is not None and (not numbers or not all(np.isfinite(p) and p >= 0 for p in numbers)):
        raise ModelError(invalid("penalties", repr(penalties), "They are one or more numbers of at least 0"))
    if isinstance(folds, bool) or folds != int(folds) or folds == 1 or not 0 <= folds <= subjects:
        raise ModelError(invalid("folds", repr(folds), f"It is 0, or 2 to the number of subjects, {subjects}"))
    for name, value in (("starts", starts), ("rounds", rounds)):
        if isinstance(value, bool) or value != int(value) or value < 1:
            raise ModelError(invalid(name, repr(value), "It is a whole number of at least 1"))
