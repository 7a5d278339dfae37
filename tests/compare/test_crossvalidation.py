"""Cross-validation: the folds, a slow loop, what is kept on disk, what fails."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn
from dataset_files import dataset
from deepnlme.compare import crossvalidation
from deepnlme.compare.folds import deal

QUIET = dn.Options(progress=False, covariance=None)


class Line(dn.Model):
    base = dn.Real(9.0)
    slope = dn.Real(0.4)
    sd = dn.Positive(1.0)
    eta = dn.RandomEffects("base", omega=1.0)

    def individual(self, theta, eta, cov):
        return dict(base=theta.base + eta.base, slope=theta.slope)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + p.slope * x.time, theta.sd))


FLAT = {"line": Line(), "flat": Line(slope=dn.Real(0.0, fixed=True))}


def people(subjects: int = 13) -> dn.Population:
    rng = np.random.default_rng([subjects, 23])
    t = np.tile([0.0, 1.0, 4.0], subjects)
    dv = 10.0 + 0.5 * t + np.repeat(rng.standard_normal(subjects), 3) + 0.8 * rng.standard_normal(3 * subjects)
    frame = pd.DataFrame(dict(ID=np.repeat(np.arange(subjects), 3) + 1, TIME=t, DV=dv))
    frame["AGE"] = np.repeat(rng.permutation(subjects) + 20.0, 3)
    frame["SEX"] = np.where(frame["ID"] % 3 == 0, "f", "m")
    return dn.read_nonmem(frame, covariates={"age": None, "sex": ("f", "m")})


@pytest.fixture(scope="module")
def population():
    return people()


@pytest.fixture(scope="module")
def found(population):
    return dn.cross_validate(FLAT, population, folds=4, seed=3, progress=False)


# ---- folds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 4, 5, 13])
def test_every_subject_is_in_one_fold(population, folds):
    for stratify in (None, "age", "sex"):
        fold = deal(population, folds, 1, stratify)
        sizes = np.bincount(fold, minlength=folds)
        assert len(fold) == 13 and sizes.sum() == 13 and np.ptp(sizes) <= 1


def test_folds_depend_on_the_seed(population):
    a, b, c = (deal(population, 4, seed, None) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_stratified_folds_are_alike():
    """Of every four neighbours in age one is in each fold; of sexes as many as can be."""
    population = people(40)
    age = population.records.covariates["age"][population.starts[:-1]]
    fold = deal(population, 4, 2, "age")
    assert (np.sort(fold[np.argsort(age)].reshape(10, 4), 1) == np.arange(4)).all()
    women = population.records.covariates["sex"][population.starts[:-1]] == 0
    counts = np.bincount(deal(population, 4, 2, "sex")[women], minlength=4)
    assert counts.sum() == 13 and np.ptp(counts) == 1
    plain = [np.ptp(np.bincount(deal(population, 4, s, None)[women], minlength=4)) for s in range(20)]
    assert max(plain) > 1


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_against_a_slow_loop(found, population):
    """Fit to the complement, evaluate on the fold; nothing else is shared."""
    rows = {}
    for name, model in FLAT.items():
        for k in range(1, 5):
            inside = [i for i in population.ids if found.assignment[i] == k]
            outside = [i for i in population.ids if found.assignment[i] != k]
            fit = dn.fit(model, population.select(ids=outside), options=QUIET)
            there = dn.evaluate_ofv(
                fit.model, population.select(ids=inside), at=fit.estimates if name == "line" else fit
            )
            rows[name, k] = (-2 * there.log_likelihood, len(inside))
            row = found.folds[(found.folds["model"] == name) & (found.folds["fold"] == k)].iloc[0]
            assert row["-2LL"] == pytest.approx(rows[name, k][0], rel=1e-6)
            assert row["subjects"] == len(inside) and row["observations"] == 3 * len(inside)
            own = found.subject_ofv.loc[inside, name]
            np.testing.assert_allclose(own, there.subject_ofv, rtol=1e-5, atol=1e-6)
            table = there.predictions()
            part = found.predictions[(found.predictions["MODEL"] == name) & (found.predictions["FOLD"] == k)]
            for column in ("ID", "TIME", "DV", "PRED", "IPRED"):
                np.testing.assert_allclose(part[column], table[column], rtol=1e-5, atol=1e-6)
    totals = {name: np.array([rows[name, k][0] for k in range(1, 5)]) for name in FLAT}
    sizes = np.array([rows["line", k][1] for k in range(1, 5)])
    table = found.table
    for name, values in totals.items():
        assert table.loc[name, "-2LL"] == pytest.approx(values.sum(), rel=1e-6)
        assert table.loc[name, "SE"] == pytest.approx(13 * np.std(values / sizes, ddof=1) / 2, rel=1e-5)
    gain = totals["flat"] - totals["line"]
    assert gain.sum() > 4
    assert table.loc["flat", "d-2LL"] == pytest.approx(gain.sum(), rel=1e-5)
    assert table.loc["flat", "SE d"] == pytest.approx(13 * np.std(gain / sizes, ddof=1) / 2, rel=1e-5)
    assert table.loc["line", "d-2LL"] == 0.0 and math.isnan(table.loc["line", "SE d"])
    assert found.complete and found.reference == "line" and (table["folds"] == 4).all()


def test_distances_of_all_held_out_observations(found):
    own = found.predictions[found.predictions["MODEL"] == "flat"]
    assert sorted(own["ID"].unique()) == list(range(1, 14)) and len(own) == 39
    row = found.distances.loc[("flat", "dv")]
    error = own["DV"] - own["PRED"]
    assert row["RMSE PRED"] == pytest.approx(np.sqrt((error**2).mean()))
    by_fold = [np.sqrt((e**2).mean()) for _, e in error.groupby(own["FOLD"])]
    assert row["SE RMSE PRED"] == pytest.approx(np.std(by_fold, ddof=1) / 2)
    text = str(found)
    assert "13 subjects in 4 folds of 3 to 4, FOCEI, reference: line" in text
    assert f"{found.table.loc['flat', 'd-2LL']:.3f}" in text


def test_options_of_each_model(population, monkeypatch):
    seen = []
    monkeypatch.setattr(
        crossvalidation,
        "fit",
        lambda m, p, method, options: seen.append(options) or dn.fit(m, p, method, options=options),
    )
    models = {"a": (Line(), dn.Options(tolerance=1e-5, seed=4)), "b": Line()}
    dn.cross_validate(models, population, folds=2, options=dn.Options(tolerance=1e-6), progress=False)
    assert [o.tolerance for o in seen] == [1e-5, 1e-6] * 2
    assert all(o.covariance is None and not o.progress for o in seen)


def test_theophylline_leave_one_out_of_four():
    """Closed-form pharmacokinetics with doses, and a fold of one subject."""

    class Oral(dn.Model):
        ka, cl, v, sd = (dn.Positive(x) for x in (1.5, 2.7, 31.0, 0.7))
        eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
        dynamics = dn.OneCompartment(absorption="first-order")

        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka * torch.exp(eta.ka), cl=theta.cl * torch.exp(eta.cl), v=theta.v * torch.exp(eta.v))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central / p.v, theta.sd))

    population = dn.read_nonmem(dataset("theophylline"))[:6]
    found = dn.cross_validate({"oral": Oral()}, population, dn.FO(), folds=3, progress=False)
    total = 0.0
    for k in range(1, 4):
        mask = (found.assignment == k).to_numpy()
        fit = dn.fit(Oral(), population[~mask], dn.FO(), options=QUIET)
        total -= 2 * dn.evaluate_ofv(Oral(), population[mask], dn.FO(), at=fit).log_likelihood
    assert found.table.loc["oral", "-2LL"] == pytest.approx(total, rel=1e-8)
    assert found.method == "FO"


# ---- interruptions and failures ---------------------------------------------------------------------------------


def counting(monkeypatch, stop_at=None, how=None):
    """Counts the fits; the one with that number ends in another way."""
    calls = []

    def fit(model, population, method, options):
        calls.append(type(model).__name__)
        if len(calls) == stop_at:
            return how(dn.fit(model, population, method, options=options))
        return dn.fit(model, population, method, options=options)

    monkeypatch.setattr(crossvalidation, "fit", fit)
    return calls


def interrupt(fit):
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", [interrupt, lambda f: dataclasses.replace(f, status=dn.FitStatus.INTERRUPTED)])
def test_resumes_from_a_checkpoint(found, population, tmp_path, monkeypatch, how):
    file = tmp_path / "folds.json"
    calls = counting(monkeypatch, 4, how)
    part = dn.cross_validate(FLAT, population, folds=4, seed=3, checkpoint=file, progress=False)
    assert len(calls) == 4 and len(json.loads(file.read_text())["done"]) == 3
    assert not part.complete and math.isnan(part.table.loc["line", "-2LL"])
    assert sum("not done: interrupted" in note for note in part.notes) == 5
    # the difference is that of the fold that both have
    assert part.table.loc["flat", "folds"] == 1
    both = found.folds[found.folds["fold"] == 1].set_index("model")["-2LL"]
    assert part.table.loc["flat", "d-2LL"] == pytest.approx(both["flat"] - both["line"], rel=1e-9)
    calls = counting(monkeypatch)
    whole = dn.cross_validate(FLAT, population, folds=4, seed=3, checkpoint=file, progress=False)
    assert len(calls) == 5
    pd.testing.assert_frame_equal(whole.table.drop(columns="seconds"), found.table.drop(columns="seconds"))
    pd.testing.assert_frame_equal(whole.predictions, found.predictions)
    pd.testing.assert_frame_equal(whole.subject_ofv, found.subject_ofv)
    assert not list(tmp_path.glob("*.part"))


def test_interrupted_before_anything_was_done(population, monkeypatch):
    counting(monkeypatch, 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        dn.cross_validate(FLAT, population, folds=4, progress=False)


def test_a_fold_that_fails_is_reported(found, population, tmp_path, monkeypatch):
    def fail(fit):
        raise dn.ModelError("the OFV is not finite")

    file = tmp_path / "folds.json"
    calls = counting(monkeypatch, 3, fail)
    part = dn.cross_validate(FLAT, population, folds=4, seed=3, checkpoint=file, progress=False)
    assert len(calls) == 8 and not part.complete
    assert part.notes == ("line, fold 2: ModelError: the OFV is not finite",)
    assert part.notes[0] in str(part)
    row = part.folds[~part.folds["done"]]
    assert row[["model", "fold"]].to_numpy().tolist() == [["line", 2]]
    table = part.table
    assert math.isnan(table.loc["line", "-2LL"]) and table.loc["line", "folds"] == 3
    assert table.loc["flat", "-2LL"] == pytest.approx(found.table.loc["flat", "-2LL"])
    rest = found.folds[found.folds["fold"] != 2].groupby("model")["-2LL"].sum()
    assert table.loc["flat", "d-2LL"] == pytest.approx(rest["flat"] - rest["line"], rel=1e-9)
    # tried again
    calls = counting(monkeypatch)
    again = dn.cross_validate(FLAT, population, folds=4, seed=3, checkpoint=file, progress=False)
    assert len(calls) == 1 and again.complete and not again.notes


def test_all_folds_fail(population, monkeypatch):
    def fit(*args, **how):
        raise dn.ModelError("the OFV is not finite")

    monkeypatch.setattr(crossvalidation, "fit", fit)
    found = dn.cross_validate(FLAT, population, folds=2, progress=False)
    assert (found.table["folds"] == 0).all() and found.table[["-2LL", "SE", "d-2LL", "SE d"]].isna().all(axis=None)
    assert len(found.notes) == 4 and found.notes[0] in str(found)


def test_a_fit_without_convergence_is_reported(population):
    short = dataclasses.replace(QUIET, max_iterations=1)
    found = dn.cross_validate({"line": (Line(), short)}, population, folds=2, progress=False)
    assert found.complete and found.table.loc["line", "converged"] == 0
    assert all("iteration limit" in note for note in found.notes) and len(found.notes) == 2


def test_likelihoods_of_other_observations_are_not_compared():
    frame = people().to_frame().assign(CENS=0)
    frame.loc[[3, 4], "CENS"] = 1
    censored = dn.read_nonmem(frame)

    class Ignoring(Line):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.base + p.slope * x.time, theta.sd, blq="M1"))

    found = dn.cross_validate({"M3": Line(), "M1": Ignoring()}, censored, folds=2, progress=False)
    assert math.isnan(found.table.loc["M1", "d-2LL"])
    assert "M1: d-2LL is refused: other observations in the likelihood: 37 against 39" in found.notes


# ---- refusals ---------------------------------------------------------------------------------------------------


def test_refuses_a_checkpoint_of_something_else(population, tmp_path):
    file = tmp_path / "folds.json"
    one = {"line": Line()}
    dn.cross_validate(one, population, folds=2, checkpoint=file, progress=False)
    again = dn.cross_validate(one, population, folds=2, checkpoint=file, progress=False)
    assert again.complete

    class Line2(Line):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.base + p.slope * x.time**2, theta.sd))

    Line2.__name__ = "Line"
    for changes, what in (
        (dict(seed=1), "folds"),
        (dict(folds=3), "folds"),
        (dict(method=dn.FO()), "method"),
        (dict(options=dn.Options(tolerance=1e-3)), "options"),
        (dict(models=FLAT), "models"),
        (dict(models={"line": Line(base=8.0)}), "start"),
        (dict(models={"line": Line2()}), "start"),
        (dict(population=people(14)), "data"),
    ):
        call = dict(models=one, population=population, folds=2, checkpoint=file, progress=False) | changes
        with pytest.raises(dn.ModelError, match=f"written for another cross-validation: its {what} differs"):
            dn.cross_validate(**call)
    file.write_text("nothing")
    with pytest.raises(dn.DataError, match="It is not a cross-validation of this package"):
        dn.cross_validate(one, population, folds=2, checkpoint=file, progress=False)
    with pytest.raises(dn.ModelError, match=r"Invalid `checkpoint`.*It is a folder. Give a file in it"):
        dn.cross_validate(one, population, folds=2, checkpoint=tmp_path, progress=False)
    with pytest.raises(dn.ModelError, match="There is no folder"):
        dn.cross_validate(one, population, folds=2, checkpoint=tmp_path / "no" / "file.json", progress=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(folds=1), dn.ModelError, "Invalid `folds`: got 1. It is a whole number from 2 to 13"),
        (dict(folds=14), dn.ModelError, "Invalid `folds`: got 14"),
        (dict(folds=2.0), dn.ModelError, "Invalid `folds`: got 2.0"),
        (dict(seed=-1), dn.ModelError, "Invalid `seed`: got -1"),
        (dict(stratify="wt"), dn.DataError, "Invalid `stratify`: got 'wt'. The population has the covariates age, sex"),
        (dict(models={}), dn.ModelError, "Invalid `models`: got an empty dict"),
        (dict(models=Line()), dn.ModelError, "Invalid `models`: got Line. It is a dict"),
        (dict(models={"a": Line}), dn.ModelError, "Invalid `models`: got type for a. It is a model, or a pair"),
        (dict(models={"a": (Line(), dn.FO())}), dn.ModelError, "Invalid `models`: got Line, FO for a"),
        (dict(population=people(3).to_frame()), dn.DataError, "Invalid `population`: got DataFrame"),
        (dict(options=dn.Options(checkpoint="x.npz")), dn.ModelError, "Invalid `checkpoint`: got x.npz for line"),
        (dict(options=3), dn.ModelError, "Invalid `options`: got int. They are dn.Options"),
        (dict(options=dn.Options(held_out=people(3))), dn.ModelError, "Invalid `held_out`: got a population for line"),
        (dict(models={"a": Line(sd=dn.Positive(1e-200))}), dn.ModelError, "not finite"),
    ],
)
def test_refuses_before_any_fit(population, monkeypatch, changes, error, message):
    calls = counting(monkeypatch)
    call = dict(models={"line": Line()}, population=population, folds=2, progress=False) | changes
    with pytest.raises(error, match=message.replace(".", r"\.")):
        dn.cross_validate(**call)
    assert not calls
