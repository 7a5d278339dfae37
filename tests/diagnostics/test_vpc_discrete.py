"""Shares of counts and survival curves are what plain loops find."""

import numpy as np
import pytest
import torch
from scipy import stats

import deepnlme as dn
from deepnlme.diagnostics.survival import kaplan_meier
from simulated_people import TIMES, Count, Survival, drawn
from slow_vpc import same_as


def count_sets(n=60, replicates=150):
    people = drawn(Count(), dn.Population([dn.Subject(i, None, (TIMES, np.ones(6))) for i in range(n)]))
    return dn.simulate(Count(), people, replicates=replicates)


def test_shares_of_counts_are_what_plain_loops_find():
    sets = count_sets()
    found = dn.vpc(sets, classes=[0, 2], level=0.9)
    assert found.kind == "categorical" and found.table.CATEGORY.unique().tolist() == ["0", "1 - 2", "> 2"]
    members = {"0": (0,), "1 - 2": (1, 2), "> 2": range(3, 100)}
    expected = {}
    for b, time in enumerate(TIMES):
        inside = [i for i, t in enumerate(sets.time) if t == time]
        for name, values in members.items():
            share = [sum(row[i] in values for i in inside) / 60 for row in [sets.observed, *sets.dv]]
            expected[b + 1, name] = (share[0], *np.quantile(share[1:], [0.05, 0.5, 0.95]))
    same_as(found.table, expected, "CATEGORY")


class Grade(dn.Model):
    """Categories, which have no mean."""

    level = dn.Real(0.2)
    eta = dn.RandomEffects("level", omega=0.3)

    def individual(self, theta, eta, cov):
        return dict(level=theta.level + eta.level)

    def observe(self, theta, p, x):
        level = p.level + 0.0 * x.time
        return dict(grade=torch.distributions.Categorical(logits=torch.stack([level, 0 * level, -level], -1)))


def test_categories_have_no_prediction_and_their_names_no_limit():
    people = [dn.Subject(i, None, (TIMES, np.arange(6.0) % 3), {"sex": "mf"[i % 2]}) for i in range(10)]
    sets = dn.simulate(Grade(), dn.Population(people), replicates=20)
    assert dn.vpc(sets, stratify="sex").strata == ("sex f", "sex m")
    with pytest.raises(dn.ModelError, match=r"`x`: got 'PRED' for endpoint grade.* categories have no mean"):
        dn.vpc(sets, x="PRED")
    with pytest.raises(dn.ModelError, match=r"`blq`: got 'sex'. It is a number, or a covariate with the limit: \(none"):
        dn.predictive_check(sets, blq="sex")


def test_classes_that_are_found_cover_all_values():
    table = dn.vpc(count_sets()).table
    np.testing.assert_allclose(table.groupby("BIN")["OBSERVED"].sum(), 1.0)
    assert table.CATEGORY.iloc[0] == "0"


def test_kaplan_meier_is_that_of_scipy():
    rng = np.random.default_rng(1)
    for n in (1, 5, 40):
        time, event = rng.integers(1, 15, (3, n)).astype(float), rng.random((3, n)) < 0.6
        at = np.array([0.0, 0.5, 1.0, 3.0, 7.5, 14.0, 20.0])
        got = kaplan_meier(time, event, at)
        for row in range(3):
            if not event[row].any():
                continue
            oracle = stats.ecdf(stats.CensoredData(time[row][event[row]], right=time[row][~event[row]])).sf
            np.testing.assert_allclose(got[row], oracle.evaluate(at), rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def events():
    end = np.random.default_rng(0).uniform(5, 25, 80)
    people = drawn(Survival(), dn.Population([dn.Subject(i, None, ([0.0], [1.0])) for i in range(80)]), upper=end)
    table = people.to_frame().assign(end=end)
    return dn.read_nonmem(table, covariates=["end"]), end


@pytest.mark.parametrize("given", ["end", 30.0, None])
def test_survival_curves_are_what_plain_loops_find(events, given):
    population, end = events
    sets = dn.simulate(Survival(), population, replicates=80)
    found = dn.vpc(sets, follow_up=given)
    if given != "end":
        y = population.records.dv
        end = np.where(population.records.cens < 0, y, np.inf if given is None else given)
    assert found.kind == "event"
    data = population.to_frame()

    def curve(time, event, t):
        alive = 1.0
        for u in sorted(set(time[event & (time <= t)])):
            alive *= 1.0 - (event & (time == u)).sum() / (time >= u).sum()
        return alive

    for row in found.table.iloc[::25].to_dict("records"):
        t = row["TIME"]
        observed = curve(data.DV.to_numpy(), data.CENS.to_numpy() == 0, t)
        each = [curve(np.minimum(one, end), one <= end, t) for one in sets.dv]
        got = [row[name] for name in ("OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH")]
        np.testing.assert_allclose(got, [observed, *np.quantile(each, [0.025, 0.5, 0.975])], rtol=1e-12, atol=1e-12)
        assert row["AT_RISK"] == (t <= data.DV).sum()


def test_events_detect_a_wrong_median(events):
    population, _ = events
    right = dn.vpc(dn.simulate(Survival(), population, replicates=200), follow_up="end").table.OUTSIDE.mean()
    wrong = dn.vpc(dn.simulate(Survival(median=16.0), population, replicates=200), follow_up="end").table.OUTSIDE.mean()
    assert right < 0.15 and wrong > 0.5


def test_events_that_are_refused(events):
    population, _ = events
    sets = dn.simulate(Survival(), population, replicates=10)
    with pytest.raises(dn.ModelError, match="`follow_up`: got 1 for subject"):
        dn.vpc(sets, follow_up=1.0)
    with pytest.raises(dn.ModelError, match="`follow_up`: got 'stop'"):
        dn.vpc(sets, follow_up="stop")
    with pytest.raises(dn.ModelError, match=r"`kind`: got 'event' for subject 0. Each subject has one time"):
        dn.vpc(count_sets(6, 10), kind="event")
    with pytest.raises(dn.ModelError, match=r"`prediction_corrected`: got True. It is for continuous endpoints"):
        dn.vpc(sets, prediction_corrected=True)
