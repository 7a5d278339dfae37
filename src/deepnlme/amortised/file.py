"""Encoders on disk: weights, and what the model must have in common with the one of the training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from deepnlme.errors import ModelError, invalid
from deepnlme.simulation.design import Setting


def basis(setting: Setting) -> dict[str, dict[str, Any]]:
    """What a model's predictions rest on besides its code and its free parameters, as JSON has it.

    Returns:
        "fixed": fixed parameters, Omegas and weights of fixed networks, numbers by name. "units": of the networks'
        inputs and outputs, which a model without a fit takes from its people. "codes": labels of the people's text
        covariates in the order of their codes, None for numbers.
    """
    model, space, population = setting.model, setting.probe.space, setting.population
    fixed = {name: [float(p.value)] for name, p in model.parameters.items() if p.fixed}
    omegas = space.omega_matrices(setting.free)
    fixed |= {f"omega of {name}": np.asarray(omegas[name]).ravel().tolist() for name in model.groups}
    fixed |= {name: net.initial().tolist() for name, net in model.networks.items() if name not in space.weights}
    units = {name: _units(net.scaling) for name, net in model.networks.items()}
    labels = {name: population.categories.get(name) for name in population.records.covariates}
    codes = {name: None if own is None else list(own) for name, own in labels.items()}
    return {"fixed": fixed, "units": units, "codes": codes}


def check_basis(setting: Setting, stored: dict[str, dict[str, Any]]) -> None:
    """Refuse a model, or people, by which an encoder would read something else than in training.

    Args:
        setting: The model, and the people that it was given with.
        stored: The `basis` of the training.

    Raises:
        ModelError: Names what differs.
    """
    here = basis(setting)
    for name in sorted(here["fixed"].keys() | stored["fixed"].keys()):
        if not _close(here["fixed"].get(name, []), stored["fixed"].get(name, [])):
            expected = "The encoder was trained at other fixed values"
            raise ModelError(invalid("source", f"another `{name}`", expected, fix="Give the fit or model as it was"))
    for name, labels in stored["codes"].items():
        own = here["codes"].get(name, labels)
        if own != labels:
            got = f"{name} as {', '.join(own) if own else 'numbers'}"
            expected = f"It was {', '.join(labels) if labels else 'numbers'} in the training"
            raise ModelError(invalid("people", got, expected, fix="Give the people of the training"))
    for name, units in stored["units"].items():
        if not _close(here["units"].get(name, []), units):
            got = f"people by whom `{name}` has other units"
            expected = "A network without units takes those of the people that it is first used with"
            raise ModelError(invalid("people", got, expected, fix="Give the people of the training"))


def _units(scaling: Any) -> list[float]:
    """All numbers of a network's units, one after the other."""
    return [v for field in dataclasses.fields(scaling) for v in getattr(scaling, field.name) or ()]


def _close(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-8, atol=1e-12)
