"""What the scripts of the gallery share: options, data, and results as JSON and pictures."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import deepnlme as dn

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
METHODS = {"focei": dn.FOCE(), "foce": dn.FOCE(interaction=False), "laplace": dn.Laplace(), "fo": dn.FO()}


def arguments(
    description: str | None, methods: Sequence[str] = ("focei", "foce", "laplace", "fo"), simulated: bool = False
) -> argparse.Namespace:
    """The options of a script; the method arrives as the object that `dn.fit` takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--method", choices=methods, default=methods[0], help="approximation of the likelihood")
    parser.add_argument("--quick", action="store_true", help="few subjects and steps, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers found to FILE")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write the pictures to DIR")
    if simulated:
        parser.add_argument("--data-seed", type=int, default=1, metavar="N", help="seed of the simulated data")
    args = parser.parse_args()
    args.method = METHODS[args.method]
    return args


def options(**changes: Any) -> dn.Options:
    """Options of the fits; a progress line only where somebody watches."""
    return dn.Options(**{"progress": sys.stderr.isatty(), **changes})


def heading(text: str) -> None:
    """A line that says what comes next."""
    print(f"\n{text}\n{'-' * len(text)}")


def show(table: pd.DataFrame, digits: int = 5) -> None:
    """A table on the terminal, with as many significant digits."""
    print(table.to_string(float_format=lambda value: f"{value:.{digits}g}"))


def compared(fits: Mapping[str, dn.Fit]) -> pd.DataFrame:
    """OFV, AIC and BIC of several models of the same data, and the difference of the OFV to the first."""
    first = next(iter(fits.values()))
    rows = {
        name: {
            "parameters": fit.n_parameters,
            "OFV": round(fit.ofv, 3),
            "dOFV": round(fit.ofv - first.ofv, 3),
            "AIC": round(fit.aic, 2),
            "BIC": round(fit.bic, 2),
            "converged": fit.converged,
            "seconds": round(sum(fit.seconds.values()), 2),
        }
        for name, fit in fits.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def beside(fit: dn.Fit, published: Mapping[str, float], source: str) -> pd.DataFrame:
    """Estimates beside published ones."""
    table = pd.DataFrame({"here": {k: fit.estimates[k] for k in published}, source: dict(published)})
    table["difference %"] = [f"{d:+.2f}" for d in 100.0 * (table["here"] / table[source] - 1.0)]
    return table


def numbers(fit: dn.Fit) -> dict[str, Any]:
    """What a fit found, for JSON."""
    return {
        "method": fit.method.name,
        "ofv": fit.ofv,
        "penalty": fit.penalty,
        "aic": fit.aic,
        "bic": fit.bic,
        "estimates": fit.estimates,
        "se": fit.se,
        "shrinkage": fit.shrinkage,
        "seconds": sum(fit.seconds.values()),
        "converged": fit.converged,
        "starts": list(fit.starts),
        "subjects": len(fit.population),
        "observations": fit.n_observations,
    }


def write(args: argparse.Namespace, fit: dn.Fit, fits: Mapping[str, dn.Fit], **more: Any) -> None:
    """Write the numbers of the fit that matters, of all fits by name, and what else was found, as JSON."""
    if args.json is not None:
        found = {**numbers(fit), "fits": {name: numbers(fit) for name, fit in fits.items()}, **more}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(_without_nan(found), indent=1) + "\n", encoding="utf-8")


def draw(args: argparse.Namespace, name: str, fit: dn.Fit, **how: Any) -> None:
    """Goodness of fit, individual fits, distributions of the etas and the path of a fit, as PNG.

    `how` is passed on to the first two: `scale`, and the `units` that no declaration tells.
    """
    if args.pictures is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from deepnlme import plots

    pictures = {
        "goodness_of_fit": plots.plot_goodness_of_fit(fit, **how),
        "individual_fits": plots.plot_individual_fits(fit, **how),
        "eta_distributions": plots.plot_eta_distributions(fit),
        "convergence": plots.plot_convergence(fit),
    }
    save(args, {f"{name}_{kind}": figure for kind, figure in pictures.items()})


def save(args: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write figures as PNG under their names."""
    args.pictures.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(args.pictures / f"{name}.png")
    print(f"\nPictures: {', '.join(f'{name}.png' for name in figures)} in {args.pictures.resolve()}")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
