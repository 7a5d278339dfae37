"""Tests of residuals: the numbers of scipy, false alarms as often as said, wrong models found.

The residuals of the simulations are exact: those of a linear mixed model at its own parameters, decorrelated by numpy.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import contract_models as contract
import deepnlme as dn
from deepnlme.diagnostics.residual_tests import TESTS, holm

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 6.0, 9.0])
SUBJECTS = 40
DESIGN = np.stack([np.ones_like(TIMES), TIMES], 1)
OMEGA = np.diag([0.5, 0.01])
MEAN = 6.0 - 0.5 * TIMES


def whitened(y, sd):
    """C^(-1/2) (y - mean) of the model with intercept, slope and a residual of this standard deviation, [S, T]."""
    c = DESIGN @ OMEGA @ DESIGN.T + np.diag(np.broadcast_to(sd, TIMES.shape) ** 2)
    values, vectors = np.linalg.eigh(c)
    return (y - MEAN) @ (vectors @ np.diag(values**-0.5) @ vectors.T)


def simulated(rng, sd):
    eta = rng.standard_normal((SUBJECTS, 2)) * np.sqrt(np.diag(OMEGA))
    return MEAN + eta @ DESIGN.T + np.broadcast_to(sd, TIMES.shape) * rng.standard_normal((SUBJECTS, len(TIMES)))


def table(residual):
    n = residual.shape[0]
    return pd.DataFrame(
        {
            "ID": np.repeat(np.arange(n), len(TIMES)),
            "TIME": np.tile(TIMES, n),
            "PRED": np.tile(MEAN, n),
            "CWRES": residual.ravel(),
        }
    )


def p_values(make, count, seed):
    """P and "P Holm" of every test for so many simulated sets, [count, tests] each."""
    rng = np.random.default_rng(seed)
    found = [dn.residual_tests(table(make(rng))) for _ in range(count)]
    return pd.DataFrame([f.set_index("Test")["P"] for f in found]), np.array([f["P Holm"].min() for f in found])


def test_false_alarms_are_as_rare_as_said():
    p, least = p_values(lambda rng: whitened(simulated(rng, 0.4), 0.4), 400, 1)
    low, high = stats.binom.ppf([0.0005, 0.9995], 400, 0.05)
    alarms = (p < 0.05).sum()
    assert list(p.columns) == list(TESTS)
    assert ((alarms >= low) & (alarms <= high)).all(), alarms
    # not only at 5%: the p-values are uniform
    for name in p:
        assert stats.kstest(p[name], "uniform").pvalue > 1e-4, name
    assert (least < 0.05).sum() <= high


def found_in(make, name, seed, count=60):
    p, _ = p_values(make, count, seed)
    return float((p[name] < 0.05).mean())


def test_a_wrong_residual_model_is_found():
    """Proportional residuals taken for additive ones with the right variance on the average."""
    sd = 0.14 * MEAN
    average = np.sqrt(np.mean(sd**2))
    assert found_in(lambda rng: whitened(simulated(rng, sd), average), "spread with PRED", 2) > 0.9


def test_a_wrong_variance_is_found():
    assert found_in(lambda rng: whitened(simulated(rng, 0.5), 0.4), "variance", 3) > 0.9


def test_a_wrong_structure_is_found():
    """A bend in time that the line of the model does not have."""
    bend = 0.35 * np.sin(np.pi * TIMES / 9.0)
    assert found_in(lambda rng: whitened(simulated(rng, 0.4) + bend, 0.4), "curve in TIME", 4) > 0.9


def test_heavy_tails_are_found():
    assert found_in(lambda rng: stats.t(3).rvs((SUBJECTS, 6), random_state=rng) / 3**0.5, "normality", 5) > 0.9


def test_residuals_that_follow_each_other_are_found():
    def correlated(rng):
        white = rng.standard_normal((SUBJECTS, 6))
        for j in range(1, 6):
            white[:, j] = 0.5 * white[:, j - 1] + np.sqrt(0.75) * white[:, j]
        return white

    assert found_in(correlated, "autocorrelation", 6) > 0.9


def test_a_shift_and_trends_are_found():
    assert found_in(lambda rng: 0.4 + rng.standard_normal((SUBJECTS, 6)), "mean", 7) > 0.9
    slope = 0.8 * (TIMES - TIMES.mean()) / TIMES.std() / 2
    for name in ("trend with TIME", "trend with PRED"):
        assert found_in(lambda rng: slope + rng.standard_normal((SUBJECTS, 6)), name, 8) > 0.9


@pytest.fixture(scope="module")
def fit():
    return dn.evaluate_ofv(contract.Oral(), dn.read_nonmem(contract.records([list(TIMES)] * 6, seed=3)))


@pytest.mark.parametrize("residual", ["CWRES", "WRES", "IWRES"])
def test_the_numbers_are_those_of_scipy(fit, residual):
    rows = fit.predictions()
    r, n = rows[residual].to_numpy(), len(rows)
    by_subject = r.reshape(6, 6)
    expected = {
        "mean": stats.ttest_1samp(r, 0.0),
        "normality": stats.shapiro(r),
        "trend with TIME": stats.spearmanr(rows["TIME"], r),
        "trend with PRED": stats.spearmanr(rows["PRED"], r),
        "spread with PRED": stats.spearmanr(rows["PRED"], np.abs(r)),
        "autocorrelation": stats.spearmanr(by_subject[:, :-1].ravel(), by_subject[:, 1:].ravel()),
    }
    found = dn.residual_tests(fit, residual).set_index("Test")
    for name, (statistic, p) in expected.items():
        assert found.loc[name, "Statistic"] == pytest.approx(statistic, rel=1e-10), name
        assert found.loc[name, "P"] == pytest.approx(p, rel=1e-8), name
    assert found.loc["autocorrelation", "N"] == 30 and found.loc["mean", "N"] == n == 36
    assert found.loc["variance", "Statistic"] == pytest.approx(np.sum((r - r.mean()) ** 2), rel=1e-10)
    tail = stats.chi2(n - 1).cdf(np.sum((r - r.mean()) ** 2))
    assert found.loc["variance", "P"] == pytest.approx(2 * min(tail, 1 - tail), rel=1e-8)


def test_the_curve_is_a_regression(fit):
    """The t of the square is that of the residuals of both sides after the line is taken out (Frisch and Waugh)."""
    rows = fit.predictions()
    rank, r = stats.rankdata(rows["TIME"]), rows["CWRES"].to_numpy()
    line = np.stack([np.ones(len(r)), rank], 1)
    a, b = (v - line @ np.linalg.lstsq(line, v)[0] for v in (rank**2, r))
    rho = a @ b / np.sqrt((a @ a) * (b @ b))
    expected = rho * np.sqrt((len(r) - 3) / (1 - rho**2))
    found = dn.residual_tests(fit).set_index("Test").loc["curve in TIME"]
    assert found["Statistic"] == pytest.approx(expected, rel=1e-8)
    assert found["P"] == pytest.approx(2 * stats.t(len(r) - 3).sf(abs(expected)), rel=1e-6)


def test_predictions_that_differ_by_rounding_are_ties(fit):
    """People alike have the same PRED but for the last digit, which must not order their residuals."""
    rows = fit.predictions()[["ID", "TIME", "PRED", "CWRES"]]
    rows["PRED"] = np.resize([1e-7, 3e-7, 2.0, 5.0], len(rows))
    shaken = rows.assign(PRED=rows["PRED"] * (1 + 1e-14 * np.random.default_rng(1).standard_normal(len(rows))))
    pd.testing.assert_frame_equal(dn.residual_tests(shaken), dn.residual_tests(rows), rtol=1e-12)
    expected = stats.spearmanr(rows["PRED"], rows["CWRES"])[0]
    assert dn.residual_tests(shaken).set_index("Test").loc["trend with PRED", "Statistic"] == pytest.approx(expected)


def test_order_of_the_table_and_other_residuals(fit):
    """A table has what a fit has; subjects need not stand together; any column can be tested."""
    rows = fit.predictions()
    expected = dn.residual_tests(fit).drop(columns="Endpoint")
    mixed = rows.sort_values(["TIME", "ID"], kind="stable").rename(columns={"CWRES": "NPDE"})
    found = dn.residual_tests(mixed, "NPDE").drop(columns="Endpoint")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_endpoints_are_tested_apart():
    times = [list(TIMES)] * 4
    frame = contract.records(times)
    effect = frame[frame["EVID"] == 0].assign(DVID=2)
    effect["DV"] = 10.0 - 0.5 * effect["DV"] + 0.3 * np.sin(np.arange(len(effect)))
    both = pd.concat([frame.assign(DVID=1), effect]).sort_values(["ID", "TIME"], kind="stable")
    population = dn.read_nonmem(both.reset_index(drop=True), endpoints={1: "cp", 2: "effect"})
    found = dn.evaluate_ofv(contract.TwoEndpoints(), population)
    table = dn.residual_tests(found)
    assert list(table["Endpoint"].unique()) == ["cp", "effect"] and len(table) == 2 * len(TESTS)
    rows = found.predictions()
    for name, own in table.groupby("Endpoint"):
        r = rows.loc[rows["DVID"] == name, "CWRES"]
        assert own.iloc[0]["P"] == pytest.approx(stats.ttest_1samp(r, 0.0)[1], rel=1e-8)


class CountAndConcentration(contract.Oral):
    """The first endpoint has no residuals."""

    def observe(self, theta, p, x):
        f = x.central / p.v
        count = torch.distributions.Poisson(f + 0.1, validate_args=False)
        return {"count": count, "cp": dn.Normal(f, dn.combined2(f, theta.a, theta.b))}


def test_an_endpoint_without_residuals_does_not_lend_its_name():
    frame = contract.records([list(TIMES)] * 4)
    count = frame[frame["EVID"] == 0].assign(DVID=1)
    count["DV"] = count["DV"].round()
    both = pd.concat([frame.assign(DVID=2), count]).sort_values(["ID", "TIME"], kind="stable")
    population = dn.read_nonmem(both.reset_index(drop=True), endpoints={1: "count", 2: "cp"})
    fit = dn.evaluate_ofv(CountAndConcentration(), population, dn.Laplace())
    assert set(dn.residual_tests(fit)["Endpoint"]) == {"cp"}


def test_large_sets_are_tested_by_moments():
    residual = np.random.default_rng(9).standard_normal((900, 6))
    row = dn.residual_tests(table(residual)).set_index("Test").loc["normality"]
    assert row["By"] == "D'Agostino"
    assert row["P"] == pytest.approx(stats.normaltest(residual.ravel())[1], rel=1e-8)


def test_what_cannot_be_tested_says_why():
    rows = table(np.random.default_rng(2).standard_normal((9, 6)))
    rows["PRED"] = 3.0
    rows["ID"] = np.arange(len(rows))
    found = dn.residual_tests(rows).set_index("Test")
    assert found.loc["trend with PRED", "By"] == "PRED all the same"
    assert found.loc["curve in PRED", "By"] == "PRED with fewer than 3 values"
    assert found.loc["autocorrelation", "By"] == "0 pairs, too few"
    assert found["P"].isna().sum() == found["P Holm"].isna().sum() == 4


def test_holm():
    """The example of Holm's procedure: sorted, times 4, 3, 2, 1, never falling."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005])), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])


def test_refuses(fit):
    with pytest.raises(dn.ModelError, match=r"Invalid `residual`: got 'NPDE'\. It is one of CWRES, WRES, IWRES\."):
        dn.residual_tests(fit, "NPDE")
    with pytest.raises(dn.ModelError, match="a table without PRED"):
        dn.residual_tests(fit.predictions().drop(columns="PRED"))
    with pytest.raises(dn.ModelError, match=r"got 5 for `dv`. Tests need 8 of them"):
        dn.residual_tests(fit.predictions().iloc[:5])
    with pytest.raises(dn.ModelError, match=r"got Oral. It is a fit or a table"):
        dn.residual_tests(contract.Oral())
    counts = dn.evaluate_ofv(contract.Counts(), contract.longitudinal("counts"), dn.Laplace())
    with pytest.raises(dn.ModelError, match=r"Invalid `CWRES`: got none. Tests need residuals."):
        dn.residual_tests(counts)
