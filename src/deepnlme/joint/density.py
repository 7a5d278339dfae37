"""The one pure function: the joint density of data and random effects, for a batch of rows.

Random effects enter whitened: eta = L z with Omega = L L' and z ~ N(0, I). The marginal likelihood does not depend
on that choice, the inner problem is better conditioned for it, and a variance of zero needs no special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import SCALAR_NDIM, Names
from deepnlme.data import Population
from deepnlme.data.batch import Batch, Layout, pack
from deepnlme.dynamics import (
    CompartmentModel,
    Dosing,
    administer,
    explain_ode,
    gather_time,
    scan,
    solve_ode,
    superposition,
)
from deepnlme.errors import DataError, ModelError
from deepnlme.joint.calling import model_arithmetic, plain_python_refused
from deepnlme.joint.prediction import Prediction, assemble
from deepnlme.joint.reading import Reading
from deepnlme.model import Model
from deepnlme.nn import BoundNetwork
from deepnlme.observation import Gaussian
from deepnlme.parameters import Values

TWICE = torch.tensor([0, 0])
"""The first subject twice: plain Python that takes a batch of scalars for one number fails on it."""


@dataclass(frozen=True)
class Individual:
    """Individual parameters and states of a batch: what tables and plots need."""

    p: Names
    states: dict[str, Tensor]
    distributions: dict[str, Any]


class Joint:
    """A model bound to a population: packed data and the joint density.

    Args:
        model: The model.
        population: The data.
        slots: "observations" (estimation) or "records" (tables).
        occasions: At least so many occasions per subject, for a part of a population.

    Attributes:
        space: The parameter space.
        batch: The packed data.
        k: Number of (whitened) random effects per subject, those of every occasion included.

    Raises:
        ModelError: Methods of the model that return wrong names or shapes.
        DataError: Data that do not fit the model.
    """

    def __init__(self, model: Model, population: Population, slots: str = "observations", occasions: int = 1):
        self.model, self.population = model, population
        self.space = model.space
        self._groups = model.groups
        by_occasion = any(g.by == "occasion" for g in self._groups.values())
        if by_occasion and not population.occasions:
            raise DataError(
                "Invalid occasions: the model has random effects by occasion, the data have no OCC column. "
                'Add one, or name it with read_nonmem(..., columns={"occ": "..."}).'
            )
        model.check_people(population)
        covariates = tuple(population.records.covariates)
        self.compartments: tuple[str, ...] = ()
        tensors = tuple(population.tensors)
        self._probing, self._read = True, set[str]()
        self.compartments = self._compartments(Layout(("*",), 0, ("*",), covariates, by_occasion, tensors=tensors))
        dose_compartment = 0
        always = isinstance(model.dynamics, CompartmentModel) and model.dynamics.absorption == "zero-order"
        probe = Layout(self.compartments, dose_compartment, ("*",), covariates, by_occasion, True, tensors)
        self.endpoints = self._probe(probe)
        self._probing = False
        read = tuple(name for name in tensors if name in self._read)
        self.layout = Layout(self.compartments, dose_compartment, self.endpoints, covariates, by_occasion, always, read)
        self._fillers = slots == "observations"
        self.batch = pack(population, self.layout, slots)
        self.occasions = max(int(self.batch.occasion.max()) + 1, occasions) if by_occasion else 1
        self.k = sum(g.size * (self.occasions if g.by == "occasion" else 1) for g in self._groups.values())

    # ---- checks before any work -------------------------------------------------------------------------------

    def _start(self, rows: int) -> tuple[Values, Tensor]:
        u = torch.tensor(self.space.initial(), dtype=torch.float64).expand(1, rows, -1)
        z = torch.zeros(1, rows, sum(g.size for g in self._groups.values()), dtype=torch.float64)
        return self.space.values(u), z

    def _compartments(self, bare: Layout) -> tuple[str, ...]:
        """Names of the compartments; those of an ODE are the keys its method returns."""
        model = self.model
        if model.dynamics is None:
            return ()
        if model.is_linear:
            return tuple(model.dynamics.compartments)
        if isinstance(model.dynamics, type):
            name = model.dynamics.__name__
            raise ModelError(f"Invalid `dynamics`: got the class {name}, expected an instance: {name}(...).")
        if not callable(model.dynamics):
            raise ModelError(
                f"Invalid `dynamics`: got {model.dynamics!r}, expected a closed form (dn.OneCompartment(...)), a "
                "dn.LinearSystem, or a method dynamics(self, theta, p, t, x)."
            )
        batch = pack(self.population[:1], bare, slots="any").take(TWICE)
        with torch.no_grad(), model_arithmetic(), plain_python_refused():
            values, z = self._start(2)
            theta, p, _, _ = self.parameters(values, z, batch, occasions=1)
            t = batch.time[None, :, :1]
            asked: set[str] = set()
            rates = model.dynamics(theta, self._constant(p), t, _Probe(asked, t))
        if not isinstance(rates, Mapping) or not rates:
            raise ModelError("Invalid `dynamics`: expected a dict with the derivative of every state by name.")
        unknown = asked - set(rates)
        if unknown:
            raise ModelError(
                f"Invalid `dynamics`: it reads x.{sorted(unknown)[0]} but returns derivatives of "
                f"{', '.join(rates)} only. Return the derivative of every state that is read."
            )
        return tuple(rates)

    @staticmethod
    def _constant(p: Names) -> Names:
        return Names("p", {k: v[:, :, :1] for k, v in p.items()})

    def _probe(self, layout: Layout) -> tuple[str, ...]:
        """Run the model once on the first subject, to learn its endpoints and to refuse wrong names early."""
        batch = pack(self.population[:1], layout, slots="any").take(TWICE)
        with torch.no_grad(), model_arithmetic(), plain_python_refused():
            values, z = self._start(2)
            theta, p, _, _ = self.parameters(values, z, batch, occasions=1)
            self._controls(theta, p)
            self.initial(theta, p)
            x = {c: torch.ones(1, 2, 1, dtype=torch.float64) for c in self.compartments}
            here = Names("x", {**x, "time": batch.time[None, :, :1]})
            out = self.model.observe(theta, self._constant(p), here)
        if not isinstance(out, Mapping) or not out:
            raise ModelError(
                "Invalid `observe`: expected a dict with the distribution of every observed quantity by name, "
                f"got {type(out).__name__}. Return for example dict(dv=dn.Normal(x.central / p.v, theta.sd))."
            )
        for name, value in out.items():
            if not isinstance(value, Gaussian) and not hasattr(value, "log_prob"):
                raise ModelError(
                    f"Invalid `observe`: got {type(value).__name__} for `{name}`, expected dn.Normal, dn.LogNormal, "
                    "dn.StudentT or a torch distribution."
                )
        self._left_out = {n for n, v in out.items() if isinstance(v, Gaussian) and v.blq == "M1"}
        return tuple(out)

    # ---- from values to individual parameters -----------------------------------------------------------------

    def _effects(self, values: Values, z: Tensor, batch: Batch, occasions: int) -> tuple[dict[str, Tensor], bool]:
        """eta = L z by name, [K, R, 1], or [K, R, T] where it changes with the occasion."""
        out: dict[str, Tensor] = {}
        start, varying = 0, False
        for attribute, group in self._groups.items():
            chol = values.cholesky[attribute]
            m = group.size
            if group.by == "subject":
                part = (chol @ z[..., start : start + m].unsqueeze(-1)).squeeze(-1)
                start += m
                vector = part.unsqueeze(2)
            else:
                part = z[..., start : start + m * occasions].unflatten(-1, (occasions, m))
                start += m * occasions
                kappa = (chol.unsqueeze(-3) @ part.unsqueeze(-1)).squeeze(-1)
                vector = gather_time(kappa, batch.occasion) if occasions > 1 else kappa
                varying |= occasions > 1
            if group.vector:
                out[attribute] = vector
            else:
                out.update({n: vector[..., i] for i, n in enumerate(group.names)})
        return out, varying

    def parameters(
        self, values: Values, z: Tensor, batch: Batch, occasions: int | None = None
    ) -> tuple[Names, Names, Names, bool]:
        """theta, p at the records, p over the intervals, and whether p changes with time."""
        theta = self._theta(values)
        effects, _ = self._effects(values, z, batch, occasions or self.occasions)
        eta = Names("eta", effects)
        p = self._individual(theta, eta, self._covariates(batch, 0))
        same = all(pair[0] is pair[1] or pair[0].shape[1] == 1 for pair in batch.covariates.values())
        over = p
        if not same:
            over = self._individual(theta, eta, self._covariates(batch, 1))
        varying = any(v.shape[2] > 1 for v in over.values())
        return theta, p, over, varying

    def _covariates(self, batch: Batch, which: int) -> Names:
        """Covariates at the records (0) or over the intervals that end there (1), and tensors [1, R, 1, M]."""
        found = {n: pair[which].unsqueeze(0) for n, pair in batch.covariates.items()}
        found |= {n: value.unsqueeze(0) for n, value in batch.tensors.items()}
        return Reading("cov", found, self._read) if self._probing else Names("cov", found)

    def _theta(self, values: Values) -> Names:
        """Fixed effects and networks by name."""
        found: dict[str, Any] = {n: v.unsqueeze(-1) for n, v in values.theta.items()}
        for name, weights in values.weights.items():
            weights = weights.unsqueeze(-2) if weights.dim() > 1 else weights.reshape(1, 1, 1, -1)
            found[name] = BoundNetwork(name, self.space.networks[name], weights, self._probing)
        return Names("theta", found)

    def _individual(self, theta: Names, eta: Names, cov: Names) -> Names:
        values = self.model.individual(theta, eta, cov)
        if not isinstance(values, Mapping):
            raise ModelError(
                f"Invalid `individual`: got {type(values).__name__}, expected a dict of individual parameters by name."
            )
        out: dict[str, Tensor] = {}
        for name, value in values.items():
            if not isinstance(value, Tensor):
                value = _scalar("individual", name, value)
            if value.dim() not in (SCALAR_NDIM, SCALAR_NDIM + 1):
                raise ModelError(
                    f"Invalid `individual`: `{name}` has shape {tuple(value.shape)}, expected a batch of scalars made "
                    "from theta, eta and cov."
                )
            out[name] = value
        needed = getattr(self.model.dynamics, "requires", ())
        missing = [n for n in needed if n not in out]
        if missing:
            raise ModelError(
                f"Invalid `individual`: it returns {', '.join(out) or '(nothing)'}; "
                f"{type(self.model.dynamics).__name__} needs {', '.join(needed)}. Add `{missing[0]}`."
            )
        return Names("p", out)

    def _controls(self, theta: Names, p: Names) -> dict[int, Dosing]:
        controls = {}
        returned = self.model.dosing(theta, p)
        if not isinstance(returned, Mapping):
            raise ModelError(
                f"Invalid `dosing`: got {type(returned).__name__}, expected a dict of dn.Dosing(...) by compartment."
            )
        for name, value in returned.items():
            if name not in self.compartments or not isinstance(value, Dosing):
                raise ModelError(
                    f"Invalid `dosing`: got {name!r}: {type(value).__name__}, expected dn.Dosing(...) for one of "
                    f"{', '.join(self.compartments)}."
                )
            controls[self.compartments.index(name)] = value
        dynamics = self.model.dynamics
        if isinstance(dynamics, CompartmentModel) and dynamics.absorption == "zero-order":
            i = self.compartments.index("central")
            old = controls.get(i, Dosing())
            controls[i] = Dosing(old.lag, old.bioavailability, old.rate, p["duration"])
        return controls

    def initial(self, theta: Names, p: Names) -> dict[int, Tensor]:
        """Initial amounts by number of the compartment, [K, R, T] each."""
        out = {}
        returned = self.model.initial(theta, p)
        if not isinstance(returned, Mapping):
            raise ModelError(
                f"Invalid `initial`: got {type(returned).__name__}, expected a dict of initial amounts by compartment."
            )
        for name, value in returned.items():
            if name not in self.compartments:
                raise ModelError(
                    f"Invalid `initial`: got `{name}`, expected some of {', '.join(self.compartments) or '(none)'}."
                )
            value = value if isinstance(value, Tensor) else _scalar("initial", name, value)
            if value.dim() not in (0, SCALAR_NDIM):
                raise ModelError(
                    f"Invalid `initial`: `{name}` has shape {tuple(value.shape)}, expected a batch of scalars made "
                    "from theta and p."
                )
            value = value if value.dim() else value.reshape(1, 1, 1)
            out[self.compartments.index(name)] = value
        return out

    # ---- from individual parameters to observations ------------------------------------------------------------

    def _states(self, theta: Names, p: Names, over: Names, varying: bool, batch: Batch, order: int) -> list[Tensor]:
        """Amounts in every compartment at every slot."""
        if self.model.dynamics is None:
            return []
        doses, initial = self._inputs(theta, p, over, varying, batch)
        if self.model.is_ode:
            dynamics, solver = self.model.dynamics, self.model.solver
            return solve_ode(dynamics, solver, theta, over, p, batch, doses, initial, self.compartments, order)
        linear: Any = self.model.dynamics
        if varying:
            return scan(linear, over, p, batch, doses, initial)
        return superposition(linear, p, batch, doses, initial)

    def _inputs(
        self, theta: Names, p: Names, over: Names, varying: bool, batch: Batch
    ) -> tuple[Any, dict[int, Tensor]]:
        """Effective doses and initial amounts."""
        always = isinstance(self.model.dynamics, CompartmentModel) and self.model.dynamics.absorption == "zero-order"
        interval = self._controls(theta, over) if varying else None
        doses = administer(self._controls(theta, p), batch, self.compartments, always, interval)
        return doses, self.initial(theta, p)

    def explain(self, values: Values, z: Tensor, batch: Batch, row: int) -> str:
        """Why the differential equations of a row have no solution, in words; empty if they have one."""
        if not self.model.is_ode:
            return ""
        with torch.no_grad(), model_arithmetic():
            theta, p, over, varying = self.parameters(values, z, batch)
            doses, initial = self._inputs(theta, p, over, varying, batch)
            dynamics, solver, names = self.model.dynamics, self.model.solver, self.compartments
            found = explain_ode(dynamics, solver, theta, over, p, batch, doses, initial, names, row)
        return "" if found is None else str(found)

    def individuals(self, values: Values, z: Tensor, batch: Batch, order: int = 3) -> Individual:
        """Individual parameters, states at every slot, and the distribution of every endpoint at its slots.

        Args:
            values: Natural parameters, each [K, R].
            z: Whitened random effects [K, R, k].
            batch: R rows.
            order: Highest derivative that will be taken (solvers of differential equations save work with less).
        """
        with model_arithmetic():
            theta, p, over, varying = self.parameters(values, z, batch)
            states = dict(zip(self.compartments, self._states(theta, p, over, varying, batch, order), strict=True))
            time = (batch.time - batch.offset).gather(1, batch.slot_record).unsqueeze(0)
            distributions = {}
            for name, sl in batch.slices.items():
                if sl.start == sl.stop:
                    continue
                p_here = (
                    Names("p", {k: gather_time(v, batch.slot_record[:, sl]) for k, v in p.items()}) if varying else p
                )
                here = {k: v[..., sl] for k, v in states.items()}
                nothing = self._nothing(batch, name)
                if nothing is not None:
                    here = {k: torch.where(nothing, torch.ones_like(v), v) for k, v in here.items()}
                x = Names("x", {**here, "time": time[..., sl]})
                distributions[name] = self.model.observe(theta, p_here, x)[name]
        return Individual(p, states, distributions)

    def _nothing(self, batch: Batch, name: str) -> Tensor | None:
        """Slots of an endpoint where nothing is observed and no prediction is asked for, [R, N]; None without any.

        They fill up subjects without an observation of the endpoint, or hold what M1 leaves out. States there may be
        zero, whose logarithm would turn every derivative into NaN although the slot counts for nothing.
        """
        if not self._fillers:
            return None
        key = f"nothing {name}"
        if key not in batch.cache:
            sl = batch.slices[name]
            mask = ~batch.slot_valid[:, sl].any(1, keepdim=True).expand(-1, sl.stop - sl.start)
            if name in self._left_out:
                mask = mask | (batch.cens[:, sl] != 0)
            batch.cache[key] = mask if bool(mask.any()) else None
        return batch.cache[key]

    def predict(self, values: Values, z: Tensor, batch: Batch, order: int = 3) -> Prediction:
        """The observation model at every slot; arguments as of `individuals`."""
        return assemble(self.individuals(values, z, batch, order).distributions, batch)

    def check_data(self) -> None:
        """Refuse observations that their distribution cannot have.

        Raises:
            DataError: Naming subject, row and time.
        """
        batch = self.batch
        with torch.no_grad():
            values, z = self._start(batch.rows)
            z = torch.zeros(1, batch.rows, self.k, dtype=torch.float64)
            found = self.individuals(values, z, batch).distributions
        for name, distribution in found.items():
            sl = batch.slices[name]
            y, valid = batch.y[:, sl], batch.slot_valid[:, sl]
            if isinstance(distribution, Gaussian):
                low, kind = distribution.support()
                bad = valid & (y <= low)
                expected = f"{kind} needs {name} > {low:g}"
                fix = "Set MDV=1 on that record or use Normal."
            else:
                bad = valid & ~_supported(distribution, y, valid)
                expected = f"{type(distribution).__name__} has no density there"
                fix = "Correct the value, or use another distribution."
                if bool((valid & (batch.cens[:, sl] != 0)).any()):
                    raise DataError(
                        f"Invalid `CENS` for `{name}`: {type(distribution).__name__} has no censored likelihood here. "
                        "Use Normal or LogNormal for censored observations."
                    )
            if bool(bad.any()):
                r, c = (int(i) for i in torch.nonzero(bad)[0])
                raise DataError(
                    f"Invalid `{name}`: got {float(y[r, c]):g} for {self.where(r, sl.start + c)}. {expected}. {fix}"
                )

    def where(self, row: int, slot: int) -> str:
        """The subject, source row and time of a slot, for messages."""
        batch = self.batch
        time = (batch.time - batch.offset)[row, batch.slot_record[row, slot]]
        return (
            f"subject {self.population.ids[int(batch.subject[row])]}, row {int(batch.slot_row[row, slot])} "
            f"(time {float(time):g})"
        )

    def observation_count(self) -> tuple[int, int]:
        """Observations that count, and those of them whose Gaussian constant the OFV leaves out."""
        with torch.no_grad():
            values, z = self._start(self.batch.rows)
            z = torch.zeros(1, self.batch.rows, self.k, dtype=torch.float64)
            static = self.predict(values, z, self.batch)
        plain = static.use & static.gaussian & (static.cens == 0)
        return int(static.use.sum()), int(plain.sum())


def _scalar(method: str, name: str, value: Any) -> Tensor:
    """A plain number that a method of the model returned."""
    if isinstance(value, str) or np.ndim(value) != 0:
        raise ModelError(
            f"Invalid `{method}`: `{name}` is {value!r}, expected a batch of scalars made from theta, eta and cov."
        )
    try:
        return torch.tensor(float(value), dtype=torch.float64).reshape(1, 1, 1)
    except (TypeError, ValueError):
        raise ModelError(
            f"Invalid `{method}`: `{name}` is {value!r}, expected a batch of scalars made from theta, eta and cov."
        ) from None


def _supported(distribution: Any, y: Tensor, valid: Tensor) -> Tensor:
    try:
        inside = distribution.support.check(torch.where(valid, y, torch.ones_like(y)))
    except NotImplementedError:
        return torch.ones_like(valid)
    return inside.expand_as(y) if inside.dim() <= y.dim() else inside[0].expand_as(y)


class _Probe(Mapping[str, Tensor]):
    """States of unknown names, all equal to one, that remembers which were asked for."""

    def __init__(self, asked: set[str], like: Tensor):
        self._asked, self._value = asked, torch.ones_like(like)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        self._asked.add(name)
        return self._value

    __getitem__ = __getattr__

    def __iter__(self) -> Any:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)


def free_tensor(free: np.ndarray, rows: int) -> Tensor:
    """A free vector for every row, [1, rows, P]."""
    return torch.tensor(free, dtype=torch.float64).expand(1, rows, -1)
