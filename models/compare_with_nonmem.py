"""Our fit beside a finished NONMEM run: phenobarbital, NONMEM's own example.

The run is `pheno.mod` (NONMEM 7.5.1, FOCE with interaction). Its files come with the package pharmpy-core, which also
reads them: `pip install "deepnlme[nonmem]"`. The model and the data are those of `phenobarbital.py`.

`dn.read_nonmem_results` reads the run; `mapped` says which of its parameters is which of ours (SIGMA is a variance,
ours a standard deviation). Then, from coarse to fine:

- the comparison: both OFVs, our OFV at NONMEM's estimates, estimates and standard errors side by side;
- subject by subject: contributions to the OFV, EBEs;
- record by record: PRED, IPRED, RES and CWRES of NONMEM's table, which prints five digits.

Agreement at NONMEM's estimates says that model, data and approximation are the same; only then does the difference of
two optima say anything about the optimisers.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

import deepnlme as dn
from _script import DATASETS, arguments, draw, heading, options, save, show, write
from phenobarbital import Phenobarbital, WithoutCovariates

NAMES = {
    "cl": "THETA(1)", "v": "THETA(2)", "apgar": "THETA(3)", "prop_sd": ("SIGMA(1,1)", math.sqrt),
    "omega[cl]": "OMEGA(1,1)", "omega[v]": "OMEGA(2,2)",
}  # fmt: skip
COLUMNS = {"PRED": "PRED", "IPRED": "CIPREDI", "RES": "RES", "CWRES": "CWRES"}
"""Ours and NONMEM's."""


def example() -> Path:
    """The control stream of the run."""
    try:
        import pharmpy
    except ImportError as error:
        raise dn.MissingExtraError("pharmpy-core", "nonmem") from error
    return Path(pharmpy.__file__).parent / "internals" / "example_models" / "pheno.mod"


def by_record(there: dn.Fit, nonmem: dn.ExternalFit) -> pd.DataFrame:
    """Both tables side by side, observations only: NONMEM writes 0 for residuals of other records."""
    ours, theirs = there.predictions(all_records=True), nonmem.table
    assert np.array_equal(ours["ID"], theirs["ID"]) and np.allclose(ours["TIME"], theirs["TIME"])
    both = {c: ours[c] for c in ("ID", "TIME", "DV")}
    both |= {
        f"{side} {c}": t[name] for c, n in COLUMNS.items() for side, t, name in (("here", ours, c), ("NM", theirs, n))
    }
    return pd.DataFrame(both)[ours["MDV"] == 0].reset_index(drop=True)


def differences(there: dn.Fit, nonmem: dn.ExternalFit, records: pd.DataFrame) -> dict[str, float]:
    """The largest disagreement at NONMEM's estimates in each kind of result."""
    eta = there.ebes.eta - nonmem.etas.to_numpy()
    found = {
        "OFV": abs(there.ofv - nonmem.ofv),
        "OFV of a subject": float(np.abs(there.subject_ofv - nonmem.subject_ofv).max()),
        "EBE": float(np.abs(eta).max()),
    }
    return found | {c: float(np.abs(records[f"here {c}"] - records[f"NM {c}"]).max()) for c in COLUMNS}


def agreement(there: dn.Fit, nonmem: dn.ExternalFit, records: pd.DataFrame):
    """Ours against NONMEM's, at NONMEM's estimates: contributions to the OFV, EBEs, IPRED and CWRES."""
    from deepnlme.plots.style import BLUE, DOUBLE, GREY, axes_for, style

    pairs = {
        "OFV of a subject": (nonmem.subject_ofv, there.subject_ofv),
        "EBE of CL and V": (nonmem.etas.to_numpy().ravel(), there.ebes.eta.ravel()),
        "IPRED [mg/L]": (records["NM IPRED"], records["here IPRED"]),
        "CWRES": (records["NM CWRES"], records["here CWRES"]),
    }
    with style():
        figure, panels = axes_for(None, len(pairs), 4, DOUBLE, 50.0)
        for ax, (name, (x, y)) in zip(panels, pairs.items(), strict=True):
            ends = [min(np.min(x), np.min(y)), max(np.max(x), np.max(y))]
            ax.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
            ax.plot(np.asarray(x), np.asarray(y), "o", color=BLUE, markersize=2.5, alpha=0.6, markeredgewidth=0)
            ax.set(title=name, xlabel="NONMEM", ylabel="deepnlme", box_aspect=1.0)
    return figure


def main() -> None:
    args = arguments(__doc__, methods=("focei",))
    population = dn.read_nonmem(DATASETS / "phenobarbital" / "data.csv", covariates=["wt", "apgr"])

    heading("The run")
    nonmem = dn.read_nonmem_results(example())
    print(nonmem)

    heading("Side by side")
    often = options(starts=1 if args.quick else 4)
    fits = {
        "here": dn.fit(Phenobarbital(), population, args.method, options=often),
        "no covariates": dn.fit(WithoutCovariates(), population, args.method, options=often),
    }
    mapped = nonmem.mapped(Phenobarbital(), NAMES)
    comparison = dn.compare({"here": fits["here"], "NONMEM": mapped, "no covariates": fits["no covariates"]})
    print(comparison)

    heading("At NONMEM's estimates")
    there = mapped.at(population, args.method)
    records = by_record(there, nonmem)
    show(records.head(6))
    print()
    found = differences(there, nonmem, records)
    for name, value in found.items():
        print(f"largest difference in {name:<17} {value:9.1e}")

    scores = None
    if not args.quick:
        heading("On infants that a fit has not seen")
        models = {"wt and apgr": Phenobarbital(), "no covariates": WithoutCovariates()}
        scores = dn.cross_validate(
            models, population, args.method, folds=5, stratify="wt", options=options(), progress=False
        )
        print(scores)

    draw(args, "compare_with_nonmem", fits["here"], units={"dv": "mg/L"})
    if args.pictures is not None:
        save(args, {"compare_with_nonmem_agreement": agreement(there, nonmem, records)})
    more = {} if scores is None else {"cross_validation": scores.table.to_dict("index")}
    reported = {"ofv": nonmem.ofv, "ofv_here": there.ofv, "estimates": mapped.estimates, "se": mapped.se}
    write(args, fits["here"], fits, nonmem=reported, differences=found, **more)


if __name__ == "__main__":
    main()
