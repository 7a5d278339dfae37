"""Units of networks found from the data: against means and sizes by hand, and under other units of the data."""

import numpy as np
import pandas as pd
import pytest
from torch import exp

import deepnlme as dn
from deepnlme.joint import calibrated
from network_models import people

QUIET = dict(progress=False)
KA, V = 1.3, 5.0


class Curve(dn.Model):
    """y = network(t) + eps."""

    sd = dn.Positive(0.5)
    f = dn.MLP(1, (2,))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(theta.f(x.time), theta.sd))


def uneven():
    """Subjects with 2, 10 and 2 observations, so that most of the packed table is padding."""
    ten = np.arange(3.0, 13.0)
    return dn.Population(
        [
            dn.Subject(1, None, ([1.0, 2.0], [3.0, 4.0]), covariates={"WT": 50.0}),
            dn.Subject(2, None, (ten, ten - 3.0), covariates={"WT": 60.0}),
            dn.Subject(3, None, ([50.0, 60.0], [1.0, 2.0]), covariates={"WT": 100.0}),
        ]
    )


def observed(population):
    r = population.records
    return r.time[r.observed], r.dv[r.observed]


def scaling(model, population, name="f"):
    found = calibrated(model, population).networks[name].scaling
    assert found.complete
    return found


def test_a_prediction_gets_mean_and_spread_of_the_data():
    """Every observation counts once, whatever the padding."""
    time, y = observed(uneven())
    found = scaling(Curve(), uneven())
    np.testing.assert_allclose(found.input_center, [time.mean()], rtol=1e-12)
    np.testing.assert_allclose(found.input_scale, [time.std()], rtol=1e-12)
    np.testing.assert_allclose(found.output_center, [y.mean()], rtol=1e-12)
    np.testing.assert_allclose(found.output_scale, [y.std()], rtol=1e-12)


def test_the_effect_of_an_output_on_the_prediction_divides_it():
    class Weighted(Curve):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(2.0 - 4.0 * theta.f(x.time), theta.sd))

    _, y = observed(uneven())
    found = scaling(Weighted(), uneven())
    np.testing.assert_allclose(found.output_center, [(y.mean() - 2.0) / -4.0], rtol=1e-12)
    np.testing.assert_allclose(found.output_scale, [y.std() / 4.0], rtol=1e-12)


def test_log_normal_predictions_on_the_logarithm():
    class Logarithmic(Curve):
        def observe(self, theta, p, x):
            return dict(dv=dn.LogNormal(exp(theta.f(x.time)), theta.sd))

    population = people(dose=None)
    _, y = observed(population)
    found = scaling(Logarithmic(), population)
    np.testing.assert_allclose(found.output_center, [np.log(y).mean()], rtol=1e-12)
    np.testing.assert_allclose(found.output_scale, [np.log(y).std()], rtol=1e-12)


def test_an_individual_parameter_gets_its_own_size_and_covariates_count_by_subject():
    class Individual(Curve):
        base = dn.Positive(2.0)
        f = dn.MLP(3, (2,), 2)
        eta = dn.RandomEffects("b", omega=0.1)

        def individual(self, theta, eta, cov):
            relative, additive = theta.f(cov.WT, eta.b, theta.base)
            return dict(base=theta.base * exp(relative) + 3.0 * additive)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.base, theta.sd))

    found = scaling(Individual(), uneven())
    weights = np.array([50.0, 60.0, 100.0])
    np.testing.assert_allclose(found.input_center, [weights.mean(), 0.0, 2.0], rtol=1e-12)
    # a random effect keeps its units; what does not vary gets its own size
    np.testing.assert_allclose(found.input_scale, [weights.std(), 1.0, 2.0], rtol=1e-12)
    np.testing.assert_allclose(found.output_center, [0.0, 0.0])
    np.testing.assert_allclose(found.output_scale, [1.0, 2.0 / 3.0], rtol=1e-12)


def test_a_covariate_that_changes_counts_by_record():
    frame = pd.DataFrame(
        dict(ID=[1, 1, 1, 2], TIME=[0.0, 1.0, 2.0, 0.0], DV=[1.0, 2.0, 3.0, 4.0], CRCL=[90.0, 80.0, 100.0, 50.0])
    )
    population = dn.read_nonmem(frame, covariates=["CRCL"])

    class Individual(Curve):
        def individual(self, theta, eta, cov):
            return dict(f=theta.f(cov.CRCL))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.f, theta.sd))

    found = scaling(Individual(), population)
    np.testing.assert_allclose(found.input_center, [80.0], rtol=1e-12)
    np.testing.assert_allclose(found.input_scale, [np.std([90.0, 80.0, 100.0, 50.0])], rtol=1e-12)


class Turnover(dn.Model):
    """R' = network(C, R, eta) with known pharmacokinetics."""

    k = dn.Positive(0.2)
    v = dn.Positive(V)
    r0 = dn.Positive(2.0)
    sd = dn.Positive(0.3)
    f = dn.MLP(3, (3,), prior=dn.L2(1.0), seed=3)
    eta = dn.RandomEffects("k", omega=0.1)
    latent = dn.RandomEffects(1, omega=0.1, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(k=theta.k * exp(eta.k), v=theta.v, z=eta.latent)

    def initial(self, theta, p):
        return dict(response=theta.r0)

    def dynamics(self, theta, p, t, x):
        return dict(central=-p.k * x.central, response=theta.f(x.central / p.v, x.response, p.z))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.response, theta.sd))


def test_a_rate_of_change_gets_the_size_of_its_state_over_the_typical_time():
    population = people(3)
    time, y = observed(population)
    concentration = 10.0 / V * np.exp(-0.2 * time)
    found = scaling(Turnover(), population)
    gaps = np.concatenate(
        [np.diff(np.unique(time[population.records.subject[population.records.observed] == i])) for i in range(3)]
    )
    np.testing.assert_allclose(found.input_center, [concentration.mean(), 2.0, 0.0], rtol=1e-7)
    np.testing.assert_allclose(found.input_scale, [concentration.std(), 2.0, 1.0], rtol=1e-7)
    np.testing.assert_allclose(found.output_center, [0.0])
    np.testing.assert_allclose(found.output_scale, [np.sqrt(np.mean(y**2)) / np.median(gaps)], rtol=1e-7)


def test_positive_outputs_start_at_a_plausible_size():
    model = Curve(f=dn.MLP(1, (2,), output_activation="softplus"))
    _, y = observed(uneven())
    found = scaling(model, uneven())
    assert found.output_center == (0.0,)
    np.testing.assert_allclose(found.output_scale, [y.std() / np.log(2.0)], rtol=1e-12)


def test_what_is_declared_is_kept():
    given = dict(input_center=7.0, input_scale=2.0, output_center=-1.0, output_scale=5.0)
    automatic = scaling(Curve(), uneven())
    for name, value in given.items():
        found = scaling(Curve(f=dn.MLP(1, (2,), **{name: value})), uneven())
        for other in given:
            expected = (value,) if other == name else getattr(automatic, other)
            assert getattr(found, other) == expected
    model = Curve(f=dn.MLP(1, (2,), **given))
    assert calibrated(model, uneven()) is model
    found = scaling(Curve(f=dn.MLP(1, (2,), typical=4.0)), uneven())
    assert found.output_center == (4.0,) and found.output_scale == (4.0,)


def test_the_model_is_not_changed():
    model = Curve()
    new = calibrated(model, uneven())
    assert not model.networks["f"].scaling.complete
    assert new.networks["f"].size == model.networks["f"].size
    np.testing.assert_array_equal(new.networks["f"].initial(), model.networks["f"].initial())
    fit = dn.fit(model, uneven(), dn.NaivePooled(), options=dn.Options(**QUIET, max_iterations=2))
    assert not model.networks["f"].scaling.complete
    assert fit.model.networks["f"].scaling == new.networks["f"].scaling


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2, 1]])
def test_order_changes_nothing(order):
    population = people(3)
    one = scaling(Turnover(), population)
    two = scaling(Turnover(), dn.Population([population[i] for i in order]))
    for name in vars(one):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-7)


def in_other_units(population, dose=1.0, dv=1.0, time=1.0):
    r = population.records
    frame = pd.DataFrame(
        dict(ID=r.subject + 1, TIME=r.time * time, DV=r.dv * dv, AMT=r.amt * dose, EVID=r.evid, WT=r.covariates["WT"])
    )
    frame.loc[frame["EVID"] == 1, "DV"] = np.nan
    return dn.read_nonmem(frame, covariates=["WT"])


class Clearance(dn.Model):
    """Clearance is a network of the weight and a random effect."""

    v = dn.Positive(V)
    sd = dn.Positive(0.3)
    cl = dn.Positive(1.0)
    f = dn.MLP(2, (3,), prior=dn.L2(1.0), seed=1)
    eta = dn.RandomEffects("cl", "v", omega=0.1)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(v=theta.v * exp(eta.v), cl=theta.cl * exp(theta.f(cov.WT, eta.cl)))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class Individuals(Curve):
    """A curve for each subject."""

    f = dn.MLP(3, (3,), prior=dn.L2(1.0))
    latent = dn.RandomEffects(2, omega=0.2)

    def individual(self, theta, eta, cov):
        return dict(z=eta.latent)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(theta.f(x.time, p.z), theta.sd))


class Elimination(Clearance):
    """The rate constant of elimination is a network of the concentration, positive, with a typical value."""

    cl = dn.Positive(1.0, fixed=True)
    f = dn.MLP(2, (3,), prior=dn.L2(1.0), typical=0.2, output_activation="softplus", seed=1)

    def individual(self, theta, eta, cov):
        return dict(v=theta.v * exp(eta.v), z=eta.cl)

    def dynamics(self, theta, p, t, x):
        return dict(central=-x.central * theta.f(x.central / p.v, p.z))


@pytest.mark.parametrize(
    ("kind", "dose"), [(Clearance, 1e4), (Clearance, 1e-4), (Elimination, 1e4), (Individuals, 1.0)]
)
def test_a_fit_in_other_units_is_the_same_fit(kind, dose):
    """Doses, observations and times in other units: the OFV differs by the Jacobian of the observations only."""
    dv, time = 1e3, 24.0
    base, population = kind(), people(4, dose=None if kind is Individuals else 10.0)
    changes = dict(sd=base.parameters["sd"].value * dv)
    if kind is not Individuals:
        changes["v"] = V * dose / dv
    if kind is Clearance:
        changes["cl"] = 1.0 * dose / dv / time
    if kind is Elimination:
        net = dict(prior=dn.L2(1.0), typical=0.2 / time, output_activation="softplus", seed=1)
        changes["f"] = dn.MLP(2, (3,), **net)
    other = base.replace(**changes)
    options = dn.Options(**QUIET, max_iterations=8)
    one = dn.fit(base, in_other_units(population), options=options)
    two = dn.fit(other, in_other_units(population, dose, dv, time), options=options)
    jacobian = 2.0 * one.n_observations * np.log(dv)
    assert one.ofv < dn.evaluate_ofv(base, in_other_units(population)).ofv - 1.0
    assert two.ofv == pytest.approx(one.ofv + jacobian, abs=1e-6)
    assert two.penalty == pytest.approx(one.penalty, abs=1e-6)
    for name, weights in one.weights.items():
        np.testing.assert_allclose(two.weights[name], weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two.ebes.eta, one.ebes.eta, rtol=1e-5, atol=1e-6)
    assert two.estimates["sd"] == pytest.approx(dv * one.estimates["sd"], rel=1e-6)


def test_scaling_changes_by_the_factor_of_the_units():
    population = in_other_units(people(3))
    one = scaling(Turnover(), population)
    other = Turnover(v=V * 1e4 / 1e3, r0=2.0 * 1e3, k=0.2 / 24.0)
    two = scaling(other, in_other_units(people(3), 1e4, 1e3, 24.0))
    np.testing.assert_allclose(two.input_center, np.array(one.input_center) * [1e3, 1e3, 1.0], rtol=1e-7)
    np.testing.assert_allclose(two.input_scale, np.array(one.input_scale) * [1e3, 1e3, 1.0], rtol=1e-7)
    np.testing.assert_allclose(two.output_scale, np.array(one.output_scale) * 1e3 / 24.0, rtol=1e-7)


def test_held_out_and_new_subjects_are_in_the_units_of_the_fit():
    population = people(5)
    fit = dn.fit(Clearance(), population[:4], options=dn.Options(**QUIET, max_iterations=3))
    units = fit.model.networks["f"].scaling
    assert units == calibrated(Clearance(), population[:4]).networks["f"].scaling
    assert units != calibrated(Clearance(), population).networks["f"].scaling
    again = dn.evaluate_ofv(Clearance(), population, at=fit)
    assert again.model.networks["f"].scaling == units
    assert again.subject_ofv.iloc[:4].sum() == pytest.approx(fit.ofv, abs=1e-6)
    table = fit.predict(population, draws=0)
    expected = again.predictions()
    np.testing.assert_allclose(table["IPRED"], expected["IPRED"], rtol=1e-6)


def turnover(log_normal, times):
    """R' = network(R): R is observed, from 5 at time 0 down to hardly anything."""

    class Turnover(dn.Model):
        sd = dn.Positive(0.1)
        rate = dn.MLP(1, (2,))

        def initial(self, theta, p):
            return dict(r=5.0)

        def dynamics(self, theta, p, t, x):
            return dict(drug=-x.drug, r=theta.rate(x.r))

        def observe(self, theta, p, x):
            return dict(dv=(dn.LogNormal if log_normal else dn.Normal)(x.r, theta.sd))

    values = 5.0 * np.exp(-0.1 * np.array(times))
    return Turnover(), dn.Population([dn.Subject(1, dn.Dose(1.0, cmt="drug"), (times, values))]), values


@pytest.mark.parametrize("log_normal", [False, True])
@pytest.mark.parametrize("last", [12.0, 96.0, 200.0])
def test_a_state_has_the_size_of_its_data_whatever_their_distribution(log_normal, last):
    """Root mean square of the data per typical time between them; the smallest of them does not decide."""
    model, population, values = turnover(log_normal, [1.0, 3.0, 5.0, 7.0, last])
    expected = np.sqrt(np.mean(values**2)) / 2.0
    np.testing.assert_allclose(scaling(model, population, "rate").output_scale, [expected], rtol=1e-6)


@pytest.mark.parametrize("count", [3, 11])
def test_an_input_that_is_constant_in_time_changes_no_unit(count):
    """network(wt) and network(wt + 0 t) are the same function of the same thing."""

    class Weighted(Curve):
        def individual(self, theta, eta, cov):
            return dict(wt=cov.WT)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(2.0 * theta.f(p.wt), theta.sd))

    class Varying(Weighted):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(2.0 * theta.f(p.wt + 0.0 * x.time), theta.sd))

    times = np.arange(1.0, count + 1.0)
    people = dn.Population(
        [dn.Subject(i, None, (times, 10.0 + np.sin(times + i)), covariates={"WT": 50.0 + 10.0 * i}) for i in range(4)]
    )
    constant, varying = scaling(Weighted(), people), scaling(Varying(), people)
    y = observed(people)[1]
    for found in (constant, varying):
        np.testing.assert_allclose(found.output_center, [y.mean() / 2.0], rtol=1e-12)
        np.testing.assert_allclose(found.output_scale, [y.std() / 2.0], rtol=1e-12)


def test_every_endpoint_moves_its_own_network():
    class Two(Curve):
        g = dn.MLP(1, (2,))

        def observe(self, theta, p, x):
            return dict(a=dn.Normal(theta.f(x.time), theta.sd), b=dn.Normal(theta.g(x.time), theta.sd))

    times = np.arange(1.0, 6.0)
    population = dn.Population(
        [dn.Subject(1, None, {"a": (times, 10.0 + np.cos(times)), "b": (times, -20.0 + np.sin(times))})]
    )
    np.testing.assert_allclose(scaling(Two(), population, "f").output_center, [np.mean(10.0 + np.cos(times))])
    np.testing.assert_allclose(scaling(Two(), population, "g").output_center, [np.mean(-20.0 + np.sin(times))])


def test_records_below_the_limit_have_no_part_in_the_units(tmp_path):
    """Their DV is the limit, not an observation."""
    rows = ["ID,TIME,DV,CENS"] + [f"1,{t},{5 + t},0" for t in range(1, 6)] + ["1,9,1000,1", "1,10,1000,1"]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    (tmp_path / "less.csv").write_text("\n".join(rows[:-2]))
    with_them, without = (scaling(Curve(), dn.read_nonmem(tmp_path / f)) for f in ("data.csv", "less.csv"))
    np.testing.assert_allclose(with_them.output_center, without.output_center, rtol=1e-12)
    np.testing.assert_allclose(with_them.output_scale, without.output_scale, rtol=1e-12)
