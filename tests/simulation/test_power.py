"""Power of a t-test between two arms of normal observations, whose power is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import deepnlme as dn

N, TRIALS = 20, 1500


class TwoArms(dn.Model):
    """Nothing but an observation: between-subject and residual variance add up."""

    base = dn.Real(10.0)
    effect = dn.Real(2.0)
    sd = dn.Positive(1.5)
    eta = dn.RandomEffects("base", omega=4.0)

    def individual(self, theta, eta, cov):
        return dict(level=theta.base + theta.effect * cov.arm + eta.base)

    def observe(self, theta, p, x):
        return dict(y=dn.Normal(p.level, theta.sd))


def t_test(table):
    return stats.ttest_ind(table.loc[table["arm"] == "active", "DV"], table.loc[table["arm"] == "placebo", "DV"]).pvalue


@pytest.fixture(scope="module")
def people():
    return dn.virtual_population(N, arms={"placebo": None, "active": None})


@pytest.fixture(scope="module")
def trials(people):
    return dn.simulate(TwoArms(), people, times=[0.0], replicates=TRIALS, seed=2)


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_power_and_type_one_error_of_a_t_test(people, trials, effect):
    sim = trials if effect else dn.simulate(TwoArms(effect=0.0), people, times=[0.0], replicates=TRIALS, seed=5)
    found = dn.trial_power(sim, t_test, alpha=0.05, level=0.99)
    degrees, noncentral = 2 * N - 2, effect / np.sqrt((4.0 + 1.5**2) * 2 / N)
    edge = stats.t.isf(0.025, degrees)
    true = stats.nct.sf(edge, degrees, noncentral) + stats.nct.cdf(-edge, degrees, noncentral)
    assert true == pytest.approx(0.05 if effect == 0 else 0.69, abs=0.02)
    assert found.low < true < found.high
    assert found.trials == TRIALS and found.failed == 0
    assert found.power == found.rejected / TRIALS == np.mean(found.p_values <= 0.05)
    exact = stats.binomtest(found.rejected, TRIALS).proportion_ci(0.99, "exact")
    assert (found.low, found.high) == pytest.approx(tuple(exact))
    if effect == 0:
        assert stats.kstest(found.p_values, "uniform").pvalue > 0.01


def test_a_table_of_trials_and_a_test_that_only_says_yes_or_no(trials):
    whole = trials.table(slice(0, 50))
    found = dn.trial_power(whole, lambda table: t_test(table) <= 0.05)
    expected = [t_test(whole[whole["REP"] == k]) <= 0.05 for k in range(1, 51)]
    assert found.rejected == sum(expected) and np.isnan(found.p_values).all()


def test_a_test_that_fails_is_counted_and_not_a_rejection(trials):
    some = trials.table(slice(0, 10))

    def test(table):
        replicate = table["REP"].iloc[0]
        if replicate == 3:
            raise np.linalg.LinAlgError("singular")
        return float("nan") if replicate == 5 else 0.01

    found = dn.trial_power(some, test)
    assert (found.rejected, found.trials, found.failed, found.power) == (8, 10, 2, 0.8)
    assert found.failures == {3: "LinAlgError: singular", 5: "the p-value is NaN"}
    assert "rejected in 8 of 10 trials at alpha 0.05" in str(found)
    assert "the test failed in 2 trials, counted as not rejected; in trial 3: LinAlgError: singular" in str(found)


def test_mistakes(trials):
    some = trials.table(slice(0, 3))
    for arguments, message in (
        ((some, 5), "`test`: got 5. It is a function"),
        ((some, lambda t: 1.5), "`test`: got 1.5 for replicate 1. A test returns a p-value between 0 and 1"),
        ((some, lambda t: None), "`test`: got None for replicate 1"),
        (
            (some, lambda t: t["nothing"]),
            "`test`: got a failure in each of 3 trials. In the first: KeyError: 'nothing'",
        ),
        ((some, t_test, 5), "`alpha`: got 5"),
        ((some, t_test, 0.05, 95), "`level`: got 95"),
        ((some.drop(columns="REP"), t_test), "`sim`: got a table without REP or rows"),
        ((3, t_test), "`sim`: got int. It is a Simulation, or a table"),
    ):
        with pytest.raises(dn.ModelError) as error:
            dn.trial_power(*arguments)
        assert message in str(error.value)
    assert isinstance(some, pd.DataFrame)
