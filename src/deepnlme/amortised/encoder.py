"""Amortised inference: a network that reads a person's data and says at once what its random effects are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepnlme.amortised.file import basis, check_basis
from deepnlme.amortised.network import SetEncoder
from deepnlme.amortised.posterior import Encoded, Whitened, encoded, resampled, warn_of_clock
from deepnlme.amortised.training import Plan, trained
from deepnlme.data import Population
from deepnlme.data.dense import times_by_subject
from deepnlme.data.events import occasion_numbers
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.coding import coded
from deepnlme.estimation.individual_curves import Intervals, predicted
from deepnlme.estimation.individuals import block_cholesky, effect_names
from deepnlme.estimation.storage import write
from deepnlme.joint import Joint, Places
from deepnlme.model import Model
from deepnlme.simulation.design import Setting

FORMAT = "deepnlme encoder 1"
PROPOSALS = 1000
"""Draws that are weighted, for each subject."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """q(eta | data) = N(m, C) by a network, for people of the model that it was trained on.

    Attributes:
        setting: The model with its parameters, and the people whose designs it was trained on.
        occasions: Number of occasions that it knows.
        until: Last time of an observation that it looks at; infinite for all.
        network: The network.
        history: EPOCH TRAIN VALIDATION RATE: the mean of -log q(z | data) of simulated subjects, z the whitened random
            effects. The weights are those of the least VALIDATION; at epoch 0 it is that of the linear posterior.
        seed: Of everything random in training.
    """

    setting: Setting
    occasions: int
    until: float
    network: SetEncoder
    history: pd.DataFrame
    seed: int

    def posterior(self, population: Population, *, correct: bool = False, draws: int = PROPOSALS) -> pd.DataFrame:
        """What each person's data say about its random effects.

        Args:
            population: People; of their observations those at or before `until` are read, and the doses and covariates
                that the model needs to expect them.
            correct: Weight draws from q by the true joint density, p(y, eta) / q(eta | y). ETA_ and SD_ are then those
                of the weighted draws, and ESS says how far q was from the posterior.
            draws: Draws of each person, with `correct`.

        Returns:
            One row per person: ID, OBSERVATIONS read, ETA_ (posterior mean) and SD_ of every random effect; with
            `correct` also ESS, the effective sample size (sum w)^2 / sum w^2, of so many draws.

        Raises:
            DataError: People that do not fit the model, censored observations, more occasions than in training.

        Warns:
            With `correct`, of people whose ESS is below a tenth of the draws: trust neither q nor the correction.
        """
        return self._encoded(population, correct, draws).to_frame()

    def encode(self, population: Population, *, correct: bool = False, draws: int = PROPOSALS) -> Encoded:
        """The same as arrays, with full covariance matrices."""
        return self._encoded(population, correct, draws)

    def predict(
        self,
        population: Population,
        times: Any = None,
        *,
        correct: bool = False,
        level: float = 0.95,
        draws: int = 200,
        residual: bool = True,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Predict people, later observations too, from what is known until `until`.

        Args:
            population: People.
            times: None for the records with EVID=0, or times for all, or a dict id -> times.
            correct: Draw from the weighted draws instead of from q.
            level: Probability inside the intervals.
            draws: Draws of each person's random effects; 0 for no intervals.
            residual: Also intervals of what is observed.
            seed: Of the draws.

        Returns:
            The columns of `Fit.predict`: PRED at eta = 0, from the covariates alone, and IPRED at the posterior mean;
            IPRED_LOW, IPRED_HIGH and DV_LOW, DV_HIGH.
        """
        intervals = Intervals(level, draws, residual, seed)
        people, found = self._read(population, PROPOSALS if correct else 0)
        found.warn(people.ids, stacklevel=3)
        if isinstance(times, Mapping):
            who = np.flatnonzero([len(grid) > 0 for grid in times_by_subject(people, times)])
            people, found = people[who], found.take(who)
        setting = self.setting
        places = Places.find(people, setting.probe, times)
        source = SimpleNamespace(model=setting.model, free=setting.free, options=SimpleNamespace(device=setting.device))
        own: Any = resampled(found, draws, seed) if correct else found.normal()
        columns = predicted(source, places, own, self.occasions, intervals)
        r, rows = places.population.records, places.rows
        data: dict[str, Any] = {"ID": [people.ids[i] for i in r.subject[rows]], "TIME": r.time[rows]}
        if len(setting.probe.endpoints) > 1:
            data["DVID"] = r.endpoint[rows].astype(object)
        if places.source is not None:
            given = people.records
            data["DV"] = np.where(given.observed, given.dv, np.nan)[places.source[rows]]
        return pd.DataFrame(data | {name: column[rows] for name, column in columns.items()})

    def save(self, path: str | Path) -> None:
        """Write to one .npz file: weights as arrays, the rest as JSON, no code."""
        target = Path(path)
        if target.suffix != ".npz":
            raise ModelError(invalid("path", str(path), "The file's name ends with .npz"))
        space = self.setting.probe.space
        head = {
            "format": FORMAT,
            "architecture": self.network.architecture,
            "names": list(space.names),
            "effects": list(effect_names(self._probe())),
            "occasions": self.occasions,
            "until": None if np.isinf(self.until) else self.until,
            "seed": self.seed,
            "basis": basis(self.setting),
        }
        arrays = {f"weight|{k}": v.detach().numpy() for k, v in self.network.state_dict().items()}
        arrays |= {f"history|{c}": self.history[c].to_numpy() for c in self.history}
        write(target, head, arrays | {"free": self.setting.free})

    def __repr__(self) -> str:
        until = "" if np.isinf(self.until) else f" until {self.until:g}"
        name = type(self.setting.model).__name__
        return f"<Encoder of {name}{until}: {', '.join(effect_names(self._probe()))}>"

    def _probe(self) -> Joint:
        setting = self.setting
        return Joint(setting.model, setting.population[:1], occasions=self.occasions)

    def _encoded(self, population: Population, correct: bool, draws: int) -> Encoded:
        if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
            raise ModelError(invalid("draws", repr(draws), "It is a whole number of at least 1"))
        people, found = self._read(population, draws if correct else 0)
        found.warn(people.ids, stacklevel=4)
        joint = Joint(self.setting.model, people[:1], occasions=self.occasions)
        return found.natural(tuple(people.ids), effect_names(joint), block_cholesky(joint, self.setting.free))

    def _read(self, population: Any, draws: int) -> tuple[Population, Whitened]:
        """People as the model knows them, and what the network says of them."""
        if not isinstance(population, Population):
            got, fix = type(population).__name__, "Use dn.Population([subject])"
            raise DataError(invalid("population", got, "It is a Population", fix=fix))
        people = coded(population, self.setting.population)
        warn_of_clock(people, self.until, stacklevel=5)
        if people.occasions and self.occasions < int(occasion_numbers(people.records).max()) + 1:
            expected = f"It was trained on people with {self.occasions}"
            raise DataError(
                invalid("population", "a person with more occasions", expected, fix="Train it on such people")
            )
        return people, encoded(self.setting, self.network, people, self.occasions, self.until, draws)


def amortise(
    source: Fit | Model,
    people: Population,
    times: Any = None,
    *,
    until: float | None = None,
    examples: int = 20_000,
    thin: float = 0.25,
    width: int = 48,
    epochs: int = 30,
    learning_rate: float = 1e-2,
    seed: int = 0,
    progress: bool = True,
) -> Encoder:
    """Train a network to read the random effects off a person's data: amortised inference.

    The model makes its own training data: people with the designs of `people`, random effects from N(0, Omega),
    observations with their residuals. The network q(eta | data) = N(m, C) maximises the mean of log q(eta | data) over
    them (neural posterior estimation); with a network that is flexible enough that gives m and C of the true posterior.
    New people then cost an evaluation of the network and 2k + 1 of the model, nothing is searched for.

    Args:
        source: A fit, or a model at its initial values (such as ``dn.augment(...).model``, whose eta is what covariates
            leave unexplained).
        people: Whose doses, covariates and times of observation are resampled: those of a study, or a
            `virtual_population`. What they have observed is not looked at.
        times: None for the records with EVID=0, or other times, for all people or as a dict id -> times.
        until: Read observations up to this time only (clock of the data); None for all.
        examples: Simulated subjects.
        thin: Share of them that lose some of their observations, so that other people may have fewer.
        width: Of the hidden layers.
        epochs: Passes through the examples; the best one by a tenth of them kept aside counts.
        learning_rate: Of Adam; it falls to zero along a cosine.
        seed: Of everything random.
        progress: Show a progress bar.

    Returns:
        The encoder.

    Raises:
        ModelError: A source without random effects, settings out of range.
        DataError: People without a time of observation until then.

    Source: Papamakarios and Murray, NeurIPS 2016; Hackenberg et al., Biometrical Journal 64 (2022) 1426, for individual
    parameters of differential equations from baseline and few early data.
    """
    setting = _setting(source, people)
    plan = Plan(times, np.inf if until is None else until, examples, thin, width, epochs, learning_rate, seed, progress)
    network, history = trained(setting, plan)
    return Encoder(setting, _occasions(setting.population), plan.until, network, history, seed)


def load_encoder(path: str | Path, source: Fit | Model, people: Population | None = None) -> Encoder:
    """Read what `Encoder.save` wrote; the fit or model is given again and checked.

    Args:
        path: The .npz file.
        source: The fit or model that it was trained for.
        people: The people it was trained on; those of a fit by default.

    Raises:
        DataError: It is no such file.
        ModelError: Another model or other values of its parameters; people whose text covariates have other codes, or
            by whom networks get other units.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop("head")))
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}")
        network = SetEncoder(**head["architecture"]).double()
        weights = {k.partition("|")[2]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weight|")}
        network.load_state_dict(weights)
        history = pd.DataFrame({k.partition("|")[2]: v for k, v in arrays.items() if k.startswith("history|")})
        occasions, until, seed = int(head["occasions"]), head["until"], int(head["seed"])
        names, effects, free, stored = head["names"], head["effects"], arrays["free"], head["basis"]
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DataError(invalid("path", str(path), f"It is no file of Encoder.save ({error})")) from error
    if people is None and not isinstance(source, Fit):
        fix = "dn.load_encoder(path, model, people)"
        raise ModelError(invalid("people", "None", "A model needs the people it was trained on", fix=fix))
    setting = _setting(source, source.population if people is None else people)  # type: ignore[union-attr]
    found = Encoder(setting, occasions, np.inf if until is None else until, network.eval(), history, seed)
    here = setting.probe.space
    same = list(here.names) == names and list(effect_names(found._probe())) == effects
    if not same or here.size != len(free) or not np.allclose(setting.free, free, rtol=1e-8, atol=1e-10):
        what = "other values of its parameters" if same and here.size == len(free) else f"{', '.join(here.names)}"
        expected = f"The encoder was trained for a model with {', '.join(names)}, at values of its own"
        raise ModelError(invalid("source", what, expected, fix="Give the fit or model as it was"))
    check_basis(setting, stored)
    return found


def _setting(source: Any, people: Any) -> Setting:
    if not isinstance(people, Population):
        fix = "Use those of a study, or dn.virtual_population(...)"
        raise DataError(invalid("people", type(people).__name__, "It is a Population", fix=fix))
    setting = Setting.of(source, people, None, None)
    effects = sum(group.size for group in setting.model.groups.values())
    if not effects or (isinstance(source, Fit) and not source.method.uses_omega):
        why = "it declares none" if not effects else f"{source.method.name} has not estimated Omega"
        expected = f"An encoder finds random effects, and {why}"
        raise ModelError(invalid("source", type(setting.model).__name__, expected, fix="Fit it with dn.FOCE()"))
    return setting


def _occasions(population: Population) -> int:
    return int(occasion_numbers(population.records).max()) + 1 if population.occasions else 1
