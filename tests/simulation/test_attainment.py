"""Target attainment: counts, intervals and their coverage."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from torch import exp

import deepnlme as dn
from deepnlme.simulation.attainment import describe
from deepnlme.simulation.proportions import clopper_pearson, wilson


class Bolus(dn.Model):
    cl = dn.Positive(2.0)
    v = dn.Positive(20.0)
    eta = dn.RandomEffects("cl", omega=0.09)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v)

    def observe(self, theta, p, x):
        return dict(cp=dn.Normal(x.central / p.v, 1.0))


@pytest.mark.parametrize(("k", "n"), [(0, 12), (12, 12), (1, 9), (81, 263), (999, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_of_a_proportion(k, n, level):
    test = stats.binomtest(k, n)
    assert wilson(k, n, level) == pytest.approx(tuple(test.proportion_ci(level, "wilson")), rel=1e-12, abs=1e-15)
    assert clopper_pearson(k, n, level) == pytest.approx(tuple(test.proportion_ci(level, "exact")), rel=1e-9)


def test_the_share_that_a_log_normal_clearance_has():
    arms = {"low": dn.Dose(400), "high": dn.Dose(1000)}
    people = dn.virtual_population(4000, arms=arms)
    sim = dn.simulate(Bolus(), people, times=np.linspace(0, 150, 301), replicates=3, residual=False)
    found = dn.target_attainment(dn.exposure(sim, method="linear-up log-down"), {"AUC": (250, 600)})
    assert found["arm"].tolist() == ["low", "high"] and found["N"].tolist() == [12_000] * 2
    cl = stats.lognorm(0.3, scale=2.0)
    for dose, (_, row) in zip((400, 1000), found.iterrows(), strict=True):
        true = cl.cdf(dose / 250) - cl.cdf(dose / 600)
        assert abs(row["PROPORTION"] - true) < 4 * np.sqrt(true * (1 - true) / 12_000)
        assert row["LOW"] < row["PROPORTION"] < row["HIGH"]


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    n = 600
    data = dict(
        REP=np.repeat([1, 2, 3], n // 3),
        ID=np.tile(np.arange(n // 3), 3),
        arm=np.tile(np.repeat(["b", "a"], n // 6), 3),
        sex=rng.choice(["f", "m"], n),
        AUC=rng.lognormal(6, 0.4, n),
        T_ABOVE_PCT=rng.uniform(0, 100, n),
    )
    return pd.DataFrame(data)


def test_counts_one_row_at_a_time(table):
    table.loc[[3, 7, 250], "AUC"] = np.nan
    target = {"AUC": (300, 600), "T_ABOVE_PCT": (">", 20)}
    found = dn.target_attainment(table, target, by=["arm", "sex"], level=0.9)
    assert found["arm"].tolist()[0] == "b" and len(found) == 4
    for _, row in found.iterrows():
        k, n, missing, by_rep = 0, 0, 0, {1: [0, 0], 2: [0, 0], 3: [0, 0]}
        for _, subject in table[(table["arm"] == row["arm"]) & (table["sex"] == row["sex"])].iterrows():
            if np.isnan(subject["AUC"]):
                missing += 1
                continue
            met = 300 <= subject["AUC"] <= 600 and subject["T_ABOVE_PCT"] > 20
            k, n = k + met, n + 1
            by_rep[subject["REP"]][0] += met
            by_rep[subject["REP"]][1] += 1
        assert (row["N"], row["MISSING"], row["PROPORTION"]) == (n, missing, pytest.approx(k / n))
        p = np.array([a / b for a, b in by_rep.values()])
        m = np.array([b for _, b in by_rep.values()])
        effect = max(1.0, np.sum(m * (p - k / n) ** 2) / 2 / (k / n * (1 - k / n)))
        assert row["N_EFFECTIVE"] == pytest.approx(n / effect)
        assert row["REPLICATES"] == 3 and row["REP_MEDIAN"] == pytest.approx(np.median(p))
        assert [row["REP_LOW"], row["REP_HIGH"]] == pytest.approx(np.percentile(p, [5, 95]))


def test_targets_of_every_form(table):
    auc, above = table["AUC"], table["T_ABOVE_PCT"]
    for target, met, words in (
        ({"AUC": (300, None)}, auc >= 300, "300 <= AUC"),
        ({"AUC": (None, 400)}, auc <= 400, "AUC <= 400"),
        ({"AUC": ("<=", 400)}, auc <= 400, "AUC <= 400"),
        (
            {"T_ABOVE_PCT": (">=", 50), "AUC": ("<", 500)},
            (above >= 50) & (auc < 500),
            "T_ABOVE_PCT >= 50 and AUC < 500",
        ),
        (lambda t: t["AUC"] / t["T_ABOVE_PCT"] > 5, auc / above > 5, "target"),
    ):
        found = dn.target_attainment(table, target, by=None)
        assert found["PROPORTION"].tolist() == [pytest.approx(met.mean())]
        assert describe(target) == words


def test_without_arms_and_without_replicates(table):
    one = dn.target_attainment(table.drop(columns=["arm", "REP"]), {"AUC": (300, 600)})
    assert len(one) == 1 and "REP_MEDIAN" not in one and "arm" not in one
    assert one["N_EFFECTIVE"].tolist() == [600]


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_the_interval_covers_also_when_replicates_differ(spread):
    """Trials whose own probability varies about 0.7; the Monte-Carlo interval is about the mean of all trials."""
    rng = np.random.default_rng(8)
    covered, n, replicates, runs = 0, 100, 60, 300
    for _ in range(runs):
        p = rng.uniform(0.7 - spread, 0.7 + spread, replicates)
        met = rng.random((replicates, n)) < p[:, None]
        table = pd.DataFrame(dict(REP=np.repeat(np.arange(replicates), n), X=met.ravel().astype(float)))
        row = dn.target_attainment(table, {"X": (">", 0.5)}).iloc[0]
        covered += row["LOW"] <= 0.7 <= row["HIGH"]
    assert covered >= stats.binom(runs, 0.95).ppf(0.001)
    assert covered <= stats.binom(runs, 0.975).ppf(0.999)


def test_the_interval_between_replicates_holds_the_next_trial():
    rng = np.random.default_rng(9)
    p = rng.uniform(0.5, 0.8, 4000)
    met = (rng.random((4000, 500)) < p[:, None]).astype(float)
    table = pd.DataFrame(dict(REP=np.repeat(np.arange(4000), 500), X=met.ravel()))
    row = dn.target_attainment(table, {"X": (">", 0.5)}).iloc[0]
    assert [row["REP_LOW"], row["REP_MEDIAN"], row["REP_HIGH"]] == pytest.approx([0.5, 0.65, 0.8], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(target={"CMAX": (1, 2)}), "`target`: got 'CMAX'. The table has REP, ID"),
        (dict(target={"T_ABOVE": (1, 2)}), "Give dn.exposure a threshold"),
        (dict(target={"sex": (1, 2)}), "A target is about a column of numbers"),
        (dict(target={"AUC": 400}), "`target`: got 400 for AUC. It is a range"),
        (dict(target={"AUC": ("=", 400)}), "got ('=', 400) for AUC"),
        (dict(target={"AUC": (None, None)}), "got (None, None) for AUC"),
        (dict(target={"AUC": (600, 400)}), "got (600, 400) for AUC. A range is (low, high)"),
        (dict(target={}), "got an empty dict"),
        (dict(target=5), "`target`: got 5. It is a dict such as"),
        (dict(target=lambda t: t["AUC"]), "got float64 of shape (600,) from the function. It returns a bool"),
        (dict(target={"AUC": ([300], 600)}), "got ([300], 600) for AUC"),
        (dict(by=3), "`by`: got 3. The table has"),
        (dict(by="dose"), "`by`: got 'dose'. The table has"),
        (dict(level=95), "`level`: got 95. It is a number between 0 and 1"),
    ],
)
def test_mistakes(table, arguments, message):
    with pytest.raises(dn.ModelError) as error:
        dn.target_attainment(table, **{"target": {"AUC": (300, 600)}, **arguments})
    assert message in str(error.value)


def test_nothing_to_judge(table):
    with pytest.raises(dn.ModelError, match=r"`exposures`: got no rows"):
        dn.target_attainment(table.head(0), {"AUC": (1, 2)})
    with pytest.raises(dn.ModelError, match=r"`exposures`: got ndarray. It is the table that dn.exposure returns"):
        dn.target_attainment(np.ones(3), {"AUC": (1, 2)})
    table.loc[table["arm"] == "a", "AUC"] = np.nan
    with pytest.raises(dn.ModelError, match=r"got no value that is known for arm a"):
        dn.target_attainment(table, {"AUC": (1, 2)})
