"""Naive pooled data: no random effects."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepnlme.estimation.method import Method, Rows, Terms


@dataclass(frozen=True)
class NaivePooled(Method):
    """All data as if from one subject: -log p(y | eta = 0). A start for other methods, not an analysis."""

    name = "Naive pooled"
    inner = False
    gaussian = False
    uses_omega = False

    def terms(self, rows: Rows, z: Tensor) -> Terms:
        """The terms at eta = 0 (z must be zero)."""
        return Terms(-rows.predict(z).log_density()[0].sum(-1))
