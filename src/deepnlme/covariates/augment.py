"""From random effects to covariates: a fit without covariates becomes a model with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.covariates.augment_inputs import Inputs, check_counts, inputs_of
from deepnlme.covariates.augment_regression import Learned, Prediction, Task, learn_network, learn_regressor
from deepnlme.covariates.augmented_model import Shift, augmented_model, frozen
from deepnlme.covariates.targets import EffectTargets, effect_targets
from deepnlme.data import Population, Records
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit, Method, Options
from deepnlme.estimation import fit as fit_model
from deepnlme.estimation.coding import coded
from deepnlme.model import Model
from deepnlme.nn import NeuralNetwork


@dataclass(frozen=True)
class Augmented:
    """A model whose random effects are what covariates leave unexplained.

    Attributes:
        model: An ordinary model, eta := g(covariates) + eta; its initial values are those of the fit, its Omega the
            residual one. ``dn.predict(model, people)``, ``dn.simulate(model, people)`` and ``dn.fit(model, people)``
            work as with any model.
        base: The fit it was made from.
        inputs: How covariates become inputs.
        targets: What the data said about the random effects.
        omega: Residual Omega of the effects between subjects.
        penalties: PENALTY, DOFV (-2 log L of the random effects of subjects left out, less that without covariates) and
            its standard error SE, one row per penalty tried; empty without cross-validation.
        learned: The network with its weights, or the fitted regressors, one per effect.
    """

    model: Model
    base: Fit
    inputs: Inputs
    targets: EffectTargets
    omega: pd.DataFrame
    penalties: pd.DataFrame
    learned: Any
    _predict: Prediction = field(repr=False)
    _columns: tuple[str, ...] = field(repr=False)

    @property
    def explained(self) -> pd.DataFrame:
        """OMEGA_BEFORE, OMEGA_AFTER and the share EXPLAINED of each effect's variance."""
        before, after = np.diag(self.targets.omega), np.diag(self.omega)
        table = {"OMEGA_BEFORE": before, "OMEGA_AFTER": after, "EXPLAINED": 1.0 - after / before}
        return pd.DataFrame(table, index=pd.Index(self.targets.names, name="EFFECT"))

    @property
    def start(self) -> dict[str, Any]:
        """Initial values by name, for ``dn.fit(start=...)``; those that the model declares already."""
        space = self.model.space
        values: dict[str, Any] = {n: self.model.parameters[n].value for n in space.free_theta}
        values |= {n: g.omega for n, g in self.model.groups.items() if g.free_size}
        return values | {n: self.model.networks[n].initial() for n in space.weights}

    def effects(self, population: Population | None = None) -> pd.DataFrame:
        """The random effects that are expected from the covariates alone: ID and G_<effect>, one row per subject."""
        people = self.base.population if population is None else coded(population, self.base.population)
        g = self._predict(self.inputs.matrix(people))
        return pd.DataFrame({"ID": list(people.ids), **{f"G_{n}": g[:, i] for i, n in enumerate(self.targets.names)}})

    def with_predictions(self, population: Population) -> Population:
        """The population as the model needs it: with a regressor, its predictions as covariates ``g_<effect>``.

        Labels of text covariates are coded as in the fit's population; one unknown to it is refused.
        """
        people = coded(population, self.base.population)
        if not self._columns:
            return people
        taken = [name for name in self._columns if name in people.covariates]
        if taken:
            expected = "The population has a covariate of that name already"
            raise DataError(invalid("population", repr(taken[0]), expected, fix="Give the people without it"))
        found = self.effects(people)
        r = people.records
        new = {name: found[f"G_{name[2:]}"].to_numpy(float)[r.subject] for name in self._columns}
        records = Records(**dict(r.columns()), covariates={**r.covariates, **new})
        return people.with_records(records)

    def fit(
        self,
        population: Population | None = None,
        what: str | Sequence[str] = "omega",
        method: Method | None = None,
        options: Options | None = None,
    ) -> Fit:
        """Estimate again, from where the model stands.

        Args:
            population: The people, by default those of the base fit.
            what: "omega" for the residual Omegas alone, those that were fixed included; "all" for everything that was
                estimated before and the network of the covariates, jointly; or names of parameters, networks
                ("covariate_effects" is that of the covariates) and groups of random effects ("omega" for all of them).
            method: By default that of the base fit.
            options: By default those of the base fit.

        Returns:
            The fit; `predict` for new subjects takes their covariates alone (PRED, eta = 0).
        """
        people = self.with_predictions(self.base.population if population is None else population)
        model = self._released(what)
        return fit_model(model, people, method or self.base.method, options=options or self.base.options)

    def _released(self, what: str | Sequence[str]) -> Model:
        augmented = [block.attribute for block in self.targets.blocks]
        if what == "all":
            return self.model
        names = [what] if isinstance(what, str) else list(what)
        unknown = [name for name in names if name != "omega" and name not in self.model.declared]
        if unknown or not names:
            expected = f'It is "omega", "all", or some of {", ".join(self.model.declared)}'
            raise ModelError(invalid("what", repr(unknown[0]) if unknown else "nothing", expected))
        groups = list(dict.fromkeys([*augmented, *self.model.groups])) if "omega" in names else []
        omegas = [n for n in groups if n in augmented or self.model.groups[n].free_size]
        return frozen(self.model, [n for n in names if n != "omega"], omegas)

    def __str__(self) -> str:
        lines = [
            f"{type(self.model).__name__}: {len(self.targets)} subjects, inputs {', '.join(self.inputs.names)}",
            "variance between subjects explained by covariates:",
            self.explained.to_string(float_format=lambda v: f"{v:.4g}"),
        ]
        if len(self.penalties):
            best = self.penalties.loc[self.penalties["DOFV"].idxmin()]
            chosen = "" if np.isnan(best["PENALTY"]) else f" (penalty {best['PENALTY']:g})"
            lines.append(f"subjects left out: -2 log L changes by {best['DOFV']:.2f}, SE {best['SE']:.2f}{chosen}")
            if best["DOFV"] >= 0:
                lines.append("for subjects left out the covariates explain nothing")
        return "\n".join(lines)


def augment(
    fit: Fit,
    network: Any,
    covariates: Sequence[str] | None = None,
    *,
    effects: Sequence[str] | None = None,
    population: Population | None = None,
    penalties: Sequence[float] | None = None,
    folds: int = 5,
    starts: int = 1,
    seed: int = 0,
) -> Augmented:
    """Learn the random effects of a fit from covariates, and make a model of it: eta := g(covariates) + eta.

    The regression maximises the likelihood of what each subject's data say about its random effects, shrinkage taken
    out (see `deepnlme.covariates.targets`): subjects with few data count less and bias nothing, and correlated effects
    are treated together. Covariates that change with time count with their value at the first record.

    Args:
        fit: A fit without covariates.
        network: `MLP` or `Network` with one output per effect, which becomes part of the model; or any regressor with
            ``fit(x, y, sample_weight)`` and ``predict(x)`` (scikit-learn), whose predictions become covariates of the
            people (`Augmented.with_predictions`).
        covariates: Names; all of the population by default. A text covariate with two labels is one input, one with
            more labels an input for each.
        effects: Random effects between subjects to learn; all by default.
        population: Other people to learn from; their random effects are found at the estimates of the fit.
        penalties: Strengths of `L2` to choose from by cross-validation over subjects; by default the prior of the
            network, or 0.1 to 30 if it has none.
        folds: Of the cross-validation, in which the residual Omega is found too; 0 for none (then the residual Omega
            is estimated together with the weights, and is too small for a network that follows the noise).
        starts: Trainings from different initial weights, the best of which is kept.
        seed: Of folds and weights.

    Raises:
        DataError: Covariates that are missing, constant, duplicated, unknown, or more than subjects.
        ModelError: A network that does not suit, a fit without random effects between subjects.
    """
    targets = effect_targets(fit, None if population is None else coded(population, fit.population))
    people = fit.population if population is None else coded(population, fit.population)
    inputs = inputs_of(people, covariates)
    chosen = _chosen(targets, effects)
    _check_settings(penalties, folds, starts, len(people))
    task = Task(inputs.matrix(people), targets, chosen, seed, starts)
    if isinstance(network, NeuralNetwork):
        _check_network(network, inputs, [targets.names[j] for j in chosen], penalties, folds)
        check_counts(inputs, len(people), bool(folds) or network.prior is not None or bool(penalties))
        found = learn_network(task, network, penalties, folds)
        columns: tuple[str, ...] = ()
    else:
        if penalties is not None:
            expected = "They are those of a network; a regressor has settings of its own"
            raise ModelError(invalid("penalties", repr(penalties), expected, fix="Leave them out"))
        check_counts(inputs, len(people), True)
        found = learn_regressor(task, network, folds or 5)
        columns = tuple(f"g_{targets.names[j]}" for j in chosen)
    return _made(fit, inputs, targets, chosen, found, columns)


def _made(
    fit: Fit,
    inputs: Inputs,
    targets: EffectTargets,
    chosen: tuple[int, ...],
    found: Learned,
    columns: tuple[str, ...],
) -> Augmented:
    places = [
        (block.attribute, label if fit.model.groups[block.attribute].names else None, position)
        for block in targets.blocks
        for label, position in zip(block.labels, block.position, strict=True)
    ]
    shift = Shift(tuple(places[j] for j in chosen), None if columns else inputs, columns)
    whole = fit.joint.space.omega_matrices(fit.free)
    omegas, at = {}, 0
    for block in targets.blocks:
        n = len(block.labels)
        matrix = whole[block.attribute].copy()
        matrix[np.ix_(block.position, block.position)] = found.omega[at : at + n, at : at + n]
        omegas[block.attribute] = matrix
        at += n
    network = None if columns else found.what
    names = list(targets.names)
    omega = pd.DataFrame(found.omega, index=names, columns=names)
    model = augmented_model(fit, shift, omegas, network)
    return Augmented(model, fit, inputs, targets, omega, found.table, found.what, found.predict, columns)


def _chosen(targets: EffectTargets, effects: Sequence[str] | None) -> tuple[int, ...]:
    if effects is None:
        return tuple(range(len(targets.names)))
    names = [effects] if isinstance(effects, str) else list(effects)
    unknown = [name for name in names if name not in targets.names]
    if unknown or not names or len(set(names)) < len(names):
        got = repr(unknown[0]) if unknown else repr(names)
        expected = f"The random effects between subjects are {', '.join(targets.names)}, each at most once"
        raise ModelError(invalid("effects", got, expected))
    return tuple(targets.names.index(name) for name in names)


def _check_network(
    network: NeuralNetwork, inputs: Inputs, effects: list[str], penalties: Sequence[float] | None, folds: int
) -> None:
    for what, size, names in (("inputs", network.inputs, inputs.names), ("outputs", network.outputs, effects)):
        if size != len(names):
            expected = f"There are {len(names)}: {', '.join(names)}"
            raise ModelError(invalid("network", f"{size} {what}", expected, fix=f"Declare {what}={len(names)}"))
    if penalties is not None and not folds and len(penalties) > 1:
        expected = "Choosing among penalties needs cross-validation"
        raise ModelError(invalid("folds", "0", expected, fix="Give one penalty, or folds=5"))


def _check_settings(penalties: Sequence[float] | None, folds: int, starts: int, subjects: int) -> None:
    numbers = [] if penalties is None else list(penalties)
    if penalties is not None and (not numbers or not all(np.isfinite(p) and p >= 0 for p in numbers)):
        raise ModelError(invalid("penalties", repr(penalties), "They are one or more numbers of at least 0"))
    if isinstance(folds, bool) or folds != int(folds) or folds == 1 or not 0 <= folds <= subjects:
        raise ModelError(invalid("folds", repr(folds), f"It is 0, or 2 to the number of subjects, {subjects}"))
    if isinstance(starts, bool) or starts != int(starts) or starts < 1:
        raise ModelError(invalid("starts", repr(starts), "It is a whole number of at least 1"))
