"""Mutilated files: read with identical meaning, refused, or read exactly as a slow and independent parser reads them.

The slow parser below knows the format and none of the rules; it reads some files that `read_nonmem` refuses, and must
agree on every file that `read_nonmem` accepts.
"""

import io
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deepnlme.data import read_nonmem
from deepnlme.errors import DataError

GOOD = """ID,TIME,AMT,RATE,II,ADDL,SS,CMT,EVID,MDV,DVID,DV,CENS,LIMIT,OCC,WT,SEX,SITE
1,0,100,0,0,0,0,1,1,1,.,.,0,.,1,70,male,A
1,1.5,0,0,0,0,0,.,0,0,cp,8.25,0,.,1,70,male,A
1,1.5,0,0,0,0,0,.,0,0,pca,44,0,.,1,.,male,A
1,0,0,0,0,0,0,.,3,1,.,.,0,.,2,71.5,male,A
1,3,0,0,0,0,0,.,0,0,cp,0.5,1,0.1,2,72,male,A
2,0,120,60,12,3,0,gut,1,1,.,.,0,.,1,55,female,B
2,2,0,0,0,0,0,.,0,0,cp,9.75,0,.,1,55,female,B
2,5,0,0,0,0,0,.,0,1,cp,3,0,.,1,55,female,B
2,7,0,0,0,0,0,.,2,1,.,.,0,.,1,56,female,B
10,0,50,-2,24,0,1,2,1,1,.,.,0,.,1,80,female,C
10,4.25,0,0,0,0,0,.,0,0,pca,31,0,.,1,80,female,C
10,8,25,0,0,0,0,2,4,1,.,.,0,.,2,80,female,C
10,9,0,0,0,0,0,.,0,0,cp,6,-1,9,2,80,female,C
"""
COVARIATES = ("wt", "sex")
NONE = ("", ".", "na", "nan")
SYNONYMS = {
    **{"subject": "id", "subj": "id", "t": "time", "y": "dv", "conc": "dv", "amount": "amt", "tinf": "dur"},
    **{"adm": "cmt", "ytype": "dvid", "blq": "cens"},
}


def slow_label(cell):
    if not cell.isascii():
        return cell
    try:
        return str(int(float(cell))) if float(cell) == int(float(cell)) else repr(float(cell))
    except (ValueError, OverflowError):
        return cell


def slow_rows(text):
    """The header and the cells of each record, by name."""
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    lines = [line for i, line in enumerate(lines) if line.strip()[0] != "#" or (i == 0 and "ID" in line.upper())]
    lines[0] = lines[0].strip(" ").lstrip("#")
    separator = next((s for s in ",;\t" if s in lines[0]), None)
    rows = [[cell.strip().strip('"').strip() for cell in line.split(separator)] for line in lines]
    header = [name.lower() for name in rows[0]]
    names = [name if name in COVARIATES else SYNONYMS.get(name, name) for name in header]
    names = [old if header.count(new) and new != old else new for old, new in zip(header, names, strict=True)]
    assert len(set(names)) == len(names)
    return [dict(zip(names, row, strict=True)) for row in rows[1:] if row != rows[0]]


def slow_read(text):
    """Every record as a dict of what it means."""
    result = []
    for row in slow_rows(text):

        def number(name, missing=0.0, row=row):
            cell = row.get(name, "")
            return missing if cell.lower() in NONE else float(cell)

        def label(name, row=row):
            cell = row.get(name, "")
            return "" if cell.lower() in NONE else slow_label(cell)

        evid = number("evid", None) if "evid" in row else float(number("amt") != 0 or number("rate") != 0)
        mdv = number("mdv", 1.0) if "mdv" in row else float(evid != 0)
        observed = evid == 0 and mdv == 0
        cens = number("cens") if observed else 0.0
        rate = number("rate")
        if number("dur") and not rate:
            rate = number("amt") / number("dur")
        result.append(
            dict(
                id=label("id"),
                time=number("time", None),
                dv=number("dv", None) if evid == 0 else None,
                evid=evid,
                observed=observed,
                amt=number("amt"),
                rate=rate,
                duration=number("dur"),
                ii=number("ii"),
                addl=number("addl"),
                ss=number("ss"),
                cmt=label("cmt").replace("0", "") if label("cmt") == "0" else label("cmt"),
                endpoint=label("dvid") if evid == 0 else "",
                cens=cens,
                limit=number("limit", None) if cens else None,
                occasion=label("occ"),
                wt=number("wt", None),
                sex=label("sex") or None,
            )
        )
    return slow_fill(result)


def slow_fill(rows):
    """Next, then previous value of the same subject."""
    for name in COVARIATES:
        given = [row[name] for row in rows]
        for i, row in enumerate(rows):
            same = [k for k in range(len(rows)) if rows[k]["id"] == row["id"] and given[k] is not None]
            after, before = [k for k in same if k >= i], [k for k in same if k < i]
            row[name] = given[after[0]] if after else given[before[-1]]
    return rows


def meaning(population):
    """What a population says, in the form of `slow_read`."""
    r = population.records
    rows = []
    for i in range(len(r)):
        row = {name: column[i].item() for name, column in r.columns() if name not in ("subject", "row")}
        row["id"] = str(population.ids[r.subject[i]])
        row["occasion"] = population.occasions[row["occasion"]] if population.occasions else ""
        for name in ("dv", "limit"):
            row[name] = None if row[name] != row[name] else row[name]
        for name in COVARIATES:
            code = r.covariates[name][i].item()
            levels = population.categories.get(name)
            row[name] = levels[int(code)] if levels else code
        rows.append(row)
    return rows


def read(text):
    return read_nonmem(io.StringIO(text), COVARIATES)


def check(text):
    """Either refused, or read as the slow parser reads it; True when it was read."""
    try:
        population = read(text)
    except DataError as error:
        assert str(error).startswith("Invalid `")
        return False
    expected = slow_read(text)
    found = meaning(population)
    for row in expected:
        row["sex"] = str(row["sex"])
    for row in found:
        row["sex"] = slow_label(str(row["sex"]))
        row["wt"] = row["wt"] if isinstance(row["wt"], float) else float("nan")
    assert found == expected
    assert read_nonmem(population.to_frame(), population.reading()) == population
    return True


def test_the_good_file_is_read_as_the_slow_parser_reads_it():
    assert check(GOOD)
    assert meaning(read(GOOD))[5]["cmt"] == "gut"


# -- Changes that leave the meaning as it is ---------------------------------------------------------------------------


def columns_permuted(rows, rng):
    order = rng.sample(range(len(rows[0])), len(rows[0]))
    return [[row[k] for k in order] for row in rows]


def header_in_any_case(rows, rng):
    names = ["".join(rng.choice((c.lower(), c.upper())) for c in name) for name in rows[0]]
    return [names, *rows[1:]]


def spaces(rows, rng):
    return [[" " * rng.randrange(3) + cell + " " * rng.randrange(3) for cell in row] for row in rows]


def other_missing(rows, rng):
    return [[rng.choice((".", "NA", "", "nan")) if cell.strip() == "." else cell for cell in row] for row in rows]


def quoted(rows, rng):
    return [[f'"{cell}"' if rng.random() < 0.3 and cell.strip() == cell else cell for cell in row] for row in rows]


def numbers_written_differently(rows, rng):
    def write(cell):
        try:
            value = float(cell)
        except ValueError:
            return cell
        if value != value:
            return cell
        return rng.choice((cell, repr(value), f"{value:.4f}", f"{value:.6e}", f"{value:+}"))

    return [rows[0], *([write(cell) for cell in row] for row in rows[1:])]


def extra_columns(rows, rng):
    return [[*row, "EXTRA" if i == 0 else rng.choice(("", "5", "x y"))] for i, row in enumerate(rows)]


HARMLESS = [
    columns_permuted,
    header_in_any_case,
    other_missing,
    numbers_written_differently,
    extra_columns,
    spaces,
    quoted,
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(HARMLESS), max_size=4, unique=True),
    st.integers(0, 2**32),
    st.sampled_from([",", ";", "\t"]),
)
def test_what_means_the_same_is_read_the_same(changes, seed, separator):
    rng = random.Random(seed)
    rows = [line.split(",") for line in GOOD.splitlines()]
    for change in sorted(changes, key=HARMLESS.index):
        rows = change(rows, rng)
    lines = [separator.join(row) for row in rows]
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(("", "   ", "# 1,2,3", "#", lines[0])))
    population = read(rng.choice(("\n", "\r\n", "\r")).join(lines) + rng.choice(("", "\n", "\n\n")))
    assert population == read(GOOD)


# -- Changes that may destroy it ---------------------------------------------------------------------------------------

CHARACTERS = st.sampled_from(
    [*"0123456789.,;-+eE#@\"' \t\n\rxDVIT_:/", "\u0663", "\xa0", "\x00", "\u2028", "inf", "nan"]
)
EDIT = st.tuples(st.sampled_from(["delete", "insert", "replace"]), st.floats(0, 1, exclude_max=True), CHARACTERS)


def edited(text, edits):
    for kind, place, character in edits:
        i = int(place * len(text))
        text = text[:i] + ("" if kind == "delete" else character) + text[i + (kind != "insert") :]
    return text


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EDIT, min_size=1, max_size=4))
@example([("replace", 0.31, "9")])
def test_edited_characters(edits):
    text = edited(GOOD, edits)
    try:
        read(text)
    except DataError:
        return
    check(text)


ROWS = st.tuples(st.sampled_from(["drop", "duplicate", "swap"]), st.booleans(), st.integers(0, 40), st.integers(0, 40))


@settings(max_examples=250, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3), st.lists(EDIT, max_size=1))
def test_rows_and_columns_dropped_duplicated_and_swapped(changes, edits):
    table = [line.split(",") for line in GOOD.splitlines()]
    for kind, by_column, i, k in changes:
        table = [list(column) for column in zip(*table, strict=True)] if by_column else table
        i, k = i % len(table), k % len(table)
        if kind == "drop" and len(table) > 1:
            del table[i]
        elif kind == "duplicate":
            table.insert(k, list(table[i]))
        else:
            table[i], table[k] = table[k], table[i]
        table = [list(column) for column in zip(*table, strict=True)] if by_column else table
    check(edited("\n".join(",".join(row) for row in table) + "\n", edits))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        read_nonmem(io.StringIO(text))
    except DataError as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(junk, place):
    content = GOOD.encode()
    with_junk = content[:place] + junk + content[place:]
    try:
        read_nonmem(io.BytesIO(with_junk), COVARIATES)
    except DataError as error:
        assert str(error)


@pytest.mark.parametrize("line", range(2, 15))
@pytest.mark.parametrize("name", ["EVID", "MDV", "AMT", "TIME", "CENS", "DVID", "OCC", "ID"])
def test_an_emptied_cell_never_turns_one_event_into_another(line, name):
    rows = [text.split(",") for text in GOOD.splitlines()]
    before = rows[line - 1][rows[0].index(name)]
    rows[line - 1][rows[0].index(name)] = ""
    text = "\n".join(",".join(row) for row in rows)
    try:
        population = read(text)
    except DataError:
        return
    unobserved = name == "DVID" and not population.records.observed[line - 2]
    assert population == read(GOOD) or unobserved, (line, name, before)
