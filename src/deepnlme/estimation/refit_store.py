"""The samples of a bootstrap on disk, so that it can go on where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepnlme.errors import ModelError, invalid
from deepnlme.estimation.result import Fit
from deepnlme.estimation.storage import check, damage, heading_of, read, sized, write

Row = tuple[np.ndarray, float, str]
"""Estimates [P], OFV, status."""


@dataclass
class RefitStore:
    """Refits in their order, on disk after every one; without a path they are only kept in memory.

    Attributes:
        path: The file, or None.
        head: What the samples are of.
        start: [P] the estimates where every refit starts.
        rows: The refits.
    """

    path: Path | None
    head: dict[str, Any]
    start: np.ndarray
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path | None, fit: Fit, settings: dict[str, Any]) -> RefitStore:
        """Read the file if there is one.

        Args:
            path: The file, or None.
            fit: The fit.
            settings: What else decides on the samples.

        Raises:
            ModelError, DataError: It is of another model, other data or other settings, or has no folder.
        """
        if path is None:
            return cls(None, {}, fit.free)
        head = {**heading_of(fit.model, fit.population, fit.method), "settings": settings}
        made = cls(Path(path), head, fit.free)
        assert made.path is not None
        if not made.path.parent.is_dir():
            fix = "Make it first"
            raise ModelError(invalid("checkpoint", path, f"There is no folder {made.path.parent}", fix=fix))
        if made.path.exists():
            made._load(made.path, fit, settings)
        return made

    def _load(self, path: Path, fit: Fit, settings: dict[str, Any]) -> None:
        found, arrays = read(path)
        with damage(path):
            check(found, fit.model, fit.population, path)
            there = {"method": found["method"], **found.get("settings", {"kind": "a fit"})}
            here = {"method": self.head["method"], **settings}
            different = [name for name in here if here[name] != there.get(name)]
            if different:
                name = different[0]
                got = f"{path}, written with {name}={there.get(name)!r}"
                fix = "Use the same again, or another file"
                raise ModelError(invalid("checkpoint", got, f"This call has {name}={here[name]!r}", fix=fix))
            start = sized(arrays, "start", self.start.shape)
            if not np.allclose(start, self.start, rtol=1e-4, atol=1e-6):
                fix = "Use the fit that it was written for, or another file"
                raise ModelError(invalid("checkpoint", path, "It was written for a fit with other estimates", fix=fix))
            n = len(arrays["ofv"])
            free = sized(arrays, "free", (n, len(self.start)))
            status = sized(arrays, "status", (n,))
            self.rows = [(free[i], float(arrays["ofv"][i]), str(status[i])) for i in range(n)]

    def add(self, free: np.ndarray, ofv: float, status: str) -> None:
        """Keep one more refit."""
        self.rows.append((free, ofv, status))
        if self.path is None:
            return
        free_all, ofv_all, status_all = zip(*self.rows, strict=True)
        arrays = {
            "start": self.start,
            "free": np.stack(free_all),
            "ofv": np.array(ofv_all),
            "status": np.array(status_all, dtype=np.str_),
        }
        write(self.path, self.head, arrays)
