"""What a network saw; a formula in its place is the model written by hand; refits; errors."""

import numpy as np
import pytest
import torch
from torch import exp

import deepnlme as dn
from deepnlme.discovery import Candidate, Distillation, Refits, distil, refitted, visited
from deepnlme.discovery.distil import points_of
from deepnlme.discovery.distillation import ranked
from deepnlme.discovery.formula import Formula, parsed
from deepnlme.discovery.points import Points
from deepnlme.discovery.replaced import BoundFormula
from deepnlme.estimation.method import estimated_groups

METHOD = dn.FOCE()
QUIET = dn.Options(progress=False, covariance=None, max_iterations=15)


def hill(c, emax, ec50, gamma):
    return emax * c**gamma / (ec50**gamma + c**gamma)


class Turnover(dn.Model):
    """R' = kin (1 + effect(central/v)) - kout R; effect is a network's less its value at zero."""

    cl = dn.Positive(1.2)
    v = dn.Positive(2.0, fixed=True)
    kout = dn.Positive(1.0)
    sd = dn.Positive(0.1)
    effect = dn.MLP(inputs=1, hidden=(3,), outputs=1, prior=dn.L2(1.0), output_scale=1.0)
    eta = dn.RandomEffects("cl", omega=0.05)

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl))

    def initial(self, theta, p):
        return dict(response=1.0 / theta.kout)

    def stimulated(self, theta, c):
        return theta.effect(c) - theta.effect(0.0)

    def dynamics(self, theta, p, t, x):
        c = x.central / theta.v
        return dict(central=-p.cl * c, response=1.0 + self.stimulated(theta, c) - theta.kout * x.response)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.response, theta.sd))


class ByHand(Turnover):
    """The same with a sigmoid Emax."""

    effect = None
    emax = dn.Real(2.0)
    ec50 = dn.Positive(0.8)
    gamma = dn.Positive(1.4)

    def stimulated(self, theta, c):
        return hill(torch.clamp(c, min=1e-30), theta.emax, theta.ec50, theta.gamma)


TIMES = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 8.0])


def people(count=4, seed=1):
    """Simulated from `ByHand`."""
    generator = np.random.default_rng(seed)
    out = []
    for i in range(count):
        bare = dn.Population([dn.Subject(i + 1, dn.Regimen(dn.Dose(4.0)), (TIMES, None))])
        eta = np.array([[0.2 * generator.standard_normal()]])
        table = dn.predict(ByHand(), bare, eta=eta, all_records=True)
        y = table.loc[table["EVID"] == 0, "IPRED"].to_numpy(float)
        y = y + 0.05 * generator.standard_normal(len(y))
        out.append(dn.Subject(i + 1, dn.Regimen(dn.Dose(4.0)), (TIMES, y)))
    return dn.Population(out)


@pytest.fixture(scope="module")
def fit():
    return dn.fit(Turnover(), people(), METHOD, options=QUIET)


def sigmoid(**constants):
    text = "emax*c**gamma/(ec50**gamma + c**gamma)"
    formula = Formula(parsed(text, ("c", *constants)), ("c",), constants, frozenset({"ec50", "gamma"}), "sigmoid Emax")
    return Candidate(formula, 0.0, 0.0, "effect", 0)


def test_visited_is_a_slow_loop(fit):
    """Each subject alone, solved again at the same times; the call with 0.0 is left out."""
    table = visited(fit, "effect", ["c"], points=9)
    assert list(table) == ["ID", "TIME", "OBSERVED", "CALL", "PART", "c", "OUTPUT"]
    assert set(table["PART"]) == {"dynamics"} and table["CALL"].nunique() == 1
    for row, id in enumerate(fit.population.ids):
        own = table[table["ID"] == id]
        times = np.unique([*np.linspace(0.0, 8.0, 9), *TIMES])
        assert own["TIME"].to_numpy() == pytest.approx(times, abs=1e-12)
        cl = fit.estimates["cl"] * np.exp(fit.ebes.eta[row, 0])
        c = [4.0 / 2.0 * np.exp(-cl / 2.0 * t) for t in times]  # at t = 0 after the dose
        assert own["c"].to_numpy() == pytest.approx(c, rel=1e-5)
        assert own["OUTPUT"].to_numpy() == pytest.approx(fit.networks["effect"](own["c"].to_numpy()), rel=1e-10)
        assert own["OBSERVED"].to_numpy().tolist() == [t in TIMES for t in times]


class Covariate(dn.Model):
    """A network in individual: of a covariate that changes with time, and of one that does not."""

    base = dn.Positive(2.0)
    sd = dn.Positive(0.3)
    net = dn.MLP(inputs=2, hidden=(2,), outputs=2)
    eta = dn.RandomEffects("base", omega=0.1)

    def individual(self, theta, eta, cov):
        first, second = theta.net(cov.wt, eta.base)
        return dict(base=theta.base * exp(eta.base + first), slope=second)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + p.slope * x.time, theta.sd))


def weighed(change):
    return dn.Population(
        dn.Subject(i, None, ([0.0, 1.0, 2.0], [2.0, 2.1 + 0.1 * i, 2.3]), {"wt": wt})
        for i, wt in ((1, ([0.0, 2.0], [60.0, 60.0 + change])), (2, ([0.0, 2.0], [80.0, 80.0 + 2 * change])))
    )


@pytest.mark.parametrize("change", [0.0, 4.0])
def test_visited_in_individual(change):
    fit = dn.evaluate_ofv(Covariate(), weighed(change), METHOD)
    table = visited(fit, "net", ["wt", "eta"], points=3)
    assert set(table["PART"]) == {"individual"} and table["CALL"].nunique() == 1
    eta = fit.ebes.eta[:, 0]
    if not change:
        assert table["TIME"].isna().all() and len(table) == 2
        assert table["wt"].tolist() == [60.0, 80.0]
        assert table["eta"].to_numpy() == pytest.approx(eta, rel=1e-12)
    else:
        assert table["TIME"].tolist() == [0.0, 1.0, 2.0] * 2
        assert table["wt"].iloc[[0, 2, 3, 5]].tolist() == [60.0, 64.0, 80.0, 88.0]
    first, second = fit.networks["net"](table["wt"].to_numpy(), table["eta"].to_numpy())
    assert table["OUTPUT1"].to_numpy() == pytest.approx(first, rel=1e-12)
    assert table["OUTPUT2"].to_numpy() == pytest.approx(second, rel=1e-12)


def test_into_is_the_model_written_by_hand(fit):
    constants = {"emax": 1.7, "ec50": 0.6, "gamma": 1.3}
    model = sigmoid(**constants).into(fit)
    assert list(model.parameters) == ["cl", "v", "kout", "sd", "effect_emax", "effect_ec50", "effect_gamma"]
    assert not model.networks and model.parameters["v"].fixed
    assert isinstance(model.parameters["effect_ec50"], dn.Positive)
    at = {n: v for n, v in fit.estimates.items() if n != "v"}
    found = dn.evaluate_ofv(model, fit.population, METHOD)
    hand = dn.evaluate_ofv(ByHand(), fit.population, METHOD, at={**at, **constants})
    assert found.ofv == pytest.approx(hand.ofv, rel=1e-10)
    for column in ("PRED", "IPRED", "CWRES"):
        a, b = (f.predictions()[column].to_numpy(float) for f in (found, hand))
        assert a == pytest.approx(b, rel=1e-10, abs=1e-10)


def test_into_a_pooled_fit_leaves_omega_to_be_estimated(fit):
    pooled = dn.evaluate_ofv(Turnover(), fit.population, dn.NaivePooled())
    twice = dn.evaluate_ofv(pooled.model, fit.population, dn.NaivePooled())
    for source in (pooled, twice):
        model = sigmoid(emax=1.7, ec50=0.6, gamma=1.3).into(source)
        assert not model.groups["eta"].fixed.any()
        assert "omega[cl]" in dn.evaluate_ofv(model, fit.population, METHOD).joint.space.names
    changed = pooled.model.replace(eta=dn.RandomEffects("cl", omega=0.3, fixed=True))
    assert estimated_groups(changed)["eta"].omega[0, 0] == 0.3
    kept = Turnover(eta=dn.RandomEffects("cl", omega=0.05, fixed=True))
    pooled = dn.evaluate_ofv(kept, fit.population, dn.NaivePooled())
    assert sigmoid(emax=1.7, ec50=0.6, gamma=1.3).into(pooled).groups["eta"].fixed.all()


def test_refitted_is_the_fit_written_by_hand(fit):
    net = Points(("c",), np.linspace(0.0, 2.0, 5)[:, None], np.arange(5.0), np.zeros(1))
    candidate = sigmoid(emax=2.0, ec50=0.8, gamma=1.4)
    flat = Formula(parsed("0", ()), ("c",), {}, frozenset(), "constant")
    found = ranked("effect", 0, [flat, candidate.formula], net, 0.02)
    options = dn.Options(progress=False, covariance=None, max_iterations=4)
    refits = refitted(found, fit, held_out=people(2, seed=5), options=options)
    start = {n: v for n, v in fit.estimates.items() if n != "v"}
    hand = dn.fit(ByHand(), fit.population, METHOD, start=start, options=options)
    own = refits.fits[1]
    assert own is not None and own.ofv == pytest.approx(hand.ofv, abs=1e-5)
    started = dn.evaluate_ofv(found[1].into(fit), fit.population, METHOD)
    assert own.ofv <= started.ofv
    table = refits.table()
    assert table["FORM"].tolist() == ["network", "constant", "sigmoid Emax"]
    assert table["OFV"].iloc[0] == fit.ofv and table["BEST"].tolist() == [False, False, True]
    assert refits.formula(1).constants["ec50"] == own.estimates["effect_ec50"]
    aside = dn.predictive_distance(own, people(2, seed=5))
    assert table["HELD_OUT -2LL"].iloc[2] == pytest.approx(aside.minus2ll, rel=1e-9)
    assert table["HELD_OUT RMSE PRED"].iloc[2] == pytest.approx(aside.table["RMSE PRED"].iloc[0], rel=1e-9)
    assert "sigmoid Emax" in str(refits) and "HELD_OUT -2LL" in str(refits)
    open_ends = [form for form, ok in zip(table["FORM"], table["CONVERGED"], strict=True) if not ok]
    assert "sigmoid Emax" in open_ends and str(refits).endswith("\nnot converged: " + ", ".join(open_ends))
    with pytest.raises(dn.DataError, match=r"Invalid `held_out`: got subject 2 \(1 in all\)\. It was fitted"):
        refitted(found, fit, held_out=dn.Population([fit.population[1], *people(1, seed=5)]))


def test_formulas_are_fitted_to_all_subjects_of_the_network():
    """The network stopped early by a share of the subjects; a formula takes all that it was fitted to."""
    aside = dn.Options(progress=False, covariance=None, max_iterations=1, held_out=0.25)
    fit = dn.fit(Turnover(), people(8), METHOD, options=aside)
    net = Points(("c",), np.linspace(0.0, 2.0, 5)[:, None], np.arange(5.0), np.zeros(1))
    found = ranked("effect", 0, [sigmoid(emax=2.0, ec50=0.8, gamma=1.4).formula], net, 0.02)
    (own,) = refitted(found, fit).fits
    assert own is not None and own.population.ids == fit.population.ids and len(fit.population) == 6
    assert own.n_observations == fit.n_observations
    with pytest.raises(dn.ModelError, match=r"Invalid `options`: got held_out=0\.25"):
        refitted(found, fit, options=aside)


def test_one_of_several_outputs():
    """The formula replaces the second output; the network gives the first."""
    fit = dn.evaluate_ofv(Covariate(), weighed(4.0), METHOD)
    zero = Formula(parsed("a*wt + 0*eta", ("a", "wt", "eta")), ("wt", "eta"), {"a": 0.01}, frozenset(), "mine")
    model = Candidate(zero, 0.0, 0.0, "net", 1).into(fit)
    assert list(model.networks) == ["net"]
    found = dn.evaluate_ofv(model, fit.population, METHOD)
    for id in (1, 2):
        p = found.individual(id)
        wt = {1: 60.0, 2: 80.0}[id]
        assert p["slope"] == pytest.approx(0.01 * wt, rel=1e-12)
        eta = found.ebes.eta[id - 1, 0]
        first = fit.networks["net"](wt, eta)[0]
        assert p["base"] == pytest.approx(2.0 * np.exp(eta + first), rel=1e-10)


def test_all_outputs_one_after_the_other():
    """Two formulas of constants with the same name; the network is gone then, and the report has both."""
    fit = dn.evaluate_ofv(Covariate(), weighed(4.0), METHOD)
    first = Formula(
        parsed("a*wt + b*eta", ("a", "b", "wt", "eta")), ("wt", "eta"), {"a": 0.01, "b": 0.5}, frozenset(), ""
    )
    second = Formula(parsed("a", ("a",)), ("wt", "eta"), {"a": 0.7}, frozenset({"a"}), "")
    half = dn.evaluate_ofv(Candidate(second, 0.0, 0.0, "net", 1).into(fit), fit.population, METHOD)
    model = Candidate(first, 0.0, 0.0, "net", 0).into(half)
    assert not model.networks and half.model.networks
    found = dn.evaluate_ofv(model, fit.population, METHOD)
    for id, wt in ((1, 60.0), (2, 80.0)):
        p, eta = found.individual(id), found.ebes.eta[id - 1, 0]
        assert p["slope"] == pytest.approx(0.7, rel=1e-12)
        assert p["base"] == pytest.approx(2.0 * np.exp(eta + 0.01 * wt + 0.5 * eta), rel=1e-10)
    at = {**{n: v for n, v in found.estimates.items()}, "net_2_a": 0.9}
    moved = dn.formulas_in(dn.evaluate_ofv(model, fit.population, METHOD, at=at))
    assert moved["NETWORK"].tolist() == ["net, output 2", "net, output 1"]
    assert moved["VALUES"].tolist() == ["0.900", "0.5*eta + 0.01*wt"]
    assert dn.formulas_in(fit).empty


def test_a_second_formula_for_the_same_output():
    """It would stand behind the first one and do nothing."""
    fit = dn.evaluate_ofv(Covariate(), weighed(4.0), METHOD)
    one, other = (
        Candidate(Formula(parsed(f"{n}*wt", (n, "wt")), ("wt", "eta"), {n: 0.1}, frozenset(), ""), 0.0, 0.0, "net", 0)
        for n in ("a", "b")
    )
    half = dn.evaluate_ofv(one.into(fit), fit.population, METHOD)
    with pytest.raises(dn.ModelError, match=r"a formula for output 1 of `net`\. A formula stands there already"):
        other.into(half)
    found = Refits(fit, (one,), (half,), ("",)).table()
    assert half.n_parameters > half.effective_parameters == found["PARAMETERS"].iloc[1]


def test_points_are_differences_to_the_baseline(fit):
    p = points_of(fit, "effect", ("c",), 0, np.zeros(1), 0)
    net = fit.networks["effect"]
    assert p.y == pytest.approx(net(p.x[:, 0]) - net(0.0), rel=1e-12)
    assert len(p.y) == len(points_of(fit, "effect", ("c",), 0, None, 0).y) <= 500


def test_distil_without_search(fit):
    found = distil(fit, "effect", ["c"], baseline={"c": 0.0}, search=False)
    assert isinstance(found, Distillation)
    table = found.table()
    assert table["KNEE"].sum() == 1 and table["PARETO"].iloc[0] and table["COMPLEXITY"].is_monotonic_increasing
    front = table[table["PARETO"]]
    assert front["ERROR"].is_monotonic_decreasing
    for _, row in table[~table["PARETO"]].iterrows():
        simpler = front[front["COMPLEXITY"] <= row["COMPLEXITY"]]
        assert simpler["ERROR"].min() <= row["ERROR"]
    emax = found.form("Emax")
    p, c = found.points, found.points.x[:, 0]
    values = emax.formula.constants["emax"] * c / (emax.formula.constants["ec50"] + c)
    assert emax.error == pytest.approx(np.sqrt(np.mean((values - p.y) ** 2) / np.mean(p.y**2)), rel=1e-9)
    assert "knee" in str(found) and found.knee in tuple(found)


def test_search_adds_to_the_forms_and_repeats_itself(fit):
    pytest.importorskip("pyoperon", reason="symbolic regression needs pyoperon: pip install 'deepnlme[discovery]'")
    given = dict(baseline={"c": 0.0}, evaluations=2_000)
    one, two = (distil(fit, "effect", ["c"], **given) for _ in range(2))
    assert str(one) == str(two)
    forms = [c.formula.form for c in one]
    assert "found" in forms and "sigmoid Emax" in forms
    for candidate in one:
        at_zero = candidate(0.0)
        gap = candidate(one.points.x[:, 0]) - at_zero - one.points.y
        assert np.sqrt(np.mean(gap**2)) / one.points.spread == pytest.approx(candidate.error, rel=1e-9, abs=1e-12)
        assert not candidate.formula.expression.as_coeff_Add()[0]


def test_a_formula_is_called_as_a_network_is():
    """With scalars, vectors and numbers; it says how many inputs it has."""
    formula = Formula(parsed("a*u + v*w", ("a", "u", "v", "w")), ("u", "v", "w"), {"a": 2.0}, frozenset(), "mine")
    bound = BoundFormula(formula, {"a": torch.full((1, 2, 1), 3.0, dtype=torch.float64)})
    u = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    vw = torch.stack([u + 1.0, u * 2.0], -1)
    expected = 3.0 * u + (u + 1.0) * (2.0 * u)
    assert torch.equal(bound(u, vw), expected) and torch.equal(bound.vector(u, vw), expected.unsqueeze(-1))
    assert torch.equal(bound(1.0, 2.0, 3.0), torch.full((1, 2, 1), 9.0, dtype=torch.float64))
    with pytest.raises(dn.ModelError, match=r"got 2 inputs, expected 3 \(u, v, w\)"):
        bound(u, u)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": 3}, "Invalid `fit`: got int"),
        ({"network": "efect"}, "networks of the model are effect"),
        ({"names": ["c", "d"]}, "has 1 inputs"),
        ({"names": ["c d"]}, "Names are words"),
        ({"output": 1}, "has 1 outputs"),
        ({"baseline": {"x": 0.0}}, "a number for every input"),
        ({"baseline": {"c": np.nan}}, "finite numbers"),
        ({"tolerance": -1.0}, "Invalid `tolerance`"),
        ({"seed": -1}, "Invalid `seed`"),
        ({"names": ["c1"]}, "got 'c1'. In formulas that is a function or a constant"),
        ({"names": ["ec50"]}, "got 'ec50'. In formulas"),
        ({"names": ["log"]}, "got 'log'. In formulas"),
        ({"names": ["lambda"]}, "got 'lambda'. Names are words"),
        ({"names": ["TIME"]}, "got 'TIME'. A column of the table has that name"),
    ],
)
def test_mistakes(fit, change, message):
    given = {"fit": fit, "network": "effect", "names": ["c"], "search": False, **change}
    with pytest.raises(dn.ModelError, match=message):
        distil(**given)


def test_more_mistakes(fit, monkeypatch):
    two = dn.evaluate_ofv(Covariate(), weighed(0.0), METHOD)
    with pytest.raises(dn.ModelError, match=r"has 2 outputs, 0 to 1\. Choose one"):
        distil(two, "net", search=False)
    with pytest.raises(dn.ModelError, match="a fit of a model with the network `effect`"):
        sigmoid(emax=1.0, ec50=1.0, gamma=1.0).into(two)
    with pytest.raises(dn.ModelError, match=r"what dn\.distil returns"):
        refitted(3, fit)
    monkeypatch.setitem(__import__("sys").modules, "pyoperon.sklearn", None)
    with pytest.raises(dn.MissingExtraError, match="discovery"):
        distil(fit, "effect", ["c"])
