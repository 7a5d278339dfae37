"""Simulation of a model: new people, new random effects and new residuals, a chunk of subjects at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.estimation.fit import versions
from deepnlme.joint import Joint
from deepnlme.model import Model
from deepnlme.simulation.adaptive import Adaptive, Doses, check_clock, dose_table, visit_of
from deepnlme.simulation.design import Design, Setting
from deepnlme.simulation.engine import Engine
from deepnlme.simulation.result import Simulation, baseline
from deepnlme.simulation.uncertainty import parameter_draws


def simulate(
    source: Fit | Model,
    population: Population,
    times: Any = None,
    *,
    replicates: int | None = None,
    uncertainty: Any = None,
    residual: bool = True,
    random_effects: bool = True,
    at: Mapping[str, Any] | None = None,
    adapt: Adaptive | None = None,
    device: str | None = None,
    seed: int = 0,
) -> Simulation:
    """Simulate subjects with their doses and covariates.

    Every replicate draws the random effects of all subjects anew, eta ~ N(0, Omega), those of every occasion likewise,
    and a residual for every observation. The random effects of a subject depend on the seed, the number of subjects and
    its position alone: two simulations of the same subjects under different doses have the same people.

    Args:
        source: A fit, or a model at its initial values.
        population: The subjects; what they have observed is not looked at.
        times: None for the records with EVID=0, observed or not (MDV=1): the design of the data; or increasing times on
            the clock of the data, for all subjects, or a dict id -> times for some. A time that a dose has too is after
            the dose. Each endpoint of the model has a row at every time.
        replicates: Number of replicates, 1 by default; as many as there are draws with a table of them.
        uncertainty: None: the estimates count as known. True: every replicate has its own parameters, drawn from the
            covariance matrix of the fit on the free scale, u ~ N(u_hat, C). Or draws of a bootstrap or a posterior: a
            DataFrame with a row for each draw and a column for each parameter (``cl``, ``omega[cl]``), or an object
            that has it as `draws`.
        residual: Also observations with their residual error; without it only the individual curves.
        random_effects: False for typical subjects (eta = 0).
        at: Values by name, for a model instead of its initial ones (see `evaluate_ofv`).
        adapt: Visits at which a rule changes the doses or takes subjects out of the trial (`Adaptive`).
        device: "cpu" or "cuda", by default that of the fit.
        seed: Of everything random.

    Returns:
        The simulation; `table()` is a DataFrame, `values("dv")` an array.

    Raises:
        DataError: A population or times that do not fit the model.
        ModelError: Arguments that do not go together; a fit without the uncertainty asked for.

    Example:
        >>> import torch
        >>> from deepnlme.data import Dose, Subject
        >>> from deepnlme.dynamics import OneCompartment
        >>> from deepnlme.observation import Normal
        >>> from deepnlme.parameters import Positive, RandomEffects
        >>> class Bolus(Model):
        ...     cl, v, sd = Positive(2.0), Positive(20.0), Positive(0.1)
        ...     eta = RandomEffects("cl", omega=0.09)
        ...     dynamics = OneCompartment()
        ...     def individual(self, theta, eta, cov):
        ...         return dict(cl=theta.cl * torch.exp(eta.cl), v=theta.v)
        ...     def observe(self, theta, p, x):
        ...         return dict(cp=Normal(x.central / p.v, theta.sd))
        >>> people = Population([Subject(id, Dose(100)) for id in (1, 2, 3)])
        >>> simulate(Bolus(), people, times=[0, 1, 2], replicates=5, seed=1).values("dv").shape
        (5, 3, 3)
    """
    setting = Setting.of(source, population, at, device)
    count = replicate_count(replicates, uncertainty)
    free = _parameters(source, setting, count, uncertainty, seed)
    design = Design.of(setting, population, times)
    if random_effects and isinstance(source, Fit) and not source.method.uses_omega:
        raise ModelError(
            f"Invalid `random_effects`: got True, but {source.method.name} has not estimated Omega. "
            "Use random_effects=False for typical subjects, or fit by another method."
        )
    z = np.zeros((count, len(population), design.k))
    if random_effects:  # not [seed, 0], which is the stream of `seed` alone, from which a user may draw covariates
        np.random.default_rng([seed, 7]).standard_normal(out=z)
    engine = Engine(setting, design, free, z, residual, seed)
    if adapt is None:
        ipred, dv = engine.run()
        more: dict[str, Any] = {}
    else:
        ipred, dv, more = adapted(engine, adapt)
    simulation = Simulation(
        model=setting.model,
        population=setting.population,
        endpoints=setting.probe.endpoints,
        ipred=ipred,
        dv=dv,
        eta=engine.eta,
        effects=engine.effects,
        individual=engine.individual,
        parameters=_table(setting, free, count),
        free=setting.free,
        seed=seed,
        versions=versions(),
        **design.columns(),
        **more,
    )
    _warn(simulation)
    return simulation


def typical(simulation: Simulation) -> np.ndarray:
    """PRED at the rows of a simulation on the design of the data: eta = 0 at the estimates, [M]."""
    population, model = simulation.population, simulation.model
    setting = Setting(model, population, simulation.free, Joint(model, population[:1]), "cpu")
    design = Design.of(setting, population, None)
    z = np.zeros((1, len(population), design.k))
    return Engine(setting, design, setting.free, z, residual=False, seed=0).run()[0][0]


def adapted(engine: Engine, adapt: Adaptive) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Predictions, observations and what happened at the visits.

    Doses act on what comes later only, so every visit costs one pass over all times: what lies before it stays.
    """
    if not isinstance(adapt, Adaptive):
        raise ModelError(f"Invalid `adapt`: got {type(adapt).__name__}, expected dn.Adaptive(times, rule).")
    if not engine.residual:
        raise ModelError("Invalid `residual`: got False, but the rule of `adapt` reads observations. Use True.")
    population, names = engine.setting.population, engine.setting.probe.endpoints
    check_clock(population)
    r, s = engine.z.shape[:2]
    doses, dropout = Doses(adapt.times, r, s), np.full((r, s), np.inf)
    ipred, dv = engine.run(doses)
    assert dv is not None
    columns = engine.design.columns()
    subject, time, endpoint = columns["subject"], columns["time"], columns["endpoint"]
    rows = {}
    for number, name in enumerate(names):
        own = np.flatnonzero(endpoint == number)
        rows[name] = (own, subject[own], time[own])
    covariates = baseline(population)
    for number, visit_time in enumerate(adapt.times):
        gone = time[None, :] >= dropout[:, subject]
        visit = visit_of(
            number, visit_time, rows, ipred, np.where(gone, np.nan, dv), s,
            factor=doses.factor[:, :, number].copy(), active=np.isinf(dropout), covariates=covariates,
            random=np.random.default_rng([engine.seed, 4, number]),
        )  # fmt: skip
        factor, leaving = adapt.decide(visit)
        dropout = np.where(visit.active & leaving, visit_time, dropout)
        doses.set(number, np.where(np.isinf(dropout), factor, 0.0))
        new_ipred, new_dv = engine.run(doses)
        assert new_dv is not None
        later = time >= visit_time
        ipred[:, later], dv[:, later] = new_ipred[:, later], new_dv[:, later]
    dv[time[None, :] >= dropout[:, subject]] = np.nan
    return ipred, dv, {"dropout": dropout, "doses": dose_table(population, doses)}


def replicate_count(replicates: Any, uncertainty: Any) -> int:
    """The number of replicates: as asked for, or that of the draws."""
    if replicates is None:
        table = getattr(uncertainty, "draws", uncertainty)
        return max(len(table), 1) if isinstance(table, pd.DataFrame) else 1
    if isinstance(replicates, bool) or not isinstance(replicates, int | np.integer) or replicates < 1:
        raise ModelError(f"Invalid `replicates`: got {replicates!r}, expected a whole number of at least 1.")
    return int(replicates)


def _parameters(source: Any, setting: Setting, count: int, uncertainty: Any, seed: int) -> np.ndarray:
    """Free parameters, [P] for all replicates or [R, P]."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ModelError(f"Invalid `seed`: got {seed!r}, expected a whole number of at least 0.")
    if uncertainty is None or uncertainty is False:
        return setting.free
    if not isinstance(source, Fit):
        raise ModelError(
            "Invalid `uncertainty`: got it for a model, whose values have none. Simulate a fit, dn.fit(model, data)."
        )
    return parameter_draws(source, count, uncertainty, seed)


def _table(setting: Setting, free: np.ndarray, count: int) -> pd.DataFrame:
    """Natural parameters of every replicate."""
    space = setting.probe.space
    rows = [space.as_dict(u) for u in np.atleast_2d(free)]
    table = pd.DataFrame(rows if len(rows) == count else rows * count)
    return table.set_axis(pd.RangeIndex(1, count + 1, name="REP"))


def _warn(simulation: Simulation) -> None:
    """Say whose curves are not finite."""
    bad = ~np.isfinite(simulation.ipred)
    if simulation.dv is not None:  # categories have no mean; observations of subjects who left are missing on purpose
        bad &= ~np.isfinite(simulation.dv)
    if not bad.any():
        return
    replicate, row = np.nonzero(bad)
    curves = len(np.unique(replicate * len(simulation.population) + simulation.subject[row]))
    who = list(dict.fromkeys(str(simulation.population.ids[i]) for i in simulation.subject[row[:1000]]))
    shown = ", ".join(who[:5]) + (", ..." if len(who) > 5 else "")
    warnings.warn(
        f"{curves} of {simulation.replicates * len(simulation.population)} curves have values that are not finite "
        f"(subject {shown}); they stay in the result as NaN. Its equations may have no solution for extreme random "
        "effects or parameters: look at simulation.individuals() there.",
        stacklevel=3,
    )
