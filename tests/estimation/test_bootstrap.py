"""The bootstrap of a model whose estimates are a closed form; resuming, interruption, failures, refusals.

A random intercept with T observations for everyone: level = mean of means, sd^2 = within / (S (T - 1)),
omega = mean (mean_i - level)^2 - sd^2 / T.
"""

import math
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import contract_models as contract
import deepnlme as dn
from deepnlme.estimation.refit import Refit

QUIET = dn.Options(progress=False)
T = 4
MODULE = sys.modules["deepnlme.estimation.bootstrap"]


class Level(dn.Model):
    """Random intercept."""

    level = dn.Real(2.0)
    sd = dn.Positive(0.5)
    eta = dn.RandomEffects("level", omega=0.6)

    def individual(self, theta, eta, cov):
        return dict(level=theta.level + eta.level)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.level + 0 * x.time, theta.sd))


def observations(subjects=30, seed=5):
    rng = np.random.default_rng(seed)
    return 2.0 + rng.normal(0, 0.8, (subjects, 1)) + 0.5 * rng.standard_normal((subjects, T))


def population(y):
    rows = [
        dict(ID=10 * i + 1, TIME=float(t), DV=y[i, t], ARM="low" if i % 5 else "high", WT=50.0 + i)
        for i in range(len(y))
        for t in range(T)
    ]
    return dn.read_nonmem(pd.DataFrame(rows), covariates={"ARM": None, "WT": None})


def closed_form(y):
    means = y.mean(1)
    variance = ((y - means[:, None]) ** 2).sum() / (len(y) * (T - 1))
    return np.array([means.mean(), math.sqrt(variance), means.var() - variance / T])


@pytest.fixture(scope="module")
def y():
    return observations()


@pytest.fixture(scope="module")
def fit(y):
    return dn.fit(Level(), population(y), options=QUIET)


@pytest.fixture(scope="module")
def found(fit):
    return dn.bootstrap(fit, 200, seed=3, progress=False)


def test_each_sample_is_the_closed_form(y, found):
    for number in (0, 1, 17):
        drawn = np.random.default_rng([3, number]).integers(30, size=30)
        assert len(np.unique(drawn)) < 30
        np.testing.assert_allclose(found.draws.iloc[number], closed_form(y[drawn]), rtol=1e-4)
    assert list(found.draws.columns) == ["level", "sd", "omega[level]"]
    assert len(found.draws) == 200 and set(found.status) == {"converged"}


def test_standard_errors_and_percentiles(y, found):
    """The bootstrap variance of a mean is known: sum (mean_i - level)^2 / S^2."""
    means = y.mean(1)
    exact = np.sqrt(np.sum((means - means.mean()) ** 2)) / 30
    table = found.table()
    assert table.loc["level", "SE"] == pytest.approx(exact, rel=4 / np.sqrt(2 * 200))
    assert abs(table.loc["level", "Bias"]) < 4 * exact / np.sqrt(200)
    for name, row in table.iterrows():
        values = found.draws[name]
        assert row["Estimate"] == found.fit.estimates[name]
        assert row["SE"] == pytest.approx(values.std(), rel=1e-12)
        assert row["Bias"] == pytest.approx(values.mean() - row["Estimate"], abs=1e-12)
        expected = values.quantile([0.025, 0.5, 0.975])
        np.testing.assert_allclose(row[["CI95 low", "Median", "CI95 high"]].to_numpy(float), expected, rtol=1e-12)
    # variances are biased downwards: by 1 of 30 of what is between, and by their expectation over samples
    assert -0.10 < table.loc["omega[level]", "Bias%"] / 100 < 0.0
    assert "200 samples, 200 converged" in str(found) and "CI95 high" in str(found)


def test_the_same_call_gives_the_same_and_more_goes_on(fit, found):
    again = dn.bootstrap(fit, 5, seed=3, progress=False)
    pd.testing.assert_frame_equal(again.draws, found.draws.iloc[:5])
    other = dn.bootstrap(fit, 2, seed=4, progress=False)
    assert np.abs(other.draws.to_numpy() - again.draws.iloc[:2].to_numpy()).min() > 1e-6


def test_occasions_covariates_and_subjects_without_all_occasions():
    """Samples may lack the occasions that only some subjects have."""
    fit = dn.fit(
        contract.Occasions(), contract.occasions(), dn.FO(), options=dn.Options(progress=False, covariance=None)
    )
    found = dn.bootstrap(fit, 3, progress=False, keep_failed=True)
    assert found.draws.shape == (3, fit.n_parameters) and np.isfinite(found.draws.to_numpy()).all()


def watched(monkeypatch, act):
    """Calls `act(number, population)` before each refit; its result, if any, is the refit."""
    real, seen = MODULE.refit, []

    def replaced(fit, people, modes):
        seen.append(people)
        made = act(len(seen) - 1, people)
        return real(fit, people, modes) if made is None else made

    monkeypatch.setattr(MODULE, "refit", replaced)
    return seen


def test_strata_keep_their_sizes(fit, monkeypatch):
    nothing = Refit(fit.free, 0.0, "converged")
    seen = watched(monkeypatch, lambda number, people: nothing)
    dn.bootstrap(fit, 20, stratify="ARM", progress=False)
    high = fit.population.categories["ARM"].index("high")

    def count(people):
        return int((people.records.covariates["ARM"][people.starts[:-1]] == high).sum())

    assert [count(p) for p in seen] == [6] * 20
    weights = {tuple(p.records.covariates["WT"][p.starts[:-1]]) for p in seen}
    assert len(weights) == 20 and all(len(p) == 30 and p.ids == tuple(range(1, 31)) for p in seen)
    seen.clear()
    dn.bootstrap(fit, 20, progress=False)
    assert len({count(p) for p in seen}) > 3


def test_resumes_from_its_checkpoint(fit, found, monkeypatch, tmp_path):
    path = tmp_path / "samples.npz"

    def stop(number, people):
        if number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        watched(patch, stop)
        part = dn.bootstrap(fit, 6, seed=3, checkpoint=path, progress=False)
    assert len(part.status) == 3 and "interrupted: 3 of 6 samples were not fitted" in str(part)
    with monkeypatch.context() as patch:
        seen = watched(patch, lambda number, people: None)
        whole = dn.bootstrap(fit, 6, seed=3, checkpoint=path, progress=False)
        assert len(seen) == 3
    np.testing.assert_array_equal(whole.draws, found.draws.iloc[:6])
    np.testing.assert_array_equal(whole.ofv, found.ofv[:6])
    with pytest.raises(dn.ModelError, match=r"written with seed=3\. This call has seed=4\. Use the same again"):
        dn.bootstrap(fit, 6, seed=4, checkpoint=path, progress=False)
    with pytest.raises(dn.ModelError, match=r"written with stratify=None\. This call has stratify='ARM'"):
        dn.bootstrap(fit, 6, seed=3, stratify="ARM", checkpoint=path, progress=False)
    moved = replace(fit, free=fit.free + 0.1)
    with pytest.raises(dn.ModelError, match=r"a fit with other estimates"):
        dn.bootstrap(moved, 6, seed=3, checkpoint=path, progress=False)
    other = dn.fit(Level(), fit.population[:20], options=QUIET)
    with pytest.raises(dn.DataError, match="other data"):
        dn.bootstrap(other, 6, seed=3, checkpoint=path, progress=False)


def test_interrupted_at_once(fit, monkeypatch):
    def stop(number, people):
        raise KeyboardInterrupt

    watched(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        dn.bootstrap(fit, 3, progress=False)


def test_failures_are_counted_and_shown(fit, monkeypatch):
    without = Refit(np.full(3, np.nan), math.nan, "the OFV is not finite")
    early = Refit(fit.free + 1.0, 1.0, "not converged: iteration limit reached")
    watched(monkeypatch, lambda number, people: {1: without, 2: early, 4: early}.get(number))
    found = dn.bootstrap(fit, 6, seed=3, progress=False)
    assert list(found.converged) == [True, False, False, True, False, True]
    assert len(found.draws) == 3 and np.isfinite(found.draws.to_numpy()).all()
    text = str(found)
    assert "6 samples, 3 converged" in text and "left out of the draws" in text
    assert "2 failed: not converged: iteration limit reached" in text
    assert "1 failed: the OFV is not finite" in text and "warning: many refits failed" in text
    table = found.samples()
    assert list(table["STATUS"]) == list(found.status) and table["SAMPLE"].tolist() == [1, 2, 3, 4, 5, 6]
    kept = replace(found, keep_failed=True)
    assert len(kept.draws) == 5 and "among the draws" in str(kept)
    with pytest.MonkeyPatch.context() as patch:
        watched(patch, lambda number, people: without)
        assert "0 converged" in str(dn.bootstrap(fit, 2, progress=False))


def test_a_refit_that_ends_early_has_not_converged(fit):
    hasty = replace(fit, options=dn.Options(progress=False, max_iterations=1, tolerance=1e-14))
    found = dn.bootstrap(hasty, 2, seed=3, progress=False)
    assert not found.converged.any() and all("iteration limit" in status for status in found.status)


def test_an_error_of_one_sample_is_its_status(fit, monkeypatch):
    def broken(*arguments, **keywords):
        raise dn.ModelError("Invalid start: no value there.")

    monkeypatch.setattr(sys.modules["deepnlme.estimation.refit"], "optimise", broken)
    found = dn.bootstrap(fit, 2, progress=False)
    assert found.status == ("Invalid start: no value there.",) * 2 and not len(found.draws)


def test_refuses(fit, tmp_path):
    for name, value in (("samples", 0), ("samples", 2.5), ("seed", -1), ("samples", True)):
        with pytest.raises(dn.ModelError, match=f"Invalid `{name}`: got {value}"):
            dn.bootstrap(fit, **{name: value})
    with pytest.raises(dn.DataError, match=r"Invalid `stratify`: got 'AGE'\. It is a covariate .*\(ARM, WT\)"):
        dn.bootstrap(fit, stratify="AGE")
    with pytest.raises(dn.DataError, match=r"Invalid `stratify`: got \['ARM'\]"):
        dn.bootstrap(fit, stratify=["ARM"])
    with pytest.raises(dn.DataError, match=r"got 'WT' with 30 values for 30 subjects\. Groups need several"):
        dn.bootstrap(fit, stratify="WT")
    with pytest.raises(dn.ModelError, match=r"got a model evaluated at given values\. A bootstrap needs estimates"):
        dn.bootstrap(dn.evaluate_ofv(Level(), fit.population))
    with pytest.raises(dn.ModelError, match=r"got Level\. A bootstrap takes a fit"):
        dn.bootstrap(Level())
    with pytest.raises(dn.ModelError, match="There is no folder"):
        dn.bootstrap(fit, checkpoint=tmp_path / "none" / "samples.npz")
    path = tmp_path / "fit.npz"
    fit.save(path)
    with pytest.raises(dn.ModelError, match=r"written with kind='a fit'"):
        dn.bootstrap(fit, checkpoint=path)
