"""Where a fit starts: subjects kept aside, an earlier fit, several seeds, a fit without random effects."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any

import numpy as np

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.estimation.naive_pooled import NaivePooled
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.optimiser import optimise
from deepnlme.estimation.options import Options
from deepnlme.estimation.result import Fit
from deepnlme.estimation.watch import FitStatus
from deepnlme.joint import Joint
from deepnlme.model import Model
from deepnlme.nn import NeuralNetwork


def split(population: Population, options: Options) -> tuple[Population, Population | None]:
    """The subjects to fit and those kept aside, if any; a share is drawn by the seed."""
    aside = options.held_out
    if aside is None or isinstance(aside, Population):
        return population, aside
    count = round(aside * len(population))
    if not 0 < count < len(population):
        raise ModelError(
            f"Invalid `held_out`: got {aside:g}, which is {count} of {len(population)} subjects. Leave at least one on "
            "either side."
        )
    chosen = np.random.default_rng(options.seed).permutation(len(population))[:count]
    kept = np.setdiff1d(np.arange(len(population)), chosen)
    return population[kept], population[np.sort(chosen)]


def continued(model: Model, fit: Fit, strict: bool = False) -> tuple[Model, dict[str, Any]]:
    """The model in the units of an earlier fit's networks, and that fit's values of what both share and is free.

    Args:
        model: The model.
        fit: The earlier fit.
        strict: Refuse what is free in the model and not in the fit, instead of starting it at its declared value.

    Raises:
        ModelError: With `strict`.
    """
    declared, values, missing = dict(model.declared), {}, []
    for name, net in model.networks.items():
        found = _same_network(net, fit.model.networks.get(name))
        if found is not None:
            declared[name] = found
        if found is not None and not net.fixed:
            values[name] = fit.weights[name]
        elif not net.fixed:
            missing.append(f"the network {name} ({net.describe()}, in these units)")
    for name, declaration in model.parameters.items():
        if not declaration.fixed and name in fit.estimates:
            values[name] = fit.estimates[name]
        elif not declaration.fixed:
            missing.append(name)
    omega = fit.joint.space.omega_matrices(fit.free)
    for name, group in model.groups.items():
        other = fit.model.groups.get(name)
        if group.fixed.all():
            continue
        if other is None or other.labels(name) != group.labels(name) or (strict and other.block and not group.block):
            missing.append(f"the Omega of {name}")
            continue
        matrix = omega[name] if group.block else np.diag(np.diag(omega[name]))
        matrix[np.ix_(group.fixed, group.fixed)] = group.omega[np.ix_(group.fixed, group.fixed)]
        values[name] = matrix
    if strict and missing:
        raise ModelError(
            f"Invalid `at`: the fit has no values for {', '.join(missing)}. Declare the model as it was fitted."
        )
    new = copy.copy(model)
    new.declared = declared
    return new, values


def _same_network(net: NeuralNetwork, other: NeuralNetwork | None) -> NeuralNetwork | None:
    """The network in the units of the other; None if that one's weights would not mean the same in it."""
    if other is None or other.size != net.size or other.describe() != net.describe():
        return None
    filled = net.scaling.filled(**vars(other.scaling))
    return net.scaled(filled) if filled == other.scaling else None


def initial_points(objective: MarginalObjective, u: np.ndarray, options: Options) -> list[np.ndarray]:
    """The given point and those drawn around it: with other weights where there are networks."""
    generator = np.random.default_rng(options.seed)
    space = objective.joint.space
    points = [u]
    for _ in range(options.starts - 1):
        if space.weights:
            points.append(space.with_weights(u, generator))
        else:
            points.append(u + options.start_spread * generator.standard_normal(len(u)))
    if options.pooled_first and objective.method.inner:
        began = time.perf_counter()
        points = [pooled(objective.joint, point, options.since(began)) for point in points]
    return points


def pooled(joint: Joint, u: np.ndarray, options: Options) -> np.ndarray:
    """A fit without random effects, as a start.

    Weights that the data say nothing about without random effects, as those of an input that is a random effect, keep
    their initial values: the penalty alone would make them zero, and random effects could not come in any more.
    """
    model = joint.model.replace(**{n: g.as_fixed() for n, g in joint.model.groups.items()})
    alone = Joint(model, joint.population)
    theta, rest = len(joint.space.free_theta), joint.space.structural
    index = np.r_[0:theta, rest : joint.space.size]
    objective = MarginalObjective(alone, NaivePooled(), device=options.device, budget=options.max_numbers)
    found = optimise(objective, u[index], replace(options, checkpoint=None))
    if found.status is FitStatus.INTERRUPTED:
        raise KeyboardInterrupt("interrupted in the fit without random effects")
    silent = found.evaluation.gradient[0] == objective.penalty_gradient(found.u)
    silent[:theta] = False
    out = u.copy()
    out[index] = np.where(silent, u[index], found.u)
    return out
