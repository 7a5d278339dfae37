"""What `read_nonmem` refuses, and that each message names the record, the column and a way out."""

import io

import numpy as np
import pandas as pd
import pytest

from deepnlme.data import read_nonmem
from deepnlme.errors import DataError

GOOD = """ID,TIME,AMT,RATE,II,ADDL,SS,CMT,EVID,MDV,DV,WT
1,0,100,0,0,0,0,1,1,1,.,70
1,1.5,0,0,0,0,0,2,0,0,8.2,70
12,0,120,0,0,0,0,1,1,1,.,55.5
12,2,0,0,0,0,0,2,0,0,9.9,55.5
"""


def row(n, **cells):
    """GOOD with cells of line n replaced."""
    lines = [line.split(",") for line in GOOD.splitlines()]
    for name, cell in cells.items():
        lines[n - 1][lines[0].index(name)] = cell
    return "\n".join(",".join(line) for line in lines) + "\n"


def without(*names):
    frame = pd.read_csv(io.StringIO(GOOD), dtype=str)
    return frame.drop(columns=list(names)).to_csv(index=False)


def renamed(**names):
    return pd.read_csv(io.StringIO(GOOD), dtype=str).rename(columns=names).to_csv(index=False)


def refuse(source, *fragments, covariates=("WT",), **kwargs):
    source = io.StringIO(source) if isinstance(source, str) else source
    with pytest.raises(DataError) as error:
        read_nonmem(source, covariates, **kwargs)
    message = str(error.value)
    for fragment in fragments:
        assert fragment in message, message
    return message


def test_the_good_file_is_good():
    assert len(read_nonmem(io.StringIO(GOOD), ["WT"])) == 2


COLUMNS = [
    (without("ID"), ("`ID`: got no such column", "(or subject, subj)", "columns={'id': '<column>'}", "TIME, AMT")),
    (without("TIME"), ("`TIME`: got no such column",)),
    (without("DV"), ("`DV`: got no such column", "(or y, conc)")),
    (without("WT"), ("`WT`: got no column 'WT'", "The columns are ID, TIME")),
    (renamed(WT="DV"), ("`header`: got 'DV' twice", "columns 11 and 12")),
    (renamed(WT="dv"), ("`DV`: got duplicate columns DV and dv", "columns={'dv': '<column>'}")),
    (renamed(DV="Y", WT="CONC"), ("`DV`: got columns Y and CONC", "Either could be meant")),
    (renamed(WT=""), ("`header`: got no name for column 12", "Every column has a name")),
    (renamed(WT="DATE"), ("`DATE`: got a column of dates", "hours since the subject's first record", "{'date': None}")),
    (GOOD.split("\n", 1)[1], ("`header`: got '1, 0, 100, 0, 0'", "The first line names the columns")),
]


@pytest.mark.parametrize(("text", "fragments"), COLUMNS)
def test_columns(text, fragments):
    refuse(text, *fragments, covariates=("WT",) if fragments[0].startswith("`WT`") else ())


CELLS = [
    (row(3, DV="abc"), ("`DV`: got 'abc' for subject 1, row 3", "It takes numbers", "missing value as .")),
    (row(3, DV="8,2"), ("`row 3`: got 13 cells", "The header has 12 columns", "decimal comma")),
    (row(5, DV="9.9 mg"), ("`DV`: got '9.9 mg' for subject 12, row 5",)),
    (row(5, DV="<0.5"), ("`DV`: got '<0.5'",)),
    (row(5, DV="1_0"), ("`DV`: got '1_0'",)),
    (row(5, DV="inf"), ("`DV`: got 'inf'",)),
    (row(5, DV="1e999"), ("`DV`: got '1e999'",)),
    (row(5, DV="1d3"), ("`DV`: got '1d3'",)),
    (row(5, DV="\u0663"), ("`DV`: got",)),
    (row(5, TIME="8:30"), ("`TIME`: got '8:30' for subject 12, row 5", "Clock times", "8:30 is 8.5")),
    (row(5, TIME="2001-02-03"), ("`TIME`: got '2001-02-03'", "Dates are not read")),
    (row(5, TIME="."), ("`time`: got no value for subject 12, row 5", "needs a time")),
    (row(5, TIME="-2"), ("`time`: got -2.0 for subject 12, row 5", "Shift all times")),
    (row(4, AMT="-120"), ("`amt`: got -120.0 for subject 12, row 4 (time 0.0)",)),
    (row(4, AMT="."), ("`amt`: got no value for subject 12, row 4 (time 0.0)", "EVID=2")),
    (row(4, AMT="0"), ("`amt`: got 0.0 for subject 12, row 4", "A dose needs AMT > 0")),
    (row(5, AMT="5"), ("`amt`: got 5.0 for subject 12, row 5 (time 2.0)", "Set EVID=1")),
    (row(4, RATE="-3"), ("`rate`: got -3.0 for subject 12, row 4",)),
    (row(4, RATE="5", AMT="0"), ("`amt`: got 0.0 for subject 12, row 4", "An infusion needs AMT > 0")),
    (row(5, RATE="5"), ("`rate`: got 5.0 for subject 12, row 5",)),
    (row(4, ADDL="3"), ("`addl`: got 3 for subject 12, row 4", "II > 0")),
    (row(4, ADDL="1.5"), ("`ADDL`: got '1.5' for subject 12, row 4", "whole numbers")),
    (row(4, ADDL="-1", II="2"), ("`addl`: got -1 for subject 12, row 4",)),
    (row(4, SS="1"), ("`ss`: got 1 for subject 12, row 4", "II > 0")),
    (row(4, SS="99"), ("`ss`: got 99 for subject 12, row 4", "columns={'ss': None}")),
    (row(4, II="-2"), ("`ii`: got -2.0 for subject 12, row 4",)),
    (row(4, II="1:30"), ("`II`: got '1:30' for subject 12, row 4", "Clock times")),
    (row(4, CMT="-1"), ("`cmt`: got -1 for subject 12, row 4", "compartment off")),
    (row(4, CMT="1\x00"), ("`CMT`: got '1\\x00' for subject 12, row 4", "printable")),
    (row(4, CMT="1.5"), ("`CMT`: got '1.5' for subject 12, row 4", "whole number or a name")),
    (row(4, EVID="5"), ("`evid`: got 5 for subject 12, row 4",)),
    (row(4, EVID="101"), ("`evid`: got 101 for subject 12, row 4",)),
    (row(4, EVID="."), ("`EVID`: got an empty cell for subject 12, row 4", "columns={'evid': None}")),
    (row(4, EVID="0"), ("`amt`: got 120.0 for subject 12, row 4",)),
    (row(5, MDV="2"), ("`MDV`: got '2' for subject 12, row 5", "MDV is 0")),
    (row(5, MDV=""), ("`MDV`: got an empty cell for subject 12, row 5",)),
    (row(5, DV="."), ("`dv`: got no value for subject 12, row 5 (time 2.0)", "Set MDV=1 on that record")),
    (row(3, ID="."), ("`ID`: got an empty cell for row 3", "identifier")),
    (row(3, ID="A1"), ("`ID`: got 'A1' for row 3", "The other cells are numbers")),
    (row(5, ID="1"), ("`ID`: got '1' for row 5", "last one before is in row 3", "Sort the records")),
    (row(3, TIME="0").replace("1,0,100", "1,2,100"), ("`time`: got 0.0 for subject 1, row 3", "EVID=3 or 4")),
    (row(3, WT="heavy"), ("`WT`: got 'heavy' for subject 1, row 3", "The other cells are numbers")),
    (
        row(4, WT=".").replace("9.9,55.5", "9.9,."),
        ("`WT`: got an empty cell for subject 12, row 4", "no value of this"),
    ),
    (GOOD.replace("12,2,", "12,2"), ("`row 5`: got 11 cells",)),
    (GOOD + "1", ("`row 6`: got 1 cells",)),
    (GOOD.replace("9.9", '"9.9'), ("`row 5`: got unreadable quotes",)),
    (GOOD.replace("9.9", '9"9'), ("`row 5`: got '9\"9'", "Quotes enclose a whole cell")),
    (GOOD.replace("\n12,2", "\nx12,2"), ("`row 5`: got 'x12,2", "ignore='#@'", "ignore='#'")),
    (GOOD.replace(",DV", ";DV"), ("`header`", "commas and semicolons", "separator=")),
]


@pytest.mark.parametrize(("text", "fragments"), CELLS)
def test_cells_and_records(text, fragments):
    if text.startswith("ID") and "A1" in text:
        refuse(text, *fragments, ignore="#")
    else:
        refuse(text, *fragments)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "an empty file"),
        ("\n \n", "an empty file"),
        ("# only\n#comments\n", "an empty file"),
        ("ID,TIME,DV\n", "without"),
    ],
)
def test_empty_files(text, fragment):
    refuse(text, fragment, covariates=())


def test_files_that_cannot_be_read(tmp_path):
    refuse(tmp_path / "none.csv", "`source`", "none.csv", "No such file")
    refuse(tmp_path, "`source`", "cannot be read")
    path = tmp_path / "latin.csv"
    path.write_bytes(GOOD.encode().replace(b"9.9", b"9.9\xb5"))
    refuse(path, "byte 0xb5", "UTF-8")
    refuse(3, "got int", "a path, an open text file or a DataFrame")


def test_durations():
    text = renamed(RATE="DUR")
    refuse(text.replace("12,0,120,0", "12,0,0,3"), "`amt`: got 0.0 for subject 12, row 4", "its rate would be zero")
    refuse(text.replace("12,0,120,0", "12,0,120,-3"), "`duration`: got -3.0 for subject 12, row 4")
    both = "ID,TIME,AMT,RATE,DUR,DV\n12,0,120,{},3,.\n12,1,0,0,0,5\n"
    assert read_nonmem(io.StringIO(both.format(40))).records.duration[0] == 3
    refuse(both.format(2), "`rate`: got 2.0 for subject 12, row 2", "RATE must be AMT / DUR", covariates=())
    refuse(both.format(-2), "`duration`: got 3.0 for subject 12, row 2", "gives no duration itself", covariates=())


def test_censoring():
    text = renamed(SS="CENS", II="LIMIT")
    refuse(text.replace("12,2,0,0,0,0,0", "12,2,0,0,0,0,2"), "`cens`: got 2 for subject 12, row 5")
    refuse(text.replace("12,2,0,0,0,0,0", "12,2,0,0,0,0,."), "`CENS`: got an empty cell for subject 12, row 5")
    refuse(
        text.replace("12,2,0,0,0,0,0", "12,2,0,0,9.9,0,1"), "`limit`: got 9.9 for subject 12, row 5", "smaller than DV"
    )
    refuse(
        text.replace("12,2,0,0,0,0,0", "12,2,0,0,3,0,-1"), "`limit`: got 3.0 for subject 12, row 5", "larger than DV"
    )


def test_endpoints_and_occasions():
    text = renamed(SS="DVID", II="OCC")
    refuse(text.replace("12,2,0,0,0,0,0", "12,2,0,0,0,0,."), "`endpoint`: got none for subject 12, row 5", "Fill DVID")
    refuse(text.replace("12,2,0,0,0,0,0", "12,2,0,0,0,0,cp"), "`DVID`: got", "Use one kind only")
    refuse(text, "`DVID`: got '0' for subject 1, row 3", "`endpoints` names 1, 2", endpoints={1: "cp", 2: "pca"})
    refuse(text.replace("12,2,0,0,0", "12,2,0,0,"), "`OCC`: got an empty cell for subject 12, row 5", "occasion")
    refuse(without("CMT"), "`endpoint`: got 'cmt'", "no such column", endpoint="cmt")
    refuse(GOOD, "`dvid`: got no column 'FLAG'", endpoint="FLAG")
    refuse(GOOD, "`endpoint`: got 3", endpoint=3)
    refuse(GOOD, "`endpoint`: got 'DVID'", "no such column", endpoints={1: "cp"})
    refuse(GOOD, "`occ`: got no column 'VISIT'", occasion="VISIT")


def test_arguments():
    refuse(GOOD, "`columns`: got the key 'dw'", "Its keys are data items", columns={"dw": "DV"})
    refuse(GOOD, "`columns`", "the name of a column, or None", columns={"dv": 3})
    refuse(GOOD, "`dv`: got no column 'LNDV'", columns={"dv": "LNDV"})
    refuse(GOOD, "`amt`: got column AMT", "already DV", columns={"dv": "AMT"})
    refuse(GOOD, "`columns`: got 'WT': None", columns={"WT": None})
    refuse(GOOD, "`interpolation`: got 'spline'", "nocb, locf, linear", interpolation="spline")
    refuse(GOOD, "`interpolation`: got a rule for 'age'", "The covariates are WT", interpolation={"age": "locf"})
    refuse(GOOD, "`separator`: got '::'", "one character", separator="::")
    refuse(GOOD, "`covariates`: got 'WT' twice", covariates=["wt", "WT"])
    refuse(GOOD, "`covariates`: got 'cmt'", "names a data item", "columns={'cmt_value': 'cmt'}", covariates=["cmt"])
    refuse(GOOD, "`covariates`: got 3", covariates=[3])


def test_codings():
    text = GOOD.replace("55.5", "f").replace("70", "m")
    refuse(text, "`WT`: got 'f' for subject 12, row 4", "levels m", covariates={"WT": {"m": 1}})
    refuse(text, "`WT`: got 'f' for subject 12, row 4", "levels are m, x", covariates={"WT": ("m", "x")})
    for coding in ({}, {"m": "a"}, {"m": np.nan}, (), ("m", "m"), 3):
        refuse(text, "covariates['WT']", "A coding maps levels", covariates={"WT": coding})


def test_text_that_changes_cannot_be_linear():
    text = "ID,TIME,DV,FORM\n1,0,5,a\n1,1,4,b\n"
    refuse(text, "'linear' for FORM", "have no mean", covariates=["FORM"], interpolation="linear")
    constant = text.replace("b", "a")
    assert read_nonmem(io.StringIO(constant), ["FORM"], interpolation="linear").records.covariates["FORM"].tolist() == [
        0,
        0,
    ]


def test_frames():
    frame = pd.read_csv(io.StringIO(GOOD), na_values=".")
    refuse(frame.assign(DV=frame.DV.astype(object).where(frame.DV.notna(), "x")), "`DV`: got 'x' for subject 1, row 2")
    refuse(frame.assign(TIME=pd.to_datetime(frame.TIME, unit="h")), "`TIME`: got '1970-01-01", "Clock times and dates")
    refuse(frame.assign(DV=frame.DV.fillna(np.inf)), "`DV`: got inf for subject 1, row 2", "finite")
    refuse(frame.set_index("ID"), "`ID`: got no such column")
    refuse(pd.concat([frame, frame.DV], axis=1), "'DV' twice")
    refuse(pd.concat({"a": frame}, axis=1), "several levels")
    refuse(frame.iloc[:0], "without records")
    refuse(frame.assign(MDV=frame.MDV + 0.5), "`MDV`: got 1.5 for subject 1, row 2", "whole")
