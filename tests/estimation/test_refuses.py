"""What does not fit together is refused before any work, and the message says what, where and what to do."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import contract_models as cm
import deepnlme as dn

QUIET = dn.Options(progress=False, covariance=None)


def refuse(model, population, match, method=None, error=dn.ModelError, **options):
    """Refused by `fit` and by `evaluate_ofv`, with a message of the one form."""
    for call in (dn.fit, dn.evaluate_ofv):
        with pytest.raises(error, match=match) as caught:
            call(model, population, method, **options)
        message = str(caught.value)
        assert message.startswith(("Invalid", "Missing"))
        assert message.endswith((".", ")", "?"))


@pytest.fixture(scope="module")
def plain():
    return cm.plain()


class Changed(cm.Oral):
    """A model of which one method is wrong."""


def with_method(name, function):
    return type("Changed", (cm.Oral,), {name: function})()


# ---- names ---------------------------------------------------------------------------------------------------------


def test_individual_misses_what_the_dynamics_need(plain):
    model = with_method("individual", lambda self, theta, eta, cov: dict(ka=theta.ka, v=theta.v))
    refuse(model, plain, r"Invalid `individual`: it returns ka, v; OneCompartment needs .*Add `cl`")


@pytest.mark.parametrize("value", [None, 3.0, ["ka"]], ids=["None", "number", "list"])
def test_individual_returns_no_dict(plain, value):
    model = with_method("individual", lambda self, theta, eta, cov: value)
    refuse(model, plain, r"Invalid `individual`: got (NoneType|float|list), expected a dict")


def test_individual_returns_what_is_no_number(plain):
    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl="2.7", v=theta.v)

    refuse(with_method("individual", individual), plain, r"Invalid `individual`: `cl`.* expected a batch of scalars")


def test_individual_returns_a_tensor_of_the_wrong_shape(plain):
    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=torch.ones(4), v=theta.v)

    refuse(with_method("individual", individual), plain, r"Invalid `individual`: `cl` has shape \(4,\), expected")


@pytest.mark.parametrize("result", [None, dn.Normal(1.0, 1.0), {}], ids=["None", "Normal", "empty"])
def test_observe_returns_no_dict(plain, result):
    model = with_method("observe", lambda self, theta, p, x: result)
    refuse(model, plain, r"Invalid `observe`: expected a dict with the distribution of every observed quantity")


def test_observe_returns_no_distribution(plain):
    model = with_method("observe", lambda self, theta, p, x: dict(dv=x.central / p.v))
    refuse(model, plain, r"Invalid `observe`: got Tensor for `dv`, expected dn.Normal, dn.LogNormal")


def test_no_observe(plain):
    class Nothing(dn.Model):
        cl = dn.Positive(1.0)

    refuse(Nothing(), plain, "Invalid model Nothing: it has no `observe`")


def test_observe_lacks_an_endpoint_of_the_data():
    refuse(cm.Oral(), cm.two_endpoints(), r"(?i)endpoint", error=dn.DeepNLMEError)


def test_observe_has_an_endpoint_that_the_data_lack(plain):
    with pytest.raises(dn.DeepNLMEError, match=r"(?i)endpoint|DVID"):
        dn.fit(cm.TwoEndpoints(), plain, options=QUIET)


def test_dynamics_read_a_state_that_they_do_not_return(plain):
    def dynamics(self, theta, p, t, x):
        return dict(central=-p.cl / p.v * x.central + p.ka * x.depot)

    refuse(
        with_method("dynamics", dynamics), plain, r"Invalid `dynamics`: it reads x.depot but returns .* central only"
    )


@pytest.mark.parametrize("value", [None, {}, 1.0], ids=["None", "empty", "number"])
def test_dynamics_return_no_dict(plain, value):
    model = with_method("dynamics", lambda self, theta, p, t, x: value)
    refuse(model, plain, r"Invalid `dynamics`: expected a dict with the derivative of every state")


def test_dynamics_are_something_else(plain):
    refuse(type("Changed", (cm.Oral,), {"dynamics": "one compartment"})(), plain, r"Invalid `dynamics`: got 'one comp")
    # the class instead of an instance
    refuse(type("Changed", (cm.Oral,), {"dynamics": dn.OneCompartment})(), plain, r"Invalid `dynamics`.*OneCompartment")


def test_dosing_names_no_compartment(plain):
    model = with_method("dosing", lambda self, theta, p: dict(gut=dn.Dosing(lag=theta.ka)))
    refuse(model, plain, r"Invalid `dosing`: got 'gut'.* one of depot, central")
    model = with_method("dosing", lambda self, theta, p: dict(depot=theta.ka))
    refuse(model, plain, r"Invalid `dosing`: got 'depot': Tensor, expected dn.Dosing")
    model = with_method("dosing", lambda self, theta, p: None)
    refuse(model, plain, r"Invalid `dosing`: got NoneType, expected a dict")


def test_initial_names_no_compartment(plain):
    model = with_method("initial", lambda self, theta, p: dict(gut=theta.ka))
    refuse(model, plain, r"Invalid `initial`: got `gut`, expected some of depot, central")
    model = with_method("initial", lambda self, theta, p: [1.0])
    refuse(model, plain, r"Invalid `initial`: got list, expected a dict")


READS = {
    "theta.kel": lambda self, theta, eta, cov: dict(ka=theta.kel, cl=theta.cl, v=theta.v),
    "eta.vv": lambda self, theta, eta, cov: dict(ka=theta.ka, cl=theta.cl, v=theta.v * exp(eta.vv)),
    "cov.wt": lambda self, theta, eta, cov: dict(ka=theta.ka, cl=theta.cl * cov.wt, v=theta.v),
}


@pytest.mark.parametrize("name", READS)
def test_unknown_names_in_individual(plain, name):
    model = with_method("individual", READS[name])
    refuse(model, plain, rf"Invalid name `{name}`: there is no such name, expected one of", error=dn.DeepNLMEError)


@pytest.mark.parametrize("name", ["p.vc", "x.plasma", "theta.sd"])
def test_unknown_names_in_observe(plain, name):
    def observe(self, theta, p, x):
        space = dict(p=p, x=x, theta=theta)
        kind, attribute = name.split(".")
        return dict(dv=dn.Normal(getattr(space[kind], attribute), theta.b))

    refuse(with_method("observe", observe), plain, rf"Invalid name `{name}`: there is no such name, expected one of")


def test_unknown_names_in_dynamics(plain):
    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.kaa * x.depot, central=p.ka * x.depot)

    refuse(with_method("dynamics", dynamics), plain, r"Invalid name `p.kaa`")


# ---- declarations --------------------------------------------------------------------------------------------------


def test_class_instead_of_instance(plain):
    for call in (dn.fit, dn.evaluate_ofv, dn.predict):
        with pytest.raises(dn.ModelError, match=r"got the class Oral, expected an instance: Oral\(\)"):
            call(cm.Oral, plain)
    for call in (dn.fit, dn.evaluate_ofv):
        with pytest.raises(dn.ModelError, match=r"Invalid `method`: got .*FOCE.*expected .*dn.FOCE\(\)"):
            call(cm.Oral(), plain, dn.FOCE)
        with pytest.raises(dn.ModelError, match="Invalid `method`: got 'FOCE'"):
            call(cm.Oral(), plain, "FOCE")


def test_arguments_of_the_wrong_kind(plain):
    with pytest.raises(dn.ModelError, match="Invalid `population`: got DataFrame, expected a Population"):
        dn.fit(cm.Oral(), plain.to_frame())
    with pytest.raises(dn.ModelError, match="Invalid `population`: got DataFrame, expected a Population"):
        dn.predict(cm.Oral(), plain.to_frame())
    with pytest.raises(dn.ModelError, match="Invalid `options`: got dict"):
        dn.fit(cm.Oral(), plain, options={})
    with pytest.raises(dn.ModelError, match="Invalid `start`: got list, expected values by name"):
        dn.fit(cm.Oral(), plain, start=[1.0])
    with pytest.raises(dn.ModelError, match="Invalid `at`: got float, expected values by name"):
        dn.evaluate_ofv(cm.Oral(), plain, at=3.0)


@pytest.mark.parametrize(
    ("at", "match"),
    [
        ({"kaa": 1.0}, r"Invalid parameter name `kaa`: .*expected one of ka, cl, v"),
        ({"ka": -1.0}, r"Invalid value of `ka`: got -1, expected a positive number"),
        ({"ka": np.nan}, r"Invalid value of `ka`: got nan, expected a positive number"),
        ({"ka": "much"}, r"Invalid value of `ka`: got 'much', expected a number"),
        ({"ka": [1.0, 2.0]}, r"Invalid value of `ka`: got \[1.0, 2.0\], expected a number"),
        ({"eta": np.eye(2)}, r"Invalid `omega`: got shape \(2, 2\), expected \(3, 3\)"),
        ({"eta": np.diag([0.1, -0.2, 0.1])}, r"Invalid `omega`.*positive"),
        ({"eta": 0.1 + np.diag([0.2, 0.2, 0.2])}, r"Invalid `omega`.*covariances"),
        ({"eta": np.array([[0.1, np.nan, 0], [np.nan, 0.1, 0], [0, 0, 0.1]])}, r"Invalid `omega`.*finite"),
        ({"eta": "small"}, r"Invalid `omega`: got 'small'"),
        ({"omega[ka]": np.nan}, r"Invalid Omega of `eta`.*finite"),
        ({"omega[ka]": "small"}, r"Invalid value of `omega\[ka\]`: got 'small', expected a number"),
        ({"omega[ka]": 0.0}, r"Invalid Omega of `eta`.*positive"),
        ({"omega[cl,ka]": 0.1}, r"Invalid name `omega\[cl,ka\]`: `eta` has a diagonal Omega"),
        ({"omega[x]": 0.1}, r"Invalid parameter name `omega\[x\]`"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else "",
)
def test_initial_values(plain, at, match):
    with pytest.raises(dn.ModelError, match=match):
        dn.evaluate_ofv(cm.Oral(), plain, at=at)
    with pytest.raises(dn.ModelError, match=match):
        dn.fit(cm.Oral(), plain, start=at)
    with pytest.raises(dn.ModelError, match=match):
        dn.predict(cm.Oral(), plain, at=at)


def test_fixed_values_are_not_replaced(plain):
    model = cm.Oral(ka=dn.Positive(1.1, fixed=True), eta=dn.RandomEffects("ka", "cl", "v", omega=0.1, fixed=["v"]))
    with pytest.raises(dn.ModelError, match=r"Invalid value of `ka`: got 2, but it is fixed at 1.1"):
        dn.evaluate_ofv(model, plain, at=dict(ka=2.0))
    with pytest.raises(dn.ModelError, match=r"(?i)omega.*fixed"):
        dn.evaluate_ofv(model, plain, at={"omega[v]": 0.3})
    with pytest.raises(dn.ModelError, match=r"(?i)omega.*fixed"):
        dn.evaluate_ofv(model, plain, at={"eta": np.diag([0.1, 0.1, 0.3])})
    assert dn.evaluate_ofv(model, plain, at={"ka": 1.1, "omega[v]": 0.1}).estimates["ka"] == 1.1
    block = cm.Oral(eta=dn.RandomEffects("ka", "cl", "v", omega=0.1, block=True, fixed=True))
    with pytest.raises(dn.ModelError, match=r"(?i)omega.*fixed"):
        dn.evaluate_ofv(block, plain, at={"eta": np.diag([0.1, 0.1, 0.3])})


def test_asymmetric_or_indefinite_block(plain):
    model = cm.Block()
    wrong = np.array([[0.2, 0.05, 0.0], [0.01, 0.1, 0.0], [0.0, 0.0, 0.1]])
    with pytest.raises(dn.ModelError, match=r"Invalid `omega`.*symmetric"):
        dn.evaluate_ofv(model, plain, at={"eta": wrong})
    with pytest.raises(dn.ModelError, match=r"Invalid Omega of `eta`.*not positive definite"):
        dn.evaluate_ofv(model, plain, at={"omega[cl,ka]": 5.0})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(starts=0), "Invalid `starts`: got 0"),
        (dict(ebe_starts=0), "Invalid `ebe_starts`"),
        (dict(seed="a"), "Invalid `seed`"),
        (dict(seed=None), "Invalid `seed`"),
        (dict(max_newton="40"), "Invalid `max_newton`"),
        (dict(tolerance=0.0), "Invalid `tolerance`"),
        (dict(tolerance=float("nan")), "Invalid `tolerance`"),
        (dict(time_limit=-1.0), "Invalid `time_limit`"),
        (dict(covariance="T"), "Invalid `covariance`: got 'T'"),
        (dict(max_numbers=0), "Invalid `max_numbers`"),
        (dict(max_iterations=1.5), "Invalid `max_iterations`: got 1.5, expected a whole number"),
        (dict(starts="3"), "Invalid `starts`: got '3', expected a whole number"),
        (dict(tolerance="small"), "Invalid `tolerance`: got 'small', expected a positive number"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_options(options, match):
    with pytest.raises(dn.ModelError, match=match):
        dn.Options(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(plain):
    refuse(cm.Oral(), plain, r"Invalid `device`: got 'cuda', but torch sees no GPU", options=dn.Options(device="cuda"))


def test_unknown_device(plain):
    refuse(cm.Oral(), plain, r"Invalid `device`: got 'tpu'", options=dn.Options(device="tpu"))


# ---- data and model ------------------------------------------------------------------------------------------------


def test_missing_covariate(plain):
    model = with_method(
        "individual", lambda self, theta, eta, cov: dict(ka=theta.ka, cl=theta.cl * cov.WT / 70, v=theta.v)
    )
    with pytest.raises(dn.DeepNLMEError, match=r"cov.WT.*read_nonmem\(\.\.\., covariates=\[.WT.\]\)"):
        dn.fit(model, plain, options=QUIET)


def test_missing_occasions(plain):
    refuse(cm.Occasions(), plain, r"Invalid occasions: .*no OCC column.*columns=\{\"occ\"", error=dn.DataError)


def test_subject_without_observations():
    frame = cm.records(cm.TIMES)
    frame.loc[frame["ID"] == 3, "DV"] = np.nan
    frame["MDV"] = ((frame["EVID"] == 1) | (frame["ID"] == 3)).astype(int)
    refuse(cm.Oral(), dn.read_nonmem(frame), r"(?i)subject 3", error=dn.DataError)


def test_log_normal_needs_positive_observations():
    frame = cm.records(cm.TIMES)
    frame.loc[7, "DV"] = -3.2
    who, time = frame.loc[7, "ID"], frame.loc[7, "TIME"]
    refuse(
        cm.Logarithmic(),
        dn.read_nonmem(frame),
        rf"Invalid `dv`: got -3.2 for subject {who}, row 9 \(time {time:g}\). LogNormal needs dv > 0. "
        "Set MDV=1 on that record or use Normal.",
        error=dn.DataError,
    )


def test_counts_are_not_negative_or_broken():
    frame = cm.longitudinal("counts").to_frame()[["ID", "TIME", "DV"]]
    for value in (-1.0, 2.5):
        wrong = frame.copy()
        wrong.loc[3, "DV"] = value
        refuse(
            cm.Counts(),
            dn.read_nonmem(wrong),
            rf"Invalid `dv`: got {value:g} for subject 1, row 5.*Poisson",
            dn.Laplace(),
            dn.DataError,
        )


def test_yes_or_no_is_zero_or_one():
    frame = cm.longitudinal("binary").to_frame()[["ID", "TIME", "DV"]]
    frame.loc[0, "DV"] = 2.0
    refuse(cm.Binary(), dn.read_nonmem(frame), r"Invalid `dv`: got 2 for subject 1, row 2", dn.Laplace(), dn.DataError)


# ---- method and model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [dn.FO(), dn.FOCE(), dn.FOCE(interaction=False)], ids=lambda m: m.name)
def test_linearising_methods_refuse_what_is_not_gaussian(method):
    expected = rf"Invalid method: {method.name} needs Normal or LogNormal observations, `dv` is not. Use dn.Laplace"
    refuse(cm.Counts(), cm.longitudinal("counts"), expected, method)
    refuse(cm.Heavy(), cm.plain(), expected, method)


def test_m4_needs_laplace():
    for method in (dn.FOCE(), dn.FO()):
        refuse(cm.Positive4(), cm.censored("below"), r"Invalid method: .* cannot use .*Laplace|M1", method)


def test_first_order_refuses_censored_data():
    refuse(
        cm.Oral(), cm.censored("below"), r"Invalid method: FO cannot use censored observations. Use dn.FOCE", dn.FO()
    )

    class Without(cm.Oral):
        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b), blq="M1"))

    frame = cm.censored("below").to_frame()
    kept = dn.read_nonmem(frame[frame["CENS"] == 0])
    left_out = dn.evaluate_ofv(Without(), cm.censored("below"), dn.FO())
    assert left_out.ofv == pytest.approx(dn.evaluate_ofv(cm.Oral(), kept, dn.FO()).ofv, rel=1e-12)
    assert left_out.n_observations == (kept.to_frame()["MDV"] == 0).sum()


def test_censored_counts_are_refused():
    frame = cm.longitudinal("counts").to_frame()[["ID", "TIME", "DV"]]
    frame["CENS"] = 0
    frame.loc[2, "CENS"] = 1
    refuse(
        cm.Counts(),
        dn.read_nonmem(frame),
        r"Invalid `CENS` for `dv`: Poisson has no censored likelihood",
        dn.Laplace(),
        dn.DataError,
    )


# ---- not finite ----------------------------------------------------------------------------------------------------


def test_proportional_error_where_the_prediction_is_zero():
    class Proportional(cm.Oral):
        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.proportional(f, theta.b)))

    frame = cm.records([[0.0, 1.0], [2.0, 3.0]])
    for method in (dn.FO(), dn.FOCE(), dn.Laplace(), dn.NaivePooled()):
        refuse(
            Proportional(),
            dn.read_nonmem(frame),
            r"subject 1, row 3 \(time 0\).*prediction 0, residual sd 0.*a residual sd of zero: add an additive part",
            method,
        )


def test_log_of_a_negative_prediction(plain):
    class Negative(cm.Logarithmic):
        def observe(self, theta, p, x):
            return dict(dv=dn.LogNormal(x.central / p.v - 1.0, theta.b))

    refuse(Negative(), plain, r"not finite for subject \d, row \d+ \(time [\d.]+\)")


def test_covariate_that_makes_a_parameter_not_finite():
    frame = cm.records(cm.TIMES)
    frame["WT"] = np.where(frame["ID"] == 3, -5.0, 70.0)

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * (cov.WT / 70.0) ** 0.75, v=theta.v)

    refuse(
        with_method("individual", individual),
        dn.read_nonmem(frame, covariates=["WT"]),
        r"Invalid individual parameter `cl`: not finite at the initial values for subject 3. Check the covariates",
    )


def test_derivative_that_is_not_finite(plain):
    """sqrt(0) has a value and no derivative; the message names the parameter."""

    class Root(cm.Oral):
        shift = dn.Real(0.0)

        def observe(self, theta, p, x):
            f = x.central / p.v + torch.sqrt(torch.abs(theta.shift) * x.time)
            return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b)))

    refuse(Root(), plain, r"Invalid model: the derivative of the OFV in `shift` is not finite for subject 1")


def test_hessian_that_is_not_positive_definite_names_the_subject():
    """A saddle of the individual likelihood: Laplace has no value there."""

    class Flat(dn.Model):
        sd = dn.Positive(0.1)
        eta = dn.RandomEffects("b", omega=1.0)

        def individual(self, theta, eta, cov):
            return dict(b=eta.b)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.b**2 * x.time, theta.sd))

    population = dn.read_nonmem(pd.DataFrame(dict(ID=[1, 1], TIME=[1.0, 2.0], DV=[1.0, 2.1])))
    refuse(Flat(), population, r"not finite for subject 1 .*its random effects|Hessian", dn.Laplace())


def test_prior_that_excludes_the_initial_value(plain):
    for check in (True, False):
        prior = torch.distributions.Uniform(2.0, 3.0, validate_args=check)
        with pytest.raises(
            dn.ModelError, match=r"Invalid prior of a Positive parameter: got log density -inf at .* 1.1"
        ):
            dn.Positive(1.1, prior=prior)
        model = cm.Oral(ka=dn.Positive(2.1, prior=prior))
        with pytest.raises(
            dn.ModelError, match=r"Invalid prior of `ka`: its log density at the initial value 1.1 is -inf"
        ):
            dn.fit(model, plain, start=dict(ka=1.1), options=QUIET)


def test_prior_with_bounded_support_is_never_left(plain):
    """The search passes the edge of the support; what is outside counts as infinite."""
    model = cm.Oral(ka=dn.Positive(2.1, prior=torch.distributions.Uniform(2.0, 3.0)), a=dn.Positive(0.15, fixed=True))
    fit = dn.fit(model, plain, options=dn.Options(progress=False, covariance=None, max_iterations=30))
    assert 2.0 <= fit.estimates["ka"] <= 3.0
    assert fit.penalty == 0.0
    assert np.isfinite(fit.ofv)


def test_estimates_can_be_given_back(plain):
    """What a fit reports is accepted as values, fixed ones included."""
    model = cm.Vector(
        b=dn.Positive(0.2, fixed=True), eta=dn.RandomEffects("ka", "cl", "v", omega=[0.0, 0.1, 0.3], fixed=["ka", "v"])
    )
    fit = dn.fit(model, plain, options=dn.Options(progress=False, covariance=None, max_iterations=2))
    again = dn.evaluate_ofv(model, plain, at=fit.estimates)
    np.testing.assert_allclose(again.free, fit.free, rtol=1e-12)
    assert again.ofv == pytest.approx(fit.ofv, abs=1e-6)
    block = dn.fit(cm.Block(), plain, options=dn.Options(progress=False, covariance=None, max_iterations=2))
    again = dn.evaluate_ofv(cm.Block(), plain, at=block.estimates)
    np.testing.assert_allclose(again.free, block.free, rtol=1e-8, atol=1e-10)
    with_matrix = {**{n: v for n, v in block.estimates.items() if "omega" not in n}, "eta": block.omega}
    np.testing.assert_allclose(dn.evaluate_ofv(cm.Block(), plain, at=with_matrix).free, again.free, rtol=1e-10)


@pytest.mark.parametrize("blq", ["M3"])
def test_a_censored_record_before_the_first_dose_is_named(blq):
    """Its prediction is 0 and so is a proportional sd: there is no derivative, and the search would not start."""
    rows = pd.DataFrame(
        dict(ID=7, TIME=[0, 0, 1, 4], AMT=[0, 100, 0, 0], EVID=[0, 1, 0, 0], DV=[0.5, None, 8, 5], CENS=[1, 0, 0, 0])
    )

    class Proportional(dn.Model):
        cl = dn.Positive(1.0)
        v = dn.Positive(10.0)
        b = dn.Positive(0.2)
        eta = dn.RandomEffects("cl", omega=0.1)
        dynamics = dn.OneCompartment()

        def individual(self, theta, eta, cov):
            return dict(cl=theta.cl * torch.exp(eta.cl), v=theta.v)

        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.proportional(f, theta.b), blq=blq))

    with pytest.raises(dn.ModelError, match=r"censored observation for subject 7, row 2 \(time 0\).*Set MDV=1"):
        dn.evaluate_ofv(Proportional(), dn.read_nonmem(rows))
