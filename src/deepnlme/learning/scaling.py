"""Standardisation and imputation learned from the training rows and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Columns enter as (value - center) / scale, missing ones as `fill`.

    Attributes:
        center: Mean of the training rows, [D], or [1] for images and sequences.
        scale: Their standard deviation (of the population: divided by N); infinite for a column that is constant in
            them, which is thereby left out.
        fill: What stands for a missing value, or None where none may be missing.
    """

    center: np.ndarray
    scale: np.ndarray
    fill: np.ndarray | None = None

    @classmethod
    def of(cls, training: np.ndarray, active: bool = True, missing: str | None = None) -> Standardisation:
        """What the training rows [N, D] or [N, ...] say."""
        flat = training if training.ndim == 2 else training.reshape(-1, 1)
        fill = None
        if missing is not None:
            fill = np.nanmean(flat, axis=0) if missing == "mean" else np.nanmedian(flat, axis=0)
            flat = np.where(np.isnan(flat), fill, flat)
        if not active:
            return cls(np.zeros(flat.shape[1]), np.ones(flat.shape[1]), fill)
        center, scale = flat.mean(axis=0), flat.std(axis=0)
        constant = (flat == flat[0]).all(axis=0)
        return cls(center, np.where(constant, np.inf, scale), fill)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """To the scale on which is learned."""
        known = values if self.fill is None else np.where(np.isnan(values), self.fill, values)
        return (known - self.center) / self.scale
