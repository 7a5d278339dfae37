"""From random effects to covariates: a fit without covariates becomes a model with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.covariates.augment_checks import check_network, check_prior, check_settings, chosen_effects
from deepnlme.covariates.augment_inputs import Inputs, check_counts, inputs_of
from deepnlme.covariates.augment_regression import Learned, Prediction, Task, learn_network, learn_regressor
from deepnlme.covariates.augment_rounds import renewed, settled
from deepnlme.covariates.augmented_model import Shift, around_weights, augmented_model, frozen
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
        expected: [S, k] effects expected from the covariates, of the subjects learned from.
    """

    model: Model
    base: Fit
    inputs: Inputs
    targets: EffectTargets
    omega: pd.DataFrame
    penalties: pd.DataFrame
    learned: Any
    expected: np.ndarray = field(repr=False)
    _predict: Prediction = field(repr=False)
    _columns: tuple[str, ...] = field(repr=False)

    @property
    def explained(self) -> pd.DataFrame:
        """OMEGA_BEFORE, OMEGA_AFTER and the share EXPLAINED of each effect's variance."""
        before, after = np.diag(self.targets.omega), np.diag(self.omega)
        table = {"OMEGA_BEFORE": before, "OMEGA_AFTER": after, "EXPLAINED": 1.0 - after / before}
        return pd.DataFrame(table, index=pd.Index(self.targets.names, name="EFFECT"))

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of the effects that are predicted; the others are left as they are."""
        places = self.model.shift.places  # type: ignore[attr-defined]
        return tuple(name or f"{attribute}{position + 1}" for attribute, name, position in places)

    def to_frame(self) -> pd.DataFrame:
        """One row per subject learned from: G_<effect>, as expected from covariates; Y_ and SE_Y_, as its data say.

        They say it without a prior on that effect, the others being N(g, Omega) with the residual Omega.
        """
        y, v = self.targets.given_others(self.expected, self.omega.to_numpy())
        columns: dict[str, Any] = {"ID": list(self.targets.ids)}
        for i, name in enumerate(self.targets.names):
            columns |= {f"G_{name}": self.expected[:, i], f"Y_{name}": y[:, i], f"SE_Y_{name}": np.sqrt(v[:, i])}
        return pd.DataFrame(columns)

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
        prior: str = "declared",
    ) -> Fit:
        """Estimate again, from where the model stands.

        Args:
            population: The people, by default those of the base fit.
            what: "omega" for the residual Omegas alone, those that were fixed included; "all" for everything that was
                estimated before and the network of the covariates, jointly; or names of parameters, networks
                ("covariate_effects" is that of the covariates) and groups of random effects ("omega" for all of them).
            method: By default that of the base fit.
            options: By default those of the base fit, without its checkpoint and with the people it kept aside.
            prior: Where the penalty pulls the weights of the covariates' network, if they are estimated: "declared",
                to where it did before, or "learned", as strongly to where they are now. The latter gives back some of
                what the penalty has taken from the effects (with `L2` it is a second step of iterated Tikhonov
                regularisation), and a joint fit stays near what was learned. AIC and BIC then count the weights as if
                they had been learned from other people: do not compare them with those of other fits where they were
                learned from the same.

        Returns:
            The fit; `predict` for new subjects takes their covariates alone (PRED, eta = 0).
        """
        model = self.released(what, prior)
        people = self.with_predictions(self.base.population if population is None else population)
        if options is None:  # a share kept aside was drawn before; it is not drawn again from the rest
            aside = self.base.held_out if population is None else self.base.options.held_out
            options = replace(self.base.options, checkpoint=None, held_out=aside)
        if isinstance(options.held_out, Population) and self._columns:
            options = replace(options, held_out=self.with_predictions(options.held_out))
        return fit_model(model, people, method or self.base.method, options=options)

    def released(self, what: str | Sequence[str] = "omega", prior: str = "declared") -> Model:
        """The model that `fit` estimates: fixed but for `what`, with this `prior`, both as there.

        ``dn.load_fit`` needs it for a fit that was saved.
        """
        augmented = [block.attribute for block in self.targets.blocks]
        check_prior(prior, self.model, what)
        whole = self.model if prior == "declared" else around_weights(self.model)
        if what == "all":
            return whole
        names = [what] if isinstance(what, str) else list(what)
        unknown = [name for name in names if name != "omega" and name not in self.model.declared]
        if unknown or not names:
            expected = f'It is "omega", "all", or some of {", ".join(self.model.declared)}'
            raise ModelError(invalid("what", repr(unknown[0]) if unknown else "nothing", expected))
        groups = list(dict.fromkeys([*augmented, *self.model.groups])) if "omega" in names else []
        omegas = [n for n in groups if n in augmented or self.model.groups[n].free_size]
        return frozen(whole, [n for n in names if n != "omega"], omegas)

    def __str__(self) -> str:
        lines = [
            f"{self.model}: {len(self.targets)} subjects, inputs {', '.join(self.inputs.names)}",
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
    rounds: int = 3,
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
        rounds: How often at most the random effects are learned. What the data say is a normal approximation around the
            EBEs; from the second time on around those that the covariates learned before (without the subject) lead to,
            so that effects are not too small where the model is not linear and data are sparse. It ends when little
            changes.
        seed: Of folds and weights.

    Raises:
        DataError: Covariates that are missing, constant, duplicated, unknown, or more than subjects.
        ModelError: A network that does not suit, a fit without random effects between subjects.
    """
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit, as dn.fit(...) returns"))
    people = fit.population if population is None else coded(population, fit.population)
    targets = effect_targets(fit, None if population is None else people)
    inputs = inputs_of(people, covariates)
    chosen = chosen_effects(targets, effects)
    check_settings(penalties, folds, starts, rounds, len(people))
    task = Task(inputs.matrix(people), targets, chosen, seed, starts)
    if isinstance(network, NeuralNetwork):
        check_network(network, inputs, [targets.names[j] for j in chosen], penalties, folds)
        check_counts(inputs, len(people), bool(folds) or network.prior is not None or bool(penalties))
        columns: tuple[str, ...] = ()
    else:
        if penalties is not None:
            expected = "They are those of a network; a regressor has settings of its own"
            raise ModelError(invalid("penalties", repr(penalties), expected, fix="Leave them out"))
        check_counts(inputs, len(people), True)
        columns = tuple(f"g_{targets.names[j]}" for j in chosen)

    def learned(task: Task) -> tuple[Augmented, np.ndarray]:
        if isinstance(network, NeuralNetwork):
            found = learn_network(task, network, penalties, folds)
        else:
            found = learn_regressor(task, network, folds or 5)
        return _made(fit, inputs, task.targets, chosen, found, columns, task.x), found.left_out

    made, left_out = learned(task)
    for _ in range(rounds - 1):
        again = renewed(made, people, left_out)
        if again is None:
            break
        before, (made, left_out) = made, learned(replace(task, targets=again))
        if settled(before, made):
            break
    return made


def _made(
    fit: Fit,
    inputs: Inputs,
    targets: EffectTargets,
    chosen: tuple[int, ...],
    found: Learned,
    columns: tuple[str, ...],
    x: np.ndarray,
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
    expected = found.predict(x)
    return Augmented(model, fit, inputs, targets, omega, found.table, found.what, expected, found.predict, columns)
