"""How often the searches select what is not there, as simulated data have shown it.

Source: ``benchmarks/covariate_selection.py --null``: people with four samples each, two random effects, 15 correlated
covariates without any effect.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FalsePositives:
    """Of one search with its usual settings.

    Attributes:
        relations: Share of the relations without effect that were selected [%].
        sets: Share of the data sets in which any was selected [%].
        datasets: Number of data sets.
        subjects, candidates: In each of them.
    """

    relations: float
    sets: float
    datasets: int
    subjects: int = 100
    candidates: int = 30

    def __str__(self) -> str:
        where = f"{self.datasets} simulated data sets ({self.subjects} subjects, {self.candidates} candidates)"
        return f"false positives: {self.relations:.1f} % of relations without effect, in {self.sets:.0f} % of {where}"


SCM = FalsePositives(1.4, 34.0, 92)
SCREENING = FalsePositives(0.1, 4.0, 150)
LASSO = FalsePositives(3.6, 59.0, 59)
ATTRIBUTION = FalsePositives(1.2, 29.0, 59)
