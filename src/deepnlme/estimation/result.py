"""What a fit returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.errors import ConvergenceError, ModelError
from deepnlme.estimation.covariance import Covariance, covariance
from deepnlme.estimation.fitted_network import FittedNetwork, summary
from deepnlme.estimation.individuals import Ebes, ebes, individual_parameters, prediction_table
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.method import Method
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.optimiser import with_hessian
from deepnlme.estimation.options import Options
from deepnlme.estimation.table import parameter_table, render
from deepnlme.estimation.trust_region import curvature, prior_curvature
from deepnlme.estimation.watch import FitStatus, Trace
from deepnlme.joint import Joint
from deepnlme.model import Model

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Fit:
    """A fitted model. Read it by its properties; `print(fit)` shows the parameter table.

    Attributes:
        model: The model, as declared.
        population: The data.
        method: The approximation of the likelihood.
        options: How it was fitted.
        status: How the fit ended.
        free: [P] estimates on the free scale.
        evaluation: The objective at the estimates.
        covariance: The covariance step, or None if it was not asked for.
        decrement: Expected further improvement [OFV units].
        trace: The path of the fit.
        seconds: Wall time by stage.
        versions: Of Python and the packages that matter.
        starts: What every start has reached.
        held_out: Subjects that were kept aside for early stopping, or None.
    """

    model: Model
    population: Population
    method: Method
    options: Options
    status: FitStatus
    free: np.ndarray
    evaluation: Evaluation
    covariance: Covariance | None
    decrement: float
    trace: Trace
    seconds: dict[str, float]
    versions: dict[str, str]
    starts: tuple[float, ...] = ()
    held_out: Population | None = None

    # ---- numbers ------------------------------------------------------------------------------------------------

    @cached_property
    def joint(self) -> Joint:
        """The model bound to the data."""
        return Joint(self.model, self.population)

    @property
    def converged(self) -> bool:
        """Whether the outer problem and every inner one converged."""
        good = (FitStatus.CONVERGED, FitStatus.FLAT, FitStatus.EARLY, FitStatus.NOTHING_TO_ESTIMATE)
        return self.status in good and not len(self.unconverged)

    def require_converged(self) -> Fit:
        """The fit itself, for scripts that must not go on without convergence.

        Raises:
            ConvergenceError: It did not converge; the error carries the fit as `result`.
        """
        if not self.converged:
            who = f"; random effects not found for subjects {self.unconverged[:5]}" if self.unconverged else ""
            raise ConvergenceError(f"The fit has not converged: {self.status.value}{who}.", self)
        return self

    @property
    def unconverged(self) -> list[Any]:
        """Ids of the subjects whose random effects were not found."""
        bad = np.flatnonzero(self.evaluation.status[0] != EBEStatus.CONVERGED)
        return [self.population.ids[i] for i in bad]

    @property
    def ofv(self) -> float:
        """-2 log L - N log 2 pi (NONMEM "without constant"); the penalty of priors is not in it."""
        return float(self.evaluation.ofv[0])

    @property
    def penalty(self) -> float:
        """-2 log prior density, 0 without priors."""
        return float(self.evaluation.penalty[0])

    @cached_property
    def _counts(self) -> tuple[int, int]:
        return self.joint.observation_count()

    @property
    def n_observations(self) -> int:
        """Observations in the likelihood."""
        return self._counts[0]

    @property
    def log_likelihood(self) -> float:
        """Log L by the method named, constants included."""
        return -0.5 * (self.ofv + self._counts[1] * LOG_2PI)

    @property
    def n_parameters(self) -> int:
        """Estimated parameters."""
        return len(self.free)

    @cached_property
    def effective_parameters(self) -> float:
        """How many parameters the data have determined: P without networks, less where a prior holds weights back.

        trace(I (I + Lambda)^-1) with I the expected information (`information`; the Hessian of the OFV where
        observations are not Gaussian) and Lambda the curvature of the priors; P where that is not to be had, for
        networks of so many weights that all subjects share them.

        Source: Moody 1992, NIPS 4:847; MacKay 1992, Neural Comput 4:415.
        """
        space = self.joint.space
        if not space.weights or space.row_size < space.size:
            return float(self.n_parameters)
        objective = self.objective()
        prior = np.diag(prior_curvature(objective, self.free))
        if objective.gaussian:
            both = curvature(objective, self.evaluation)
        else:
            values, vectors = np.linalg.eigh(with_hessian(objective, self.free)[1] - prior)
            both = (vectors * values.clip(0.0)) @ vectors.T + prior
        return float(np.trace(np.linalg.solve(both + 1e-10 * np.eye(len(both)) * np.trace(both), both - prior)))

    @property
    def aic(self) -> float:
        """-2 log L + 2 P, with the effective number of parameters where networks were fitted."""
        return -2.0 * self.log_likelihood + 2.0 * self.effective_parameters

    @property
    def bic(self) -> float:
        """-2 log L + P log N, N the number of observations; P as in `aic`."""
        return -2.0 * self.log_likelihood + self.effective_parameters * math.log(max(self.n_observations, 1))

    @cached_property
    def estimates(self) -> dict[str, float]:
        """Every parameter by name on the natural scale; variances as ``omega[cl]``, ``omega[cl,ka]``."""
        return self.joint.space.as_dict(self.free)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights of every network by name, [W]."""
        space = self.joint.space
        fixed = {n: net.initial() for n, net in self.model.networks.items() if n not in space.weights}
        return {n: fixed[n] if n in fixed else self.free[space.weights[n]].copy() for n in self.model.networks}

    @property
    def networks(self) -> dict[str, FittedNetwork]:
        """The fitted networks by name, to be called with numbers or arrays: ``fit.networks["response"](cp, r, z)``."""
        return {n: FittedNetwork(n, net, self.weights[n]) for n, net in self.model.networks.items()}

    def individual(self, subject: Any) -> dict[str, Any]:
        """Individual parameters of one subject at its EBEs, by name: numbers, and arrays for vectors.

        Args:
            subject: Its id.

        Raises:
            DataError: No such subject.
        """
        return individual_parameters(self.joint, self.free, self._modes[0], subject)

    @property
    def se(self) -> dict[str, float]:
        """Standard errors by name; NaN where there are none."""
        names = self.joint.space.names
        if self.covariance is None or not self.covariance.ok:
            return dict.fromkeys(names, math.nan)
        return dict(zip(names, self.covariance.se.tolist(), strict=True))

    @property
    def omega(self) -> pd.DataFrame:
        """Omega of all random effects, block diagonal over the groups."""
        matrices = self.joint.space.omega_matrices(self.free)
        labels = [label for name, group in self.model.groups.items() for label in group.labels(name)]
        out = np.zeros((len(labels), len(labels)))
        at = 0
        for matrix in matrices.values():
            n = len(matrix)
            out[at : at + n, at : at + n] = matrix
            at += n
        return pd.DataFrame(out, index=labels, columns=labels)

    @property
    def covariance_matrix(self) -> pd.DataFrame:
        """Covariance of the estimates on the natural scale."""
        return self._matrix("natural")

    @property
    def correlation_matrix(self) -> pd.DataFrame:
        """Correlation of the estimates."""
        return self._matrix("correlation")

    def _matrix(self, which: str) -> pd.DataFrame:
        if self.covariance is None:
            raise ModelError("Invalid request: the fit has no covariance step. Use fit.with_covariance().")
        if not self.covariance.ok:
            raise ModelError(self.covariance.message)
        names = list(self.joint.space.names)
        return pd.DataFrame(getattr(self.covariance, which), index=names, columns=names)

    @property
    def condition_number(self) -> float:
        """Of the correlation matrix of the estimates; NaN without one."""
        return self.covariance.condition_number if self.covariance is not None else math.nan

    # ---- individuals --------------------------------------------------------------------------------------------

    @property
    def subject_ofv(self) -> pd.Series:
        """Contribution of every subject to the OFV."""
        return pd.Series(self.evaluation.subject[0], index=list(self.population.ids), name="OFV")

    @cached_property
    def _modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Whitened modes and curvature; found afterwards for methods that do without them."""
        if self.method.inner or not self.joint.k or not self.method.uses_omega:
            return self.evaluation.z[0], self.evaluation.curvature[0]
        from deepnlme.estimation.foce import FOCE

        objective = MarginalObjective.of(self.joint, FOCE(interaction=False), self.options)
        evaluation = objective(self.free)
        return evaluation.z[0], evaluation.curvature[0]

    @property
    def ebes(self) -> Ebes:
        """Empirical Bayes estimates of the random effects, with their covariance.

        After FO they are the modes with the residual variance of eta = 0 (NONMEM's POSTHOC).
        """
        z, curvature = self._modes
        return ebes(self.joint, self.free, z, curvature)

    def etas(self) -> pd.DataFrame:
        """EBEs and their standard errors, one row per subject."""
        return self.ebes.to_frame(self.population.ids)

    @property
    def shrinkage(self) -> dict[str, float]:
        """100 (1 - sd(eta_hat) / omega) per random effect [%]; those by occasion over all occasions together."""
        if not self.joint.k or not self.method.uses_omega:
            return {}
        found, out = self.ebes, {}
        diagonal = {n: self.omega.loc[n, n] for n in self.omega.index}
        plain = [n.split("@")[0] for n in found.names]
        for name in dict.fromkeys(plain):
            columns = [i for i, n in enumerate(plain) if n == name]
            values = found.eta[:, columns]
            if len(columns) > 1:
                seen = self.joint.batch.occasion.max(1).values.numpy()
                values = values[np.arange(len(columns))[None, :] <= seen[:, None]]
            sd = float(np.std(values, ddof=1)) if values.size > 1 else math.nan
            variance = float(diagonal[name])
            out[name] = 100.0 * (1.0 - sd / math.sqrt(variance)) if variance > 0 else math.nan
        return out

    @property
    def epsilon_shrinkage(self) -> float:
        """100 (1 - sd(IWRES)) [%], with the standard deviation about zero, as NONMEM takes it.

        All observations count. In a model with several eps NONMEM counts for each eps those on which it has an effect:
        for the proportional one not those with IPRED = 0.
        """
        iwres = self.predictions()["IWRES"].dropna().to_numpy(float)
        return 100.0 * (1.0 - math.sqrt(float(np.mean(iwres**2)))) if len(iwres) else math.nan

    def predictions(self, all_records: bool = False) -> pd.DataFrame:
        """ID TIME DV PRED RES WRES IPRED IRES IWRES CPRED CWRES and ETAs, one row per observation.

        Args:
            all_records: One row per record, with EVID and MDV.
        """
        key = "_all" if all_records else "_observed"
        if key not in self.__dict__:
            interaction = getattr(self.method, "interaction", self.method.name != "FO")
            model = self.model
            if not self.method.uses_omega:  # residuals of a likelihood without Omega do not depend on its values
                model = model.replace(**{n: g.with_omega(0.0 * g.omega) for n, g in model.groups.items()})
            table = prediction_table(model, self.population, self.free, self._modes[0], interaction, all_records)
            self.__dict__[key] = table
        return self.__dict__[key].copy()

    def predict(
        self,
        population: Population | None = None,
        times: Any = None,
        level: float = 0.95,
        draws: int = 200,
        residual: bool = True,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Predictions for subjects, new ones too: ID TIME [DVID] [DV] PRED IPRED and intervals.

        The random effects of each subject are estimated from its own observations, which may be few, or none: then its
        IPRED is PRED, and its intervals are those of the population. They are drawn from the normal approximation
        around the EBE, with the curvature that the method uses (FOCE its own, Laplace the Hessian, FO that of FOCE
        without interaction); those of an occasion without data from the prior. Estimates count as known. Columns:

        - PRED, IPRED: prediction at eta = 0 and at the EBEs; medians of log-normal endpoints;
        - IPRED_LOW, IPRED_HIGH: interval of the individual curve;
        - DV_LOW, DV_HIGH: interval of an observation, with residual error.

        Args:
            population: The subjects, by default those of the fit with their EBEs.
            times: None for the records with EVID=0, observed (with DV) or not (MDV=1); or increasing times on the
                clock of the data, for all subjects, or a dict id -> times for some. A time that a dose has too is
                after the dose. Before its first record a subject is in its initial state. Endpoints have a row each.
            level: Probability inside the intervals.
            draws: Draws of the random effects, the same standard normal ones for every subject; 0 for no intervals.
            residual: Also DV_LOW and DV_HIGH.
            seed: Of the draws.
        """
        from deepnlme.estimation.individual_curves import Intervals
        from deepnlme.estimation.new_subjects import predict_subjects

        return predict_subjects(self, population, times, Intervals(level, draws, residual, seed))

    # ---- tables -------------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """The parameter table (see `print(fit)`)."""
        table = parameter_table(self.joint.space, self.free, self.covariance, self.shrinkage)
        return table if self.method.uses_omega else table.loc[[n for n in table.index if not n.startswith("omega[")]]

    def __str__(self) -> str:
        p = self.population
        lines = [
            f"{self.model}: {self.method.name}, {len(p)} subjects, {self.n_observations} observations",
            f"{self.status.value} in {sum(self.seconds.values()):.2f} s, {len(self.trace.ofv)} iterations"
            f" (expected further improvement {self.decrement:.1e})",
            f"OFV ({self.method.name}) {self.ofv:.4f}   -2LL {-2 * self.log_likelihood:.4f}   AIC {self.aic:.3f}"
            f"   BIC {self.bic:.3f}",
        ]
        if self.joint.space.has_priors:
            lines.append(f"penalty (-2 log prior) {self.penalty:.4f}, not in the OFV")
        if self.joint.space.weights:
            lines.append(
                f"{self.n_parameters} parameters, effectively {self.effective_parameters:.1f} (in AIC and BIC)"
            )
        if self.covariance is None and self.joint.space.weights:
            lines.append('no standard errors: a network was fitted; fit.with_covariance("R") gives those of the others')
        if self.held_out is not None:
            lines.append(f"{len(self.held_out)} subjects were kept aside for early stopping")
        if self.covariance is not None:
            if self.covariance.ok and self.n_parameters:
                lines.append(f"standard errors: {self.covariance.kind}, condition number {self.condition_number:.3g}")
                if self.covariance.warning:
                    lines.append(self.covariance.warning)
            elif not self.covariance.ok:
                lines.append(self.covariance.message)
        lost = [name for name, value in self.shrinkage.items() if value > 99.0] if self.model.networks else []
        if lost:
            lines.append(
                f"without influence (shrinkage above 99 %): {', '.join(lost)}; if a network has lost them on the way, "
                "try other starts or a weaker prior"
            )
        bad = self.unconverged
        if bad:
            shown = ", ".join(str(i) for i in bad[:5]) + (" ..." if len(bad) > 5 else "")
            lines.append(f"random effects not found for {len(bad)} subjects: {shown}")
        text = "\n".join(lines) + "\n\n" + render(self.table())
        if self.model.networks:
            text += "\n\n" + summary(self.model.networks, self.weights)
        return text

    def __repr__(self) -> str:
        return f"<Fit {self.model} {self.method.name} OFV {self.ofv:.4f} {self.status.name}>"

    # ---- further steps ------------------------------------------------------------------------------------------

    def objective(self) -> MarginalObjective:
        """The objective, with the modes of this fit remembered."""
        out = MarginalObjective.of(self.joint, self.method, self.options)
        if self.method.inner and self.joint.k:
            out.start_from(self.free, self.evaluation.z[0])
        return out

    def with_covariance(self, kind: str = "sandwich") -> Fit:
        """The same fit with another covariance step ("sandwich", "R" or "S")."""
        from dataclasses import replace

        if kind not in ("sandwich", "R", "S"):
            raise ModelError(f'Invalid `kind`: got {kind!r}, expected "sandwich", "R" or "S".')
        return replace(self, covariance=covariance(self.objective(), self.free, self.evaluation, kind))

    def save(self, path: str | Path) -> None:
        """Write the fit to one file (numbers and JSON, no code); read it with `load_fit`."""
        from deepnlme.estimation.storage import save_fit

        save_fit(self, path)
