"""What several sections need of a fit, computed once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from deepnlme.diagnostics import NPDE, Influence, influence, npde, residual_tests, shrinkage
from deepnlme.estimation import Fit
from deepnlme.estimation.individuals import block_cholesky, effect_names
from deepnlme.joint.calling import model_arithmetic
from deepnlme.plots.quantities import units_of
from deepnlme.report.settings import Settings
from deepnlme.simulation import Simulation, simulate

FLAGGED = 4.0
"""|CWRES| beyond which a record is listed."""


NONE_NORMAL = "no endpoint is normal or log-normal"
"""Why a model has no weighted residuals."""

VANISHED = 99.0
"""Shrinkage [%] beyond which an effect has no influence."""


def _powers(values: np.ndarray, row: int) -> np.ndarray:
    """Logarithm of the ratio of a row to the first one; NaN where it has none, 0 where both are the same."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values[row] == values[0], 0.0, np.log(values[row] / values[0])).ravel()


@dataclass(frozen=True)
class Study:
    """A fit and what was asked for.

    Attributes:
        fit: The fit.
        settings: What was asked for.
    """

    fit: Fit
    settings: Settings

    @property
    def name(self) -> str:
        """The name of the model."""
        return str(self.fit.model)

    @cached_property
    def endpoints(self) -> tuple[str, ...]:
        """Endpoints of the model that have observations."""
        if len(self.fit.joint.endpoints) == 1:
            return tuple(self.fit.joint.endpoints)
        seen = set(self.predictions["DVID"])
        return tuple(name for name in self.fit.joint.endpoints if name in seen)

    def of(self, endpoint: str) -> str:
        """`` of cp`` in captions, nothing where there is one endpoint."""
        return f" of {endpoint}" if len(self.fit.joint.endpoints) > 1 else ""

    def units(self, endpoint: str) -> dict[str, str]:
        """Units of ``time`` and of an endpoint (``dv``), empty where neither the caller nor the declarations tell."""
        given = {"time": "time", endpoint: "dv"}
        return units_of(self.fit, endpoint, {given[k]: u for k, u in self.settings.units.items() if k in given})

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """The table of predictions and residuals."""
        return self.fit.predictions()

    def observed(self, endpoint: str) -> pd.DataFrame:
        """The rows of one endpoint."""
        table = self.predictions
        return table.loc[table["DVID"] == endpoint] if "DVID" in table else table

    @cached_property
    def distributions(self) -> dict[str, tuple[str, str]]:
        """By endpoint the name of its distribution and what is done with censored observations."""
        joint = self.fit.joint
        with torch.no_grad():
            u = torch.tensor(self.fit.free, dtype=torch.float64).expand(1, joint.batch.rows, -1)
            z = torch.zeros(1, joint.batch.rows, joint.k, dtype=torch.float64)
            found = joint.individuals(joint.space.values(u), z, joint.batch, order=1).distributions
        return {name: (type(d).__name__, getattr(d, "blq", "")) for name, d in found.items()}

    @property
    def has_effects(self) -> bool:
        """Whether random effects were estimated."""
        return bool(self.fit.joint.k) and self.fit.method.uses_omega

    @property
    def has_residuals(self) -> bool:
        """Whether any observation has a weighted residual."""
        return bool(np.isfinite(self.predictions["CWRES"].to_numpy(float)).any())

    @cached_property
    def lognormal(self) -> frozenset[str]:
        """Random effects that act on individual parameters as exp(eta), found by setting each to one."""
        joint, k = self.fit.joint, self.fit.joint.k
        if not self.has_effects:
            return frozenset()
        lower = block_cholesky(joint, self.fit.free)
        z = np.linalg.lstsq(lower, np.eye(k), rcond=0.0)[0].T  # row i: the i-th effect is one, the others are zero
        batch = joint.batch.take(torch.zeros(k + 1, dtype=torch.int64))
        with torch.no_grad(), model_arithmetic():
            values = joint.space.values(torch.tensor(self.fit.free, dtype=torch.float64).expand(1, k + 1, -1))
            whitened = torch.tensor(np.vstack([np.zeros(k), z]), dtype=torch.float64).unsqueeze(0)
            _, p, _, _ = joint.parameters(values, whitened, batch)
        found = []
        for i, name in enumerate(effect_names(joint)):
            powers = [_powers(v[0].numpy(), i + 1) for v in p.values() if v.shape[1] > 1]
            moved = np.concatenate([power[power != 0] for power in powers]) if powers else np.zeros(0)
            if len(moved) and np.allclose(np.abs(moved), 1.0, rtol=1e-6) and np.isclose(z[i] @ lower[i], 1.0):
                found.append(name.partition("@")[0])
        return frozenset(found)

    @property
    def vanished(self) -> list[str]:
        """Random effects whose estimated variance is about zero, or on which the data say nothing."""
        groups = self.fit.model.groups.items()
        kept = {label for n, g in groups for label, fixed in zip(g.labels(n), g.fixed, strict=True) if fixed}
        return [name for name, value in self.fit.shrinkage.items() if value > VANISHED and name not in kept]

    @property
    def not_simulated(self) -> str:
        """Why the data cannot be simulated; empty if they can."""
        if self.fit.method.uses_omega:
            return ""
        return f"Not available: {self.fit.method.name} has not estimated how subjects differ, which simulation needs."

    @cached_property
    def flagged(self) -> pd.DataFrame:
        """Rows with |CWRES| > 4."""
        table = self.predictions
        return table.loc[table["CWRES"].abs() > FLAGGED]

    @cached_property
    def shrinkage(self) -> pd.DataFrame:
        """The table of `dn.shrinkage`."""
        return shrinkage(self.fit)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """The table of `dn.residual_tests`."""
        return residual_tests(self.fit)

    @cached_property
    def _simulated(self) -> tuple[Simulation, tuple[str, ...]]:
        settings = self.settings
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            found = simulate(self.fit, self.fit.population, replicates=settings.replicates, seed=settings.seed)
        return found, tuple(dict.fromkeys(str(w.message) for w in heard if issubclass(w.category, UserWarning)))

    @property
    def simulation(self) -> Simulation:
        """Replicates of the data."""
        return self._simulated[0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the simulation warned of."""
        return self._simulated[1]

    @cached_property
    def npde(self) -> NPDE:
        """Normalised prediction distribution errors; censored observations are left out."""
        return npde(self.simulation, seed=self.settings.seed)

    @cached_property
    def influence(self) -> Influence:
        """What every subject does to the estimates, by one Newton step."""
        return influence(self.fit, progress=False)

    @cached_property
    def doses_differ(self) -> bool:
        """Whether subjects get different amounts."""
        records = self.fit.population.records
        amounts = records.amt[records.doses]
        return len(amounts) > 1 and bool(np.ptp(amounts) > 1e-9 * np.abs(amounts).max())

    @cached_property
    def censored(self) -> dict[str, tuple[int, int, int]]:
        """By endpoint the observations, those below a limit, and those above one."""
        out = {}
        for name in self.endpoints:
            table = self.observed(name)
            cens = table["CENS"].to_numpy() if "CENS" in table else np.zeros(len(table), dtype=int)
            out[name] = (len(table), int((cens > 0).sum()), int((cens < 0).sum()))
        return out
