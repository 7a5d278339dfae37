"""Predictions for new subjects: conjugate posteriors by hand, grids against closed forms, batches against loops."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm, poisson

import contract_models as cm
import deepnlme as dn
from deepnlme.estimation import individual_curves
from deepnlme.estimation.intervals import normal_mixture_quantile, quantile
from deepnlme.estimation.posterior import posterior, standard_draws

METHODS = (dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace())
NUMBERS = ["PRED", "IPRED", "IPRED_LOW", "IPRED_HIGH", "DV_LOW", "DV_HIGH"]


class Level(dn.Model):
    """y = a + eta + eps, which is conjugate."""

    a = dn.Real(3.0)
    sd = dn.Positive(0.5)
    eta = dn.RandomEffects("a", omega=0.8)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a, theta.sd))


class Line(Level):
    """y = (a + eta_a) + (b + eta_b) t + eps with correlated effects."""

    b = dn.Real(-0.4)
    eta = dn.RandomEffects("a", "b", block=True, omega=[[0.8, 0.15], [0.15, 0.09]])

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + p.b * x.time, theta.sd))


class Visits(Level):
    """The level differs between occasions too."""

    iov = dn.RandomEffects("k", omega=0.3, by="occasion")

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a + eta.k)


def subject(id, times, values, **rest):
    return dn.Subject(id, None, (times, values), **rest)


def numbers(table):
    return table[[name for name in NUMBERS if name in table]].to_numpy()


def line_posterior(times, values):
    """Mean and covariance of (eta_a, eta_b) by the formulas of the linear normal model."""
    omega = np.array([[0.8, 0.15], [0.15, 0.09]])
    x = np.stack([np.ones(len(times)), times], 1)
    covariance = np.linalg.inv(np.linalg.inv(omega) + x.T @ x / 0.25)
    return covariance @ x.T @ (np.array(values) - x @ [3.0, -0.4]) / 0.25, covariance


TRAINING = dn.Population([subject(i, [0.0, 1.0, 2.0], [3.0 + 0.3 * i, 3.1, 2.0 - 0.2 * i]) for i in range(1, 5)])
NEW = dn.Population(
    [
        subject(1, [0.5, 2.0, 4.0], [4.2, 3.9, 3.1]),
        subject("2", [1.0], [1.1]),
        dn.Subject(3, None, ([0.0, 3.0], None)),
    ]
)
SEEN = {1: ([0.5, 2.0, 4.0], [4.2, 3.9, 3.1]), 2: ([1.0], [1.1]), 3: ([], [])}


# ---- conjugate posteriors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_level_has_the_conjugate_posterior(method):
    """N(m, v) with 1/v = 1/omega + n/sigma2; an observation has v + sigma2. One effect has no Monte-Carlo error."""
    fit = dn.evaluate_ofv(Level(), TRAINING, method)
    table = fit.predict(NEW, [1.0, 9.0], level=0.9, draws=1000)
    assert table.columns.tolist() == ["ID", "TIME", *NUMBERS]
    assert table.ID.tolist() == [1, 1, 2, 2, 3, 3] and table.TIME.tolist() == [1.0, 9.0] * 3
    z = norm.ppf(0.95)
    for id, (_, values) in SEEN.items():
        v = 1 / (1 / 0.8 + len(values) / 0.25)
        m = v * (3.0 / 0.8 + sum(values) / 0.25)
        expected = [3.0, m, m - z * v**0.5, m + z * v**0.5, m - z * (v + 0.25) ** 0.5, m + z * (v + 0.25) ** 0.5]
        rows = table[id == table.ID]
        np.testing.assert_allclose(rows[["PRED", "IPRED"]], [expected[:2]] * 2, rtol=1e-9)
        np.testing.assert_allclose(rows[NUMBERS[2:]], [expected[2:]] * 2, atol=2e-3)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_line_has_the_conjugate_posterior(method):
    fit = dn.evaluate_ofv(Line(), TRAINING, method)
    found = posterior(fit, NEW, 1)
    lower = np.linalg.cholesky([[0.8, 0.15], [0.15, 0.09]])
    for i, (times, values) in enumerate(SEEN.values()):
        mean, covariance = line_posterior(times, values)
        np.testing.assert_allclose(lower @ found.mode[i], mean, atol=1e-8)
        factor = lower @ found.factor[i]
        np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-7)


def test_intervals_of_a_line():
    """Two effects: the draws' quantiles have Monte-Carlo error, at 20000 draws about 0.02 standard deviations."""
    fit = dn.evaluate_ofv(Line(), TRAINING)
    grid = np.array([0.0, 1.0, 3.0, 8.0])
    table = fit.predict(NEW, grid, level=0.95, draws=20000, seed=3)
    for id, (times, values) in SEEN.items():
        mean, covariance = line_posterior(times, values)
        x = np.stack([np.ones(4), grid], 1)
        center, sd = x @ (np.array([3.0, -0.4]) + mean), np.sqrt(np.einsum("ti,ij,tj->t", x, covariance, x))
        rows = table[id == table.ID]
        np.testing.assert_allclose(rows.PRED, 3.0 - 0.4 * grid, rtol=1e-12)
        np.testing.assert_allclose(rows.IPRED, center, atol=1e-8)
        for sign, end in ((-1.96, "LOW"), (1.96, "HIGH")):
            assert (np.abs(rows[f"IPRED_{end}"] - center - sign * sd) < 0.06 * sd).all()
            wide = np.sqrt(sd**2 + 0.25)
            assert (np.abs(rows[f"DV_{end}"] - center - sign * wide) < 0.06 * wide).all()


def test_without_any_observation_the_prior_speaks():
    fit = dn.evaluate_ofv(Line(), TRAINING)
    nobody = dn.Population([dn.Subject(i, None, ([0.0, 2.0], None)) for i in (1, 2)])
    table = fit.predict(nobody, level=0.5, draws=20000)
    np.testing.assert_array_equal(table.IPRED, table.PRED)
    sd = np.sqrt([0.8, 0.8 + 4 * 0.15 + 4 * 0.09] * 2)
    np.testing.assert_allclose(table.IPRED_HIGH - table.IPRED_LOW, 2 * norm.ppf(0.75) * sd, rtol=0.03)
    assert table.DV.isna().all()


def test_occasions_without_data_come_from_the_prior():
    """a + eta + k_o: after 2 observations at the first occasion, the second one has its k from the prior."""
    fit = dn.evaluate_ofv(Visits(), dn.Population([*_visits(TRAINING)]))
    new = dn.Population([subject(1, [0.0, 1.0], [4.0, 4.5], occasions=[0.0]), _two_visits(2, [4.0, 4.5])])
    times = {1: [5.0], 2: [1.0, 11.0]}
    table = fit.predict(new, times, level=0.9, draws=20000)
    omega = np.array([[0.8, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3]])
    x = np.array([[1.0, 1.0, 0.0]] * 2)
    covariance = np.linalg.inv(np.linalg.inv(omega) + x.T @ x / 0.25)
    mean = covariance @ x.T @ (np.array([4.0, 4.5]) - 3.0) / 0.25
    for row, at in zip((0, 1, 2), ([1, 1, 0], [1, 1, 0], [1, 0, 1]), strict=True):
        center, sd = 3.0 + at @ mean, np.sqrt(at @ covariance @ at)
        assert table.IPRED[row] == pytest.approx(center, abs=1e-8)
        assert table.IPRED_HIGH[row] == pytest.approx(center + norm.ppf(0.95) * sd, abs=0.05 * sd)
    # a subject's numbers do not depend on how many occasions others have
    np.testing.assert_allclose(numbers(fit.predict(new[:1], {1: [5.0]}, 0.9, 20000)), numbers(table)[:1], rtol=1e-9)


def _visits(population):
    return [subject(s.id, s.time, s.dv, occasions=[0.0, 1.5]) for s in population]


def _two_visits(id, values):
    frame = pd.DataFrame(
        dict(ID=id, TIME=[0.0, 1.0, 10.0], DV=[*values, None], MDV=[0, 0, 1], OCC=[1, 1, 2]),
    )
    return dn.read_nonmem(frame)[0]


def test_draws_are_stratified_and_those_of_early_occasions_stay():
    few, many = (standard_draws(Visits(), n, 50, seed=4) for n in (1, 3))
    assert many.shape == (50, 4)
    np.testing.assert_array_equal(few, many[:, :2])
    np.testing.assert_allclose(np.sort(many, 0), np.tile(norm.ppf((np.arange(50) + 0.5) / 50)[:, None], 4))
    assert np.abs(np.corrcoef(many.T) - np.eye(4)).max() < 0.5
    assert not np.array_equal(few, standard_draws(Visits(), 1, 50, seed=5))


# ---- every kind of model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "method"), cm.PAIRS, ids=cm.PAIR_IDS)
def test_the_subjects_of_the_fit_are_predicted_as_in_its_table(case, method):
    """Also when they come as new ones, together or one by one: the EBEs are found again."""
    population = case.population()
    fit = dn.evaluate_ofv(case.model(), population, method)
    at_eta = None if method.uses_omega else np.zeros((len(population), fit.joint.k))
    table = fit.predictions() if at_eta is None else dn.predict(case.model(), population, eta=at_eta)
    own = fit.predict(draws=20)
    for name in ("ID", "TIME", "DV"):
        assert own[name].tolist() == table[name].tolist()
    np.testing.assert_allclose(own[["PRED", "IPRED"]], table[["PRED", "IPRED"]], rtol=1e-9)
    ends = own[NUMBERS[2:]].to_numpy()
    assert np.isfinite(ends).all() and (ends[:, 0] <= ends[:, 1]).all() and (ends[:, 2] <= ends[:, 3]).all()
    if not method.uses_omega:
        np.testing.assert_array_equal(own.IPRED_LOW, own.IPRED)
    for new in (population[np.arange(len(population))], population[::-1]):
        found = fit.predict(new, draws=20).set_index("ID", append=False)
        for id in population.ids:
            np.testing.assert_allclose(numbers(found.loc[[id]]), numbers(own[id == own.ID]), rtol=1e-6, atol=1e-9)
    alone = pd.concat([fit.predict(population[[i]], draws=20) for i in range(len(population))])
    np.testing.assert_allclose(numbers(alone), numbers(own), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", cm.CASES, ids=lambda c: c.name)
def test_a_grid_passes_through_the_records(case):
    population = case.population()
    fit = dn.evaluate_ofv(case.model(), population, case.methods[-2])
    table = fit.predict(draws=20)
    r = population.records
    observed = {id: np.unique(r.time[(r.subject == i) & r.observed]) for i, id in enumerate(population.ids)}
    dense = fit.predict(
        times={id: np.union1d(t, np.linspace(t[0], t[-1] + 3, 17)) for id, t in observed.items()}, draws=20
    )
    keys = ["ID", "TIME", *(["DVID"] if "DVID" in table else [])]
    both = table.merge(dense, on=keys, suffixes=("", "_grid"))
    assert len(both) == len(table)
    sampled = case.name in ("counts", "binary", "Student t")  # as many draws, but of other places
    for name in NUMBERS[: 4 if sampled else 6]:
        np.testing.assert_allclose(both[f"{name}_grid"], both[name], rtol=1e-8, err_msg=name)


def test_parts_of_the_work_make_no_difference(monkeypatch):
    population = cm.occasions()
    fit = dn.evaluate_ofv(cm.Occasions(), population)
    whole = fit.predict(times=[1.0, 30.0], draws=30)
    for budget in (1, 40, 600):
        monkeypatch.setattr(individual_curves, "NUMBERS", budget)
        np.testing.assert_allclose(numbers(fit.predict(times=[1.0, 30.0], draws=30)), numbers(whole), rtol=1e-10)


def test_times_for_some_subjects_of_the_fit():
    fit = dn.evaluate_ofv(cm.Oral(), cm.plain())
    whole = fit.predict(times=[1.0, 7.0], draws=30)
    some = fit.predict(times={4: [7.0], 2: [1.0, 7.0]}, draws=30)
    assert some.ID.tolist() == [2, 2, 4] and some.TIME.tolist() == [1.0, 7.0, 7.0]
    np.testing.assert_allclose(numbers(some), numbers(whole)[[2, 3, 7]], rtol=1e-10)


def test_settings():
    fit = dn.evaluate_ofv(cm.Oral(), cm.plain())
    table = fit.predict(seed=1)
    pd.testing.assert_frame_equal(table, fit.predict(seed=1))
    assert not np.array_equal(table.IPRED_LOW, fit.predict(seed=2).IPRED_LOW)
    np.testing.assert_allclose(table.IPRED_LOW, fit.predict(seed=2).IPRED_LOW, rtol=0.1)
    assert fit.predict(draws=0).columns.tolist() == ["ID", "TIME", "DV", "PRED", "IPRED"]
    assert fit.predict(residual=False).columns.tolist() == ["ID", "TIME", "DV", *NUMBERS[:4]]
    narrow = fit.predict(level=0.5)
    for a, b in (("IPRED_LOW", "IPRED_HIGH"), ("DV_LOW", "DV_HIGH")):
        assert ((narrow[b] - narrow[a]) < (table[b] - table[a])).all()
    assert ((table.DV_HIGH - table.DV_LOW) > (table.IPRED_HIGH - table.IPRED_LOW)).all()


# ---- regimens and times ------------------------------------------------------------------------------------------


def oral(t, doses, ka, cl, v):
    """Concentration after doses [(time, amount)] by the Bateman function."""
    k, out = cl / v, np.zeros(len(t))
    for at, amount in doses:
        s = np.maximum(t - at, 0.0)
        out += amount / v * ka / (ka - k) * (np.exp(-k * s) - np.exp(-ka * s))
    return out


@pytest.mark.parametrize("model", [cm.Oral, cm.Ode])
def test_an_unseen_regimen(model):
    """Three observations after one dose; then other doses, additional ones after the last record among them."""
    fit = dn.evaluate_ofv(model(), cm.plain())
    doses = dn.Regimen(dn.Dose(100), dn.Dose(40, time=12, ii=6, addl=4))
    new = dn.Population([dn.Subject(9, doses, ([1.0, 4.0, 8.0], [3.9, 3.0, 1.5])), dn.Subject(10, doses)])
    grid = np.array([0.0, 0.5, 5.0, 12.0, 13.0, 18.0, 40.0])
    table = fit.predict(new, grid, draws=0)
    given = [(0.0, 100.0), *((12.0 + 6 * i, 40.0) for i in range(5))]
    one_dose = dn.Population([dn.Subject(9, dn.Dose(100), ([1.0, 4.0, 8.0], [3.9, 3.0, 1.5]))])
    eta = dn.evaluate_ofv(cm.Oral(), one_dose).ebes.eta[0]
    for id, effects in ((9, np.exp(eta)), (10, np.ones(3))):
        rows = table[id == table.ID]
        np.testing.assert_allclose(rows.PRED, oral(grid, given, 1.1, 2.7, 18.0), atol=1e-6)
        np.testing.assert_allclose(rows.IPRED, oral(grid, given, *effects * [1.1, 2.7, 18.0]), atol=1e-6)


def test_a_time_that_a_dose_has_is_after_it():
    class Bolus(cm.Oral):
        dynamics = dn.OneCompartment()

    fit = dn.evaluate_ofv(Bolus(), cm.plain())
    order = dict(order="observation-first")
    trough = dn.Subject(1, dn.Dose(100, ii=10, addl=1), ([10.0], [2.0]), **order)
    at_dose = dn.Subject(2, dn.Regimen(dn.Dose(100), dn.Dose(100, time=10)), ([10.0], None), **order)
    table = fit.predict(dn.Population([at_dose]), draws=0)
    after = fit.predict(dn.Population([trough, at_dose]), [10.0], draws=0)
    k = 2.7 / 18.0
    assert table.PRED[0] == pytest.approx(100 / 18 * np.exp(-10 * k))
    np.testing.assert_allclose(after.PRED, 100 / 18 * (1 + np.exp(-10 * k)))


class Turnover(dn.Model):
    """R' = kin - kout R, which starts away from its steady state; amounts given to it add."""

    kin = dn.Positive(2.0)
    kout = dn.Positive(0.25)
    r0 = dn.Positive(3.0)
    sd = dn.Positive(0.2)
    eta = dn.RandomEffects("kin", "r0", omega=0.1)

    def individual(self, theta, eta, cov):
        return dict(kin=theta.kin * torch.exp(eta.kin), kout=theta.kout, r0=theta.r0 * torch.exp(eta.r0))

    def initial(self, theta, p):
        return dict(r=p.r0)

    def dynamics(self, theta, p, t, x):
        return dict(r=p.kin - p.kout * x.r)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.r, theta.sd))


def test_an_ode_starts_at_the_first_record():
    """Before it the state is the initial one; asking for it changes nothing later."""
    data = dn.Population([subject(i, [2.0, 3.0, 6.0], [3.1, 4.0 + 0.1 * i, 5.5]) for i in (1, 2)])
    fit = dn.evaluate_ofv(Turnover(), data)
    eta = np.exp(fit.ebes.eta)
    grid = np.array([0.0, 1.0, 2.0, 4.0, 6.0, 10.0])
    table = fit.predict(times=grid, draws=50)
    s = np.maximum(grid - 2.0, 0.0)
    for i, id in enumerate((1, 2)):
        rows = table[id == table.ID]
        for name, (kin, r0) in dict(PRED=(2.0, 3.0), IPRED=eta[i] * [2.0, 3.0]).items():
            expected = kin / 0.25 + (r0 - kin / 0.25) * np.exp(-0.25 * s)
            np.testing.assert_allclose(rows[name], expected, atol=1e-6)
        np.testing.assert_allclose(rows.IPRED_LOW.iloc[0], rows.IPRED_LOW.iloc[2], atol=1e-6)
    later = fit.predict(times=grid[2:], draws=50)
    np.testing.assert_allclose(numbers(later), numbers(table[table.TIME >= 2.0]), atol=1e-6)
    np.testing.assert_allclose(numbers(fit.predict(draws=0)), fit.predictions()[["PRED", "IPRED"]], atol=1e-6)
    alone = pd.concat([fit.predict(data[[i]], grid, draws=50) for i in (0, 1)])
    np.testing.assert_allclose(numbers(alone), numbers(table), atol=1e-6)


class Decay(dn.Model):
    """A' = -k w A: the amount falls with the integral of a covariate, and is seen divided by it."""

    k = dn.Positive(0.1)
    sd = dn.Positive(0.1)
    eta = dn.RandomEffects("k", omega=0.04)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.k * cov.w * torch.exp(eta.k), v=torch.ones_like(cov.w), w=cov.w)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.w, theta.sd))


class DecayOde(Decay):
    def dynamics(self, theta, p, t, x):
        return dict(central=-p.cl * x.central)


@pytest.mark.parametrize("model", [Decay, DecayOde])
@pytest.mark.parametrize(
    ("rule", "integral", "at"),
    [
        # of w = 1, 2, 4 at 0, 4, 8, up to 1, 4, 5, 8, 10; and its value there
        ("nocb", [2, 8, 12, 24, 32], [2, 2, 4, 4, 4]),
        ("locf", [1, 4, 6, 12, 20], [1, 2, 2, 4, 4]),
        ("linear", [1.5, 6, 9, 18, 26], [1.25, 2, 2.5, 4, 4]),
    ],
)
def test_covariates_that_change_on_the_grid(model, rule, integral, at):
    frame = pd.DataFrame(
        dict(ID=1, TIME=[0.0, 4.0, 8.0], EVID=[1, 0, 0], AMT=[10.0, 0, 0], DV=[None, 3.0, 1.0], W=[1.0, 2.0, 4.0])
    )
    population = dn.read_nonmem(frame, covariates=["w"], interpolation=rule)
    fit = dn.evaluate_ofv(model(), population)
    factor = float(np.exp(fit.ebes.eta[0, 0]))
    for table in (
        fit.predict(times=[1.0, 4.0, 5.0, 8.0, 10.0]),
        fit.predict(population[[0]], [1.0, 4.0, 5.0, 8.0, 10.0]),
    ):
        for name, k in (("PRED", 0.1), ("IPRED", 0.1 * factor)):
            expected = 10.0 * np.exp(-k * np.array(integral)) / np.array(at)
            np.testing.assert_allclose(table[name], expected, atol=1e-6)
        assert (table.IPRED_LOW < table.IPRED).all() and (table.IPRED < table.IPRED_HIGH).all()
    np.testing.assert_allclose(numbers(table)[[1, 3]], numbers(fit.predict()), atol=1e-6)


# ---- endpoints ---------------------------------------------------------------------------------------------------


def test_two_endpoints():
    fit = dn.evaluate_ofv(cm.TwoEndpoints(), cm.two_endpoints())
    grid = fit.predict(times=[1.0, 2.0], draws=20)
    assert grid.DVID.tolist() == ["cp", "effect"] * 8
    assert grid.TIME.tolist() == [1.0, 1.0, 2.0, 2.0] * 4
    pairs = grid.pivot(index=["ID", "TIME"], columns="DVID")
    for name in ("PRED", "IPRED"):
        np.testing.assert_allclose(pairs[name, "effect"], 10.0 - 0.6 * pairs[name, "cp"], rtol=1e-12)
    np.testing.assert_allclose(pairs["IPRED_LOW", "effect"], 10.0 - 0.6 * pairs["IPRED_HIGH", "cp"], rtol=1e-3)
    rows = [
        dict(ID=1, TIME=0, EVID=1, AMT=100, DV=None, DVID=0, MDV=1),
        dict(ID=1, TIME=1, EVID=0, AMT=0, DV=4.0, DVID="cp", MDV=0),
        dict(ID=1, TIME=2, EVID=0, AMT=0, DV=None, DVID="effect", MDV=1),
        dict(ID=1, TIME=3, EVID=0, AMT=0, DV=None, DVID=None, MDV=1),
    ]
    table = fit.predict(dn.read_nonmem(pd.DataFrame(rows)), draws=20)
    assert table.TIME.tolist() == [1, 2, 3, 3] and table.DVID.tolist() == ["cp", "effect", "cp", "effect"]
    assert table.DV.iloc[0] == 4.0 and table.DV.iloc[1:].isna().all()
    assert table.PRED[3] == pytest.approx(10.0 - 0.6 * table.PRED[2])
    assert table.PRED[1] == pytest.approx(pairs["PRED", "effect"].loc[1, 2.0])
    numbered = [{**row, "DVID": {"cp": 1, "effect": 2}.get(row["DVID"], 0)} for row in rows]
    pd.testing.assert_frame_equal(fit.predict(dn.read_nonmem(pd.DataFrame(numbered)), draws=20), table)
    rows[2]["DVID"] = "taste"
    with pytest.raises(dn.DataError, match=r"`endpoint`: got 'taste' for subject 1, row 4 \(time 2\).*cp, effect"):
        fit.predict(dn.read_nonmem(pd.DataFrame(rows)))


def test_log_normal_observations_have_medians():
    """log y = a + eta + eps: the posterior is normal on that scale, and quantiles go through exp."""

    class Log(Level):
        def observe(self, theta, p, x):
            return dict(dv=dn.LogNormal(torch.exp(p.a), theta.sd))

    data = dn.Population([subject(s.id, s.time, np.exp(s.dv)) for s in TRAINING])
    fit = dn.evaluate_ofv(Log(), data)
    table = fit.predict(dn.Population([subject(1, [0.0, 1.0], np.exp([4.0, 4.4]))]), [2.0], level=0.8, draws=1000)
    v = 1 / (1 / 0.8 + 2 / 0.25)
    m, z = v * (3.0 / 0.8 + 8.4 / 0.25), norm.ppf(0.9)
    expected = [3.0, m, m - z * v**0.5, m + z * v**0.5, m - z * (v + 0.25) ** 0.5, m + z * (v + 0.25) ** 0.5]
    np.testing.assert_allclose(np.log(numbers(table)[0]), expected, atol=2e-3)


def test_counts_have_intervals_of_counts():
    """The mixture's quantiles, from the curve of every draw and scipy's distribution function."""
    population = cm.longitudinal("counts")
    fit = dn.evaluate_ofv(cm.Counts(), population, dn.Laplace())
    table = fit.predict(population[[0, 3]], draws=4000)
    found = posterior(fit, population[[0, 3]], 1)
    e = found.draws(standard_draws(fit.model, 1, 4000, 0)) * np.sqrt([0.2, 0.01])
    k = np.arange(60)
    for i, id in enumerate(population[[0, 3]].ids):
        rows = table[id == table.ID]
        for row in rows.itertuples():
            rate = 6.0 * np.exp(e[i, :, 0]) * np.exp((-0.2 + e[i, :, 1]) * row.TIME)
            cdf = poisson.cdf(k[:, None], rate).mean(1)
            # among the values that the sampling error of the distribution function leaves
            for p, got in ((0.025, row.DV_LOW), (0.975, row.DV_HIGH)):
                error = 4 * np.sqrt(p * (1 - p) / 4000)
                assert k[np.argmax(cdf >= p - error)] <= got <= k[np.argmax(cdf >= p + error)]
            assert np.sort(rate)[100] == pytest.approx(row.IPRED_LOW, rel=0.01)
    assert (table[["DV_LOW", "DV_HIGH"]] % 1 == 0).all(axis=None)
    state = torch.random.get_rng_state()
    fit.predict(draws=10)
    assert torch.equal(state, torch.random.get_rng_state())


def test_observations_drawn_for_a_subject_do_not_depend_on_the_others():
    """The first subject has none of the endpoint that needs draws; the others have them one by one."""

    class Both(Level):
        def observe(self, theta, p, x):
            return dict(level=dn.Normal(p.a, theta.sd), heavy=dn.StudentT(p.a + x.time, theta.sd, 4.0))

    values = {"level": ([0.0], [3.0]), "heavy": ([0.0, 1.0, 2.0], [3.0, 5.0, 4.0])}
    first = dn.Subject(1, None, {"level": values["level"]})
    population = dn.Population([first, *(dn.Subject(i, None, values) for i in (2, 3))])
    fit = dn.evaluate_ofv(Both(), population, dn.Laplace())
    table = fit.predict(draws=10)
    assert table.DVID.tolist() == ["level", *(2 * ["level", "heavy", "heavy", "heavy"])]
    two, three = (numbers(table[table.ID.eq(id)]) for id in (2, 3))
    np.testing.assert_allclose(two, three, rtol=1e-10)
    np.testing.assert_allclose(numbers(fit.predict(population[[2]], draws=10)), three, rtol=1e-6)


def test_a_distribution_without_samples_is_refused():
    class Half(torch.distributions.Normal):
        def sample(self, sample_shape=()):
            raise NotImplementedError

    class Custom(Level):
        def observe(self, theta, p, x):
            return dict(dv=Half(p.a, theta.sd))

    fit = dn.evaluate_ofv(Custom(), TRAINING, dn.Laplace())
    with pytest.raises(dn.ModelError, match=r"`residual`: got True, but Half has no `sample`\. Use residual=False"):
        fit.predict()
    np.testing.assert_allclose(
        fit.predict(residual=False).IPRED_LOW, dn.evaluate_ofv(Level(), TRAINING).predict().IPRED_LOW, rtol=1e-6
    )


@pytest.mark.parametrize(
    "network",
    [
        dn.MLP(inputs=2, hidden=(3,), outputs=1, prior=dn.L2(1.0), seed=2),
        dn.Network(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)), 2, 1),
    ],
    ids=["own weights", "shared weights"],
)
def test_a_network_predicts_as_it_was_fitted(network):
    class Net(cm.Oral):
        effect = network

        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f + theta.effect(f, p.ka), theta.a))

    population = cm.plain()
    fit = dn.evaluate_ofv(Net(), population)
    new = population[[2, 0]]
    table = fit.predict(new, draws=20)
    expected = fit.predictions().set_index("ID")
    for id in (3, 1):
        np.testing.assert_allclose(
            table[id == table.ID][["PRED", "IPRED"]], expected.loc[id, ["PRED", "IPRED"]], rtol=1e-7
        )


# ---- quantiles ---------------------------------------------------------------------------------------------------


def test_quantiles_of_draws():
    values = torch.tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64).reshape(1, 4, 1)
    for p, expected in ((0.5, 2.5), (0.125, 1.0), (0.01, 1.0), (0.75, 3.5), (0.99, 4.0)):
        assert float(quantile(values, p)) == pytest.approx(expected)
        assert float(quantile(values, p)) == pytest.approx(np.quantile(values.numpy().ravel(), p, method="hazen"))
    for p, expected in ((0.5, 2.0), (0.51, 3.0), (0.25, 1.0), (0.99, 4.0)):
        assert float(quantile(values, p, discrete=True)) == expected
    values[0, 1, 0] = torch.nan
    assert torch.isnan(quantile(values, 0.5)).all()


@pytest.mark.parametrize("width", [2.0, 0.3, 1e-3])
def test_quantiles_of_mixtures_of_normal_distributions(width):
    generator = np.random.default_rng(1)
    mean, sd = 5 * generator.standard_normal((2, 40, 3)), width * generator.uniform(0.5, 2, (2, 40, 3))
    for p in (0.02, 0.5, 0.99):
        q = normal_mixture_quantile(torch.tensor(mean), torch.tensor(sd), p).numpy()
        np.testing.assert_allclose(norm.cdf(q[:, None], mean, sd).mean(1), p, atol=1e-10)
    same = normal_mixture_quantile(
        torch.tensor(mean[:, :1]).repeat(1, 9, 1), torch.tensor(sd[:, :1]).repeat(1, 9, 1), 0.9
    )
    np.testing.assert_allclose(same, norm.ppf(0.9, mean[:, 0], sd[:, 0]), rtol=1e-12)
    nothing = torch.zeros(1, 5, 1, dtype=torch.float64)
    assert normal_mixture_quantile(nothing + 2.0, nothing, 0.1).item() == 2.0
    assert normal_mixture_quantile(nothing - torch.inf, nothing + 1.0, 0.1).item() == -torch.inf


# ---- what is refused, and what is said ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return dn.evaluate_ofv(cm.Oral(), cm.plain())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(level=1.0), "`level`: got 1.0, expected a number between 0 and 1"),
        (dict(level=95), "`level`: got 95, expected"),
        (dict(draws=-1), "`draws`: got -1, expected a whole number of at least 0. Use draws=0"),
        (dict(draws=2.5), "`draws`: got 2.5"),
        (dict(seed=-3), "`seed`: got -3"),
        (dict(residual="yes"), "`residual`: got 'yes', expected True or False"),
        (dict(times=[3.0, 1.0]), "`times`: got 1 after 3. Times increase"),
        (dict(times=[0.0, np.nan]), "`times`: got nan"),
        (dict(times={5: [1.0]}), "`times`: got subject 5. The 4 subjects are 1, 2, 3, 4"),
        (dict(population=3), "`population`: got int. It is a Population"),
        (dict(population=dn.Subject(1, dn.Dose(3))), r"`population`: got Subject.*Use dn.Population\(\[subject\]\)"),
        (dict(population=dn.Population([dn.Subject(1, dn.Dose(3))])), "`times`: got None.*no record with EVID=0.*Give"),
    ],
)
def test_refusals(fitted, arguments, message):
    with pytest.raises((dn.DataError, dn.ModelError), match=message):
        fitted.predict(**arguments)


def test_data_that_do_not_fit_the_model_are_refused():
    fit = dn.evaluate_ofv(cm.TimeVarying(), cm.time_varying())
    with pytest.raises(dn.DeepNLMEError, match="CRCL"):
        fit.predict(cm.plain())
    fit = dn.evaluate_ofv(cm.Occasions(), cm.occasions())
    with pytest.raises(dn.DataError, match="OCC"):
        fit.predict(cm.plain())
    fit = dn.evaluate_ofv(cm.Logarithmic(), cm.plain())
    with pytest.raises(dn.DataError, match="`dv`: got -1 for subject 7"):
        fit.predict(dn.Population([dn.Subject(7, dn.Dose(100), ([1.0], [-1.0]))]))
    fit = dn.evaluate_ofv(cm.Positive4(), cm.plain(), dn.Laplace())
    assert fit.predict(cm.censored("below"), draws=0).IPRED.notna().all()


class Sexes(Level):
    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a + 10.0 * cov.sex)


def test_texts_are_coded_as_in_the_fit():
    data = dn.Population([subject(i, [0.0], [3.0], covariates=dict(sex=s)) for i, s in enumerate("FMF", 1)])
    fit = dn.evaluate_ofv(Sexes(), data)
    man = dn.Population([dn.Subject(8, None, ([1.0], None), dict(sex="M"))])
    assert man.records.covariates["sex"].tolist() == [0.0]
    assert fit.predict(man, draws=0).PRED.tolist() == [13.0]
    other = dn.Population([dn.Subject(8, None, ([1.0], None), dict(sex="X"))])
    with pytest.raises(dn.DataError, match=r"`sex`: got 'X'\. The fit's population has F, M"):
        fit.predict(other)
    coded = dn.Population([dn.Subject(8, None, ([1.0], None), dict(sex=1))])
    with pytest.raises(dn.DataError, match=r"`sex`: got numbers. The fit's population has texts \(F, M\)"):
        fit.predict(coded)


class Root(Level):
    """Some draws of a, and some covariates, have no square root."""

    def individual(self, theta, eta, cov):
        return dict(a=torch.sqrt(theta.a + eta.a + cov.w))


def test_numbers_that_are_missing_are_said():
    data = dn.Population([subject(i, [0.0, 1.0], [1.7, 1.8], covariates=dict(w=0.0)) for i in (1, 2)])
    fit = dn.evaluate_ofv(Root(), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit.predict().notna().all(axis=None)
    nobody = dn.Population([dn.Subject(i, None, ([0.0], None), dict(w=w)) for i, w in ((3, -1.5), (4, 9.0))])
    with pytest.warns(UserWarning, match="Subject 3: no interval, because the model has no value for some draws"):
        table = fit.predict(nobody)
    assert table.IPRED.notna().all() and table.IPRED_LOW.isna().tolist() == [True, False]
    lost = dn.Population([subject(5, [0.0], [1.0], covariates=dict(w=-9.0)), *data])
    with pytest.warns(UserWarning, match="Subject 5: the individual likelihood is not finite"):
        table = fit.predict(lost)
    assert table.IPRED.isna().tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(numbers(table)[1:], numbers(fit.predict()), rtol=1e-7)
