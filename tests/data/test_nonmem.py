"""What `read_nonmem` reads: items, synonyms, inference, covariates, endpoints, and what it reports."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepnlme.data import Dose, Population, Subject, read_nonmem

BASIC = """ID,TIME,AMT,DV,EVID,MDV,WT
1,0,100,.,1,1,70
1,1.5,0,8.2,0,0,70
1,3,.,5.1,0,0,70
2,0,120,.,1,1,55.5
2,2,0,9.9,0,0,55.5
"""


def read(text, *args, **kwargs):
    return read_nonmem(io.StringIO(text), *args, **kwargs)


def test_a_plain_file():
    population = read(BASIC, ["WT"])
    records = population.records
    assert population.ids == (1, 2)
    assert records.subject.tolist() == [0, 0, 0, 1, 1]
    assert records.time.tolist() == [0, 1.5, 3, 0, 2]
    assert records.amt.tolist() == [100, 0, 0, 120, 0]
    assert records.evid.tolist() == [1, 0, 0, 1, 0]
    assert records.observed.tolist() == [False, True, True, False, True]
    np.testing.assert_array_equal(records.dv, [np.nan, 8.2, 5.1, np.nan, 9.9])
    assert records.row.tolist() == [2, 3, 4, 5, 6]
    assert records.covariates["WT"].tolist() == [70, 70, 70, 55.5, 55.5]
    assert population.notes == ()


def test_file_path_and_frame_agree(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbf" + BASIC.replace("\n", "\r\n").encode())
    frame = pd.read_csv(io.StringIO(BASIC), na_values=".")
    texts = pd.read_csv(io.StringIO(BASIC), dtype=str)
    for source in (path, str(path), io.BytesIO(BASIC.encode()), frame, texts, frame.convert_dtypes()):
        population = read_nonmem(source, ["WT"])
        assert population == read(BASIC, ["WT"])
        assert population.records.row.tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("separator", [",", ";", "\t", "  ", " \t "])
def test_separators(separator):
    assert read(BASIC.replace(",", separator), ["WT"]) == read(BASIC, ["WT"])


def test_a_given_separator():
    assert read(BASIC.replace(",", "|"), ["WT"], separator="|") == read(BASIC, ["WT"])


def test_quotes_and_space_around_cells():
    text = 'ID , TIME,"DV","SEX, as told"\n "1",0 ,"2.5", "m, sure"\n1, 1, 3, f\n'
    population = read(text, {"sex": None}, columns={"sex": "SEX, as told"})
    assert population.records.dv.tolist() == [2.5, 3]
    assert population.categories == {"sex": ("f", "m, sure")}


@pytest.mark.parametrize(
    "header",
    [
        "id,time,amt,dv,evid,mdv,wt",
        "Subject,T,Amount,Conc,Evid,Mdv,Wt",
        "SUBJ,Time,AMT,Y,EVID,MDV,WT",
        "#ID,TIME,AMT,DV,EVID,MDV,WT",
        "# ID,TIME,AMT,DV,EVID,MDV,WT",
    ],
)
def test_synonyms_in_any_case(header):
    text = BASIC.replace("ID,TIME,AMT,DV,EVID,MDV,WT", header)
    population = read(text, ["wt"])
    assert population.records.dv.tolist()[1:3] == [8.2, 5.1]
    assert population.covariates == ("wt",)
    assert population == read(BASIC, ["wt"])


def test_an_item_s_own_name_goes_before_its_synonyms():
    text = BASIC.replace("WT\n", "Y\n")
    population = read(text)
    assert population.records.dv[1] == 8.2
    assert population.notes == ("column not used: Y",)


def test_overrides():
    text = BASIC.replace("WT\n", "LNDV\n")
    assert read(text, columns={"dv": "lndv"}).records.dv.tolist()[1] == 70
    assert read(text, columns={"DV": "LNDV"}).notes == ("column not used: DV",)
    without = read(text.replace("MDV", "SS"), columns={"ss": None})
    assert without.records.ss.tolist() == [0] * 5
    assert "columns not used: SS, LNDV" in without.notes
    assert read(BASIC, ["weight"], columns={"weight": "WT"}).records.covariates["weight"][0] == 70


def test_rows_are_lines_of_the_file():
    text = "# made by hand\n\n" + BASIC.replace("\n1,3,", "\n# a comment\n\n1,3,") + "\n\n"
    population = read(text, ["WT"])
    assert population == read(BASIC, ["WT"])
    assert population.records.row.tolist() == [4, 5, 8, 9, 10]
    assert population.notes == ("1 comment line before the header skipped", "1 comment line skipped (line 6)")


def test_comments_as_nm_tran_s_ignore():
    flagged = BASIC.replace("\n1,3,", "\nC1,3,")
    population = read(flagged, ["WT"], ignore="#@")
    assert population.records.time.tolist() == [0, 1.5, 0, 2]
    assert population.notes == ("1 comment line skipped (line 4)",)
    assert read(BASIC.replace("\n1,3,", "\nI1,3,"), ["WT"], ignore="I").records.time.tolist() == [0, 1.5, 0, 2]
    assert read(BASIC.replace("\n1,3,", "\n@1,3,"), ["WT"], ignore="@").records.time.tolist() == [0, 1.5, 0, 2]


def test_repeated_headers_are_skipped():
    header = BASIC.splitlines()[0]
    population = read(BASIC.replace("\n2,0,", f"\n{header}\n2,0,"), ["WT"])
    assert population == read(BASIC, ["WT"])
    assert population.notes == ("1 repeated header line skipped (line 5)",)


def test_text_identifiers_are_records_and_no_comments():
    text = BASIC.replace("\n1,", "\nA01,").replace("\n2,", "\nB7,")
    assert read(text).ids == ("A01", "B7")


def test_a_first_column_of_known_texts_is_read():
    population = read("DVID,ID,TIME,AMT,DV\n.,1,0,5,.\ncp,1,1,0,3\n")
    assert population.endpoints == ("cp",)
    assert read("SEX,ID,TIME,DV\n.,1,0,5\nm,1,1,3\n", ["sex"]).categories == {"sex": ("m",)}


def test_identifiers_keep_their_value():
    big = "9007199254740993"
    assert read(BASIC.replace("\n2,", f"\n{big},")).ids == (1, int(big))
    assert read(BASIC.replace("\n2,", "\n2.0,")).ids == (1, 2)
    assert read_nonmem(pd.read_csv(io.StringIO(BASIC.replace("\n2,", f"\n{big},")), na_values=".")).ids == (1, int(big))


def test_evid_and_mdv_are_inferred_as_nm_tran_does():
    text = "ID,TIME,AMT,RATE,DV\n1,0,100,.,0\n1,1,.,.,3\n1,2,0,5,.\n1,3,0,0,2\n".replace("0,5,.", "10,5,.")
    population = read(text)
    assert population.records.evid.tolist() == [1, 0, 1, 0]
    assert population.records.observed.tolist() == [False, True, False, True]
    assert population.notes == (
        "EVID inferred: 1 where AMT or RATE is not 0, else 0",
        "MDV inferred: 1 where EVID is not 0, else 0",
        "RATE missing on 1 dose record: read as 0",
    )
    constant = read("ID,TIME,AMT,RATE,SS,DV\n1,0,0,5,1,.\n1,1,0,0,0,3\n")
    assert constant.records.evid.tolist() == [1, 0]
    assert read("ID,TIME,DV\n1,0,5\n").notes[0] == "EVID inferred: 0, as there is no AMT"


def test_mdv_without_evid():
    population = read("ID,TIME,AMT,DV,MDV\n1,0,100,.,1\n1,1,0,3,0\n1,2,0,.,1\n1,3,5,.,0\n")
    assert population.records.evid.tolist() == [1, 0, 0, 1]
    assert population.records.observed.tolist() == [False, True, False, False]
    assert population.notes[-1] == "MDV=0 on 1 record with EVID not 0: none of them is an observation"


def test_values_of_records_that_are_no_observation():
    population = read("ID,TIME,DV,EVID,MDV\n1,0,7,2,1\n1,1,3,0,1\n1,2,4,0,0\n")
    np.testing.assert_array_equal(population.records.dv, [np.nan, 3, 4])
    assert population.observations == 1


def test_every_event_item():
    text = (
        "ID,TIME,AMT,RATE,DUR,II,ADDL,SS,CMT,EVID,DV\n"
        "1,0,100,-2,.,.,.,.,1,1,.\n"
        "1,0,100,.,4,12,3,0,depot,1,.\n"
        "1,5,10,2.5,4,24,0,1,2,4,.\n"
        "1,1,0,0,0,0,0,0,0,3,.\n"
        "1,2,0,3,0,0,0,1,.,1,.\n"
        "1,3,0,0,0,0,0,0,,2,.\n"
        "1,4,0,0,0,0,0,0,2.0,0,5\n"
    )
    r = read(text).records
    assert r.evid.tolist() == [1, 1, 4, 3, 1, 2, 0]
    assert r.rate.tolist() == [-2, 25, 2.5, 0, 3, 0, 0]
    assert r.duration.tolist() == [0, 4, 4, 0, 0, 0, 0]
    assert r.ii.tolist() == [0, 12, 24, 0, 0, 0, 0]
    assert r.addl.tolist() == [0, 3, 0, 0, 0, 0, 0]
    assert r.ss.tolist() == [0, 0, 1, 0, 1, 0, 0]
    assert r.cmt.tolist() == ["1", "depot", "2", "", "", "", "2"]
    tinf = read("ID,TIME,AMT,TINF,ADM,DV\n1,0,10,4,1,.\n")
    assert (tinf.records.rate[0], tinf.records.cmt[0]) == (2.5, "1")


def test_censoring():
    text = "ID,TIME,DV,BLQ,LIMIT\n1,0,5,0,.\n1,1,0.5,1,.\n1,2,0.5,1,0.1\n1,3,90,-1,100\n1,4,3,0,2\n"
    records = read(text).records
    assert records.cens.tolist() == [0, 1, 1, -1, 0]
    np.testing.assert_array_equal(records.limit, [np.nan, np.nan, 0.1, 100, np.nan])
    dosed = read("ID,TIME,AMT,DV,CENS\n1,0,5,0,1\n1,1,0,3,0\n")
    assert dosed.records.cens.tolist() == [0, 0]
    assert "column LIMIT not used: there is no CENS" in read("ID,TIME,DV,LIMIT\n1,0,5,0\n").notes


WARFARIN = """id,time,amt,dv,dvid,evid,cmt
1,0,100,0,cp,1,1
1,1,0,1.9,cp,0,2
1,1,0,40,pca,0,3
"""


def test_endpoints():
    by_name = read(WARFARIN)
    assert by_name.records.endpoint.tolist() == ["", "cp", "pca"]
    assert by_name.endpoints == ("cp", "pca")
    by_cmt = read(WARFARIN, endpoint="cmt")
    assert by_cmt.records.endpoint.tolist() == ["", "2", "3"]
    assert by_cmt.notes[0] == "column not used: dvid"
    assert read(WARFARIN, endpoint="CMT", endpoints={2: "cp", 3: "pca"}) == by_name
    assert read(WARFARIN.replace("dvid", "what"), endpoint="What").endpoints == ("cp", "pca")
    assert read(WARFARIN, columns={"dvid": None}).endpoints == ("",)
    numbers = read(WARFARIN.replace("cp", "1").replace("pca", "2.0"), endpoints={1: "conc", "2": "effect"})
    assert numbers.endpoints == ("conc", "effect")


def test_occasions():
    text = "ID,TIME,DV,OCC\n1,0,5,2\n1,1,4,10\n2,0,3,1\n"
    population = read(text)
    assert population.occasions == ("1", "2", "10")
    assert population.records.occasion.tolist() == [1, 2, 0]
    assert read(text.replace("OCC", "VISIT"), occasion="visit") == population
    assert read(text, columns={"occ": None}).occasions == ()
    assert read(
        text.replace(",10\n", ",day 2\n").replace(",2\n", ",day 1\n").replace(",1\n", ",day 1\n")
    ).occasions == (
        "day 1",
        "day 2",
    )


def test_text_covariates():
    text = "ID,TIME,DV,SEX\n1,0,5,male\n1,1,4,male\n2,0,3,female\n"
    population = read(text, ["sex"])
    assert population.categories == {"sex": ("female", "male")}
    assert population.records.covariates["sex"].tolist() == [1, 1, 0]
    ordered = read(text, {"sex": ("male", "female")})
    assert ordered.categories == {"sex": ("male", "female")}
    assert ordered.records.covariates["sex"].tolist() == [0, 0, 1]
    assert read(text, {"sex": {"male": 0, "female": 1}}) == ordered
    free = read(text, {"sex": {"male": 1, "female": 2}})
    assert free.records.covariates["sex"].tolist() == [1, 1, 2]
    assert free.categories == {}
    numbers = read(text.replace("female", "2").replace("male", "1"), {"sex": {1: 0, 2: 1}})
    assert numbers.records.covariates["sex"].tolist() == [0, 0, 1]
    other = read("ID,TIME,DV,SEX\n7,0,5,male\n", population.reading())
    assert other.records.covariates["sex"].tolist() == [1]


def test_missing_covariates_are_filled_and_told():
    text = "ID,TIME,DV,WT,SEX\n1,0,5,.,f\n1,1,4,70,\n1,2,3,NA,m\n2,0,3,50,m\n"
    nocb = read(text, ["wt", "sex"])
    assert nocb.records.covariates["wt"].tolist() == [70, 70, 70, 50]
    assert nocb.records.covariates["sex"].tolist() == [0, 1, 1, 1]
    assert "covariate wt: 2 missing cells of 1 subject filled (next, then previous value)" in nocb.notes
    locf = read(text, ["wt", "sex"], interpolation={"sex": "locf"})
    assert locf.records.covariates["sex"].tolist() == [0, 0, 1, 1]
    assert locf.interpolation == {"wt": "nocb", "sex": "locf"}
    assert "covariate sex: 1 missing cell of 1 subject filled (previous, then next value)" in locf.notes


def test_a_synonym_may_be_a_covariate():
    population = read("ID,TIME,AMT,DV,ADM\n1,0,5,.,1\n1,1,0,3,1\n", ["adm"])
    assert population.records.cmt.tolist() == ["", ""]
    assert population.records.covariates["adm"].tolist() == [1, 1]


def test_frames_of_every_kind_of_column():
    frame = pd.DataFrame(
        {
            "ID": pd.Categorical(["a", "a"]),
            "TIME": [0, 1],
            "DV": pd.array([None, 2.5], dtype="Float64"),
            "AMT": [5, None],
            "EVID": [True, False],
            "SEX": np.array(["m", None], dtype=object),
            "N": np.array([1, 2], dtype=np.uint8),
        },
        index=[17, 4],
    )
    population = read_nonmem(frame, ["SEX", "N"])
    assert population.ids == ("a",)
    assert population.records.evid.tolist() == [1, 0]
    assert population.categories == {"SEX": ("m",)}
    assert population.records.row.tolist() == [2, 3]
    assert population == Population([Subject("a", Dose(5), ([1], [2.5]), {"SEX": "m", "N": ([0, 1], [1, 2])})])


DATA = os.environ.get("DEEPNLME_DATA")


@pytest.mark.external
@pytest.mark.skipif(DATA is None, reason="the folder of public data sets is named by DEEPNLME_DATA")
def test_public_data_sets():
    folder = Path(str(DATA))
    warfarin = read_nonmem(folder / "warfarin.csv", ["wt", "age", "sex"])
    assert (len(warfarin), warfarin.observations, warfarin.endpoints) == (32, 483, ("cp", "pca"))
    assert warfarin.categories == {"sex": ("female", "male")}
    wang = read_nonmem(folder / "wang2007.csv")
    assert (len(wang), wang.observations, int(wang.records.doses.sum())) == (10, 20, 0)
    propofol = read_nonmem(folder / "propofol" / "propofol.csv", ["AGE", "WT"])
    assert (len(propofol), propofol.observations) == (1033, 15433)
    assert propofol.select(lambda s: s.observations == 0).ids == (893, 897)
    for population in (warfarin, wang, propofol):
        assert read_nonmem(population.to_frame(), population.reading()) == population


def test_a_limit_of_quantification_of_zero_is_noted():
    """Data with DV=0 on censored records and the limit in a column of its own are common: DV is what is read."""
    frame = pd.DataFrame(dict(ID=1, TIME=[0, 1], AMT=[9, 0], DV=[None, 0], CENS=[0, 1], LLOQ=0.5))
    population = read_nonmem(frame)
    assert "CENS=1 with DV=0 on 1 record: DV is the limit, so it is read as 0" in population.notes
