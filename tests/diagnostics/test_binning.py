"""Bins, strata and times after dose."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from dataset_files import dataset
from deepnlme.diagnostics.binning import assign, bin_edges
from deepnlme.diagnostics.strata import strata
from deepnlme.diagnostics.time_after_dose import time_after_dose
from simulated_people import Oral


@pytest.fixture(scope="module")
def oral():
    population = dn.read_nonmem(dataset("theophylline"), covariates=["wt"])
    return dn.evaluate_ofv(Oral(), population)


@pytest.fixture(scope="module")
def oral_sets(oral):
    return dn.simulate(oral, oral.population, replicates=150, seed=5)


def test_least_squares_bins_are_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = np.round(rng.gamma(1.5, 4.0, 14), 1)
        values = np.unique(x)
        for k in (2, 3, 4):
            best = min(
                sum(((part := x[(x >= low) & (x <= high)]) - part.mean()) @ (part - part.mean()) for low, high in bins)
                for cut in itertools.combinations(range(1, len(values)), k - 1)
                for bins in [[(values[a], values[b - 1]) for a, b in itertools.pairwise([0, *cut, len(values)])]]
            )
            edges = bin_edges(x, "kmeans", k)
            index = assign(x, edges)
            got = sum(((x[index == b] - x[index == b].mean()) ** 2).sum() for b in range(k))
            assert got == pytest.approx(best, rel=1e-9, abs=1e-12)
    many = rng.gamma(1.5, 4.0, 5_000)
    edges = bin_edges(many, "jenks", 5)
    assert len(edges) == 6 and np.bincount(assign(many, edges)).min() > 50


def test_rules_of_bins():
    x = np.arange(100.0)
    np.testing.assert_allclose(bin_edges(x, "quantile", 4), [0, 24.5, 49.5, 74.5, 99])
    np.testing.assert_allclose(bin_edges(x, "time", 4), [0, 24.75, 49.5, 74.25, 99])
    np.testing.assert_allclose(bin_edges(np.repeat([0.0, 1, 4], 6), "auto"), [0, 0.5, 2.5, 4])
    gap = np.concatenate([np.arange(45.0), 50 + np.arange(55.0)])  # the gap is near the middle, not in it
    np.testing.assert_allclose(bin_edges(gap, 2), [0, 47.0, 104])
    np.testing.assert_allclose(bin_edges(gap, "quantile", 2), [0, 54.5, 104])
    tied = np.concatenate([np.zeros(90), np.arange(1.0, 11)])
    counts = np.bincount(assign(tied, bin_edges(tied, "quantile", 5)))
    assert counts.sum() == 100 and counts.min() >= 5
    few = np.concatenate([np.zeros(50), [1.0, 2.0, 3.0], np.full(47, 4.0)])
    for rule in ("quantile", "auto"):
        assert np.bincount(assign(few, bin_edges(few, rule, 4))).tolist() in ([50, 50], [53, 47])
    assert np.bincount(assign(np.zeros(7), bin_edges(np.zeros(7)))).tolist() == [7]
    np.testing.assert_array_equal(assign(np.array([-1.0, 0, 1, 2, 3]), np.array([0.0, 1, 2])), [-1, 0, 1, 1, -1])


def test_bins_that_are_refused(oral_sets):
    match = r"`bins`: got a bin with 3 observations for bin 3 \(.* to .*\). Each bin needs .* Merge it with bin 2"
    with pytest.raises(dn.ModelError, match=match):
        dn.vpc(oral_sets, bins="unique")
    with pytest.raises(dn.ModelError, match=r"`bins`: got an empty bin for bin 3 \(13 to 14\)"):
        dn.vpc(oral_sets, bins=[0, 5, 13, 14, 30])
    with pytest.raises(dn.ModelError, match=r"`bins`: got edges from 0 to 12. 20 observations lie outside"):
        dn.vpc(oral_sets, bins=[0, 5, 12])
    for bad in ("equal", [3, 2, 1], [1], 0, 2.5):
        with pytest.raises(dn.ModelError, match="Invalid `bins`"):
            dn.vpc(oral_sets, bins=bad)


def test_strata_divide_as_told(oral_sets):
    found = dn.vpc(oral_sets, stratify="wt", cuts={"wt": [70]}, bins=[0, 5, 25])
    wt = oral_sets.covariates()["wt"]
    assert found.strata == ("wt < 70", "wt >= 70")
    assert found.table[found.table.STRATUM == "wt < 70"].N.iloc[0] == ((wt < 70) & (oral_sets.time < 5)).sum()
    alone = oral_sets.population.select(lambda s: s.records.covariates["wt"][0] < 70)
    rows = np.flatnonzero(wt < 70)
    part = replace(
        oral_sets,
        population=alone,
        subject=np.unique(oral_sets.subject[rows], return_inverse=True)[1],
        record=np.flatnonzero(alone.records.observed),
        dv=oral_sets.dv[:, rows],
        **{name: getattr(oral_sets, name)[rows] for name in ("time", "endpoint", "observed", "cens", "limit")},
    )
    own = dn.vpc(part, bins=[0, 5, 25]).table.drop(columns="STRATUM")
    mine = found.table[found.table.STRATUM == "wt < 70"].drop(columns="STRATUM").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, own)
    labels, index = strata({"wt": np.array([69.9, 70.0, 80.0, 90.0])}, "wt", {"wt": [70, 80]}, 4)
    assert [labels[i] for i in index] == ["wt < 70", "70 <= wt < 80", "wt >= 80", "wt >= 80"]
    labels, index = strata(
        {"sex": np.array(["f", "m", "f"], dtype=object), "arm": np.array([1.0, 1, 2])}, ["sex", "arm"], {}, 3
    )
    assert [labels[i] for i in index] == ["sex f, arm 1", "sex m, arm 1", "sex f, arm 2"]


def test_strata_that_are_refused(oral_sets):
    for arguments, message in (
        ({"stratify": "age"}, "`stratify`: got 'age'. Covariates of the data are wt"),
        ({"stratify": "wt"}, r"`stratify`: got 11 values for covariate wt.* cuts={'wt': \[70.5\]}"),
        ({"stratify": "wt", "cuts": {"wt": [80, 70]}}, r"`cuts`: got \[80, 70\] for covariate wt"),
        ({"cuts": {"wt": [70]}}, "`cuts`: got 'wt'. It cuts nothing"),
    ):
        with pytest.raises(dn.ModelError, match=message):
            dn.vpc(oral_sets, **arguments)


def test_time_after_dose():
    rows = [
        # id time evid amt addl ii  tad
        (1, 0, 0, 0, 0, 0, 0.0),  # before the first dose
        (1, 0, 1, 100, 2, 12, 0.0),
        (1, 0, 0, 0, 0, 0, 0.0),
        (1, 11.5, 0, 0, 0, 0, 11.5),
        (1, 12, 0, 0, 0, 0, 0.0),  # additional doses come before the record
        (1, 30, 0, 0, 0, 0, 6.0),
        (1, 30, 1, 50, 0, 0, 0.0),
        (1, 50, 0, 0, 0, 0, 20.0),
        (2, 3, 1, 100, 9, 2, 0.0),
        (2, 8, 0, 0, 0, 0, 1.0),
        (2, 9, 3, 0, 0, 0, 0.0),  # a reset cancels what is still to come
        (2, 12, 0, 0, 0, 0, 0.0),
        (2, 1, 4, 100, 0, 0, 0.0),
        (2, 5, 0, 0, 0, 0, 4.0),
    ]
    names = ["ID", "TIME", "EVID", "AMT", "ADDL", "II", "TAD"]
    table = pd.DataFrame(rows, columns=names).assign(DV=1.0)
    population = dn.read_nonmem(table.drop(columns="TAD"))
    np.testing.assert_allclose(time_after_dose(population.records), table["TAD"])


def test_axes_other_than_time(oral, oral_sets):
    found = dn.vpc(oral_sets, x="PRED", bins=4)
    np.testing.assert_allclose(found.observed.X, oral.predictions().PRED, rtol=1e-12)
    np.testing.assert_allclose(dn.vpc(oral_sets, x="TAD").observed.X, oral.predictions().TIME)
    with pytest.raises(dn.ModelError, match="`x`: got 'DOSE'"):
        dn.vpc(oral_sets, x="DOSE")
