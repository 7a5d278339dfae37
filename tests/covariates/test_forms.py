"""Relations added to a model equal the same model written by hand."""

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
import torch
from torch import exp

import deepnlme as dn
from covariate_people import Bolus, boluses
from deepnlme.covariates.selection import candidates_of, ratio_with_interval

PEOPLE = boluses(12)
WT = PEOPLE.records.covariates["wt"][PEOPLE.starts[:-1]]
MEDIAN, LEVELS = float(np.median(WT)), PEOPLE.categories["race"]


class Power(Bolus):
    v_wt = dn.Real(0.0)

    def individual(self, theta, eta, cov):
        p = super().individual(theta, eta, cov)
        return p | dict(v=p["v"] * (cov.wt / MEDIAN) ** theta.v_wt)


class Linear(Power):
    def individual(self, theta, eta, cov):
        p = Bolus.individual(self, theta, eta, cov)
        return p | dict(v=p["v"] * (1 + theta.v_wt * (cov.wt - MEDIAN)))


class Exponential(Power):
    def individual(self, theta, eta, cov):
        p = Bolus.individual(self, theta, eta, cov)
        return p | dict(v=p["v"] * exp(theta.v_wt * (cov.wt - MEDIAN)))


class Piecewise(Bolus):
    v_wt_low, v_wt_high = dn.Real(0.0), dn.Real(0.0)

    def individual(self, theta, eta, cov):
        p, away = super().individual(theta, eta, cov), cov.wt - MEDIAN
        return p | dict(v=p["v"] * (1 + theta.v_wt_low * away.clamp(max=0) + theta.v_wt_high * away.clamp(min=0)))


class Categorical(Bolus):
    v_race_b, v_race_c = dn.Positive(1.0), dn.Positive(1.0)

    def individual(self, theta, eta, cov):
        p = super().individual(theta, eta, cov)
        is_b, is_c = (1.0 * (cov.race == LEVELS.index(label)) for label in "bc")
        return p | dict(v=p["v"] * (1 + (theta.v_race_b - 1) * is_b) * (1 + (theta.v_race_c - 1) * is_c))


CASES = {
    "power": (Power(), "wt", {"v_wt": 0.8}),
    "linear": (Linear(), "wt", {"v_wt": 0.01}),
    "exponential": (Exponential(), "wt", {"v_wt": -0.012}),
    "piecewise": (Piecewise(), "wt", {"v_wt_low": 0.02, "v_wt_high": -0.004}),
    "categorical": (Categorical(), "race", {"v_race_b": 1.3, "v_race_c": 0.8}),
}


def by_name(fit):
    """Gradient in natural values of the fixed effects, and in log sd of the random effects."""
    names, free = fit.joint.space.names, torch.tensor(fit.free, requires_grad=True)
    out = dict(zip(names, fit.evaluation.gradient[0], strict=True))
    for name, value in fit.joint.space.values(free).theta.items():
        if name in out:
            (slope,) = torch.autograd.grad(value.sum(), free, retain_graph=True)
            out[name] /= float(slope[names.index(name)])
    return out


@pytest.mark.parametrize("form", CASES)
def test_equals_the_model_written_by_hand(form):
    hand, covariate, at = CASES[form]
    made = dn.with_covariates(Bolus(), {"v": dn.Relation(covariate, form)}, PEOPLE)
    a, b = (dn.evaluate_ofv(model, PEOPLE, at=at) for model in (hand, made))
    assert b.ofv == pytest.approx(a.ofv, rel=1e-12)
    np.testing.assert_allclose(b.subject_ofv, a.subject_ofv, rtol=1e-11, atol=1e-11)
    expected, found = by_name(a), by_name(b)
    assert set(at) <= set(found)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9)
    none = dn.evaluate_ofv(made, PEOPLE)
    assert none.ofv == pytest.approx(dn.evaluate_ofv(Bolus(), PEOPLE).ofv, rel=1e-13)


def test_new_people_are_related_to_the_old_median():
    made = dn.with_covariates(Bolus(), {"v": "wt"}, PEOPLE)
    heavy = PEOPLE[np.flatnonzero(MEDIAN < WT)]
    for model in (made, pickle.loads(pickle.dumps(made)), made.replace(cl=5.0)):
        a = dn.predict(model, heavy, at={"v_wt": 1.0})["PRED"]
        b = dn.predict(Power(), heavy, at={"v_wt": 1.0})["PRED"]
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_relations_of_relations_and_simulation():
    once = dn.with_covariates(Bolus(), {"v": "wt", "cl": ["sex", dn.Relation("age", "linear")]}, PEOPLE)
    twice = dn.with_covariates(dn.with_covariates(Bolus(), {"v": "wt"}, PEOPLE), {"cl": ["sex"]}, PEOPLE)
    assert [t.label for t in twice.terms] == ["v ~ wt (power)", "cl ~ sex (categorical)"]
    rare = "f" if (PEOPLE.records.covariates["sex"] == PEOPLE.categories["sex"].index("m")).mean() > 0.5 else "m"
    assert list(once.parameters)[3:] == ["v_wt", f"cl_sex_{rare}", "cl_age"]
    assert dn.simulate(once, PEOPLE, seed=1).ipred.shape == (1, 48)


@pytest.mark.parametrize(
    ("relations", "error", "message"),
    [
        ({}, dn.ModelError, "Invalid `relations`: got {}. It maps parameters"),
        ({"v": 3}, dn.ModelError, "Invalid `relations`: got 3 for v. It is a relation"),
        ({"v": [3]}, dn.ModelError, "Invalid `relation`: got 3"),
        ({"q": "wt"}, dn.ModelError, "Invalid `relations`: got 'q'. `individual` returns cl, v."),
        ({"v": "height"}, dn.DataError, "got 'height' for the relation of v. The population's covariates are"),
        ({"v": dn.Relation("race", "power")}, dn.DataError, "A text covariate is categorical"),
        ({"v": ["wt", dn.Relation("wt", "linear")]}, dn.ModelError, "already declares `v_wt`"),
    ],
)
def test_mistakes(relations, error, message):
    with pytest.raises(error) as caught:
        dn.with_covariates(Bolus(), relations, PEOPLE)
    assert message in str(caught.value)


def test_values_that_do_not_suit():
    with pytest.raises(dn.ModelError, match=r"Invalid `form`: got 'cubic' for covariate wt\. It is one of power"):
        dn.Relation("wt", "cubic")
    table = PEOPLE.to_frame()
    table["same"], table["sign"], table["id2"] = 1.0, table["wt"] - 70.0, table["ID"]
    people = dn.read_nonmem(table, covariates=["same", "sign", "id2"])
    for relation, message in (
        ("same", "got one value for all subjects for the relation of v"),
        (dn.Relation("sign", "power"), "A power needs a positive covariate"),
    ):
        with pytest.raises(dn.DataError, match=message):
            dn.with_covariates(Bolus(), {"v": relation}, people)
    assert dn.with_covariates(Bolus(), {"v": "sign"}, people).terms[0].form == "exponential"
    many = dn.read_nonmem(boluses(30).to_frame().assign(id2=lambda t: t["ID"]), covariates=["id2"])
    with pytest.raises(dn.DataError, match=r"got 30 levels for the relation of v\. A categorical one has at most 20"):
        dn.with_covariates(Bolus(), {"v": dn.Relation("id2", "categorical")}, many)


# ---- what is declared stays declared -----------------------------------------------------------------------------


def test_what_is_fixed_stays_fixed_when_relations_are_added():
    """An exponent kept at 0.75 is not estimated by the models that are built on top of it."""
    once = dn.with_covariates(Bolus(), {"v": "wt"}, PEOPLE)
    kept = dataclasses.replace(once.parameters["v_wt"], value=0.75, fixed=True)
    once = once.replace(v_wt=kept, cl=dn.Positive(4.0, fixed=True))
    more = dn.with_covariates(once, {"cl": "sex"}, PEOPLE)
    assert more.parameters["v_wt"] == kept and more.parameters["cl"].fixed
    assert set(more.space.names) - set(once.space.names) == {more.terms[1].names[0]}
    assert dn.evaluate_ofv(more, PEOPLE).ofv == pytest.approx(dn.evaluate_ofv(once, PEOPLE).ofv, rel=1e-13)


def test_relations_on_top_of_an_augmented_model_keep_it():
    quick = dn.Options(progress=False, covariance=None, max_iterations=3)
    fit = dn.fit(dn.with_covariates(Bolus(), {"v": "wt"}, PEOPLE), PEOPLE, options=quick)
    deep = dn.augment(fit, dn.MLP(1, (), 2), ["wt"], folds=0).model
    more = dn.with_covariates(deep, {"cl": "sex"}, PEOPLE)
    assert dn.evaluate_ofv(more, PEOPLE).ofv == pytest.approx(dn.evaluate_ofv(deep, PEOPLE).ofv, rel=1e-12)
    copied = pickle.loads(pickle.dumps(more))
    assert dn.evaluate_ofv(copied, PEOPLE).ofv == pytest.approx(dn.evaluate_ofv(more, PEOPLE).ofv, rel=1e-13)


def test_a_fit_is_called_by_the_name_of_its_model():
    made = dn.with_covariates(Bolus(), {"v": "wt", "cl": ["wt", "sex"]}, PEOPLE)
    fit = dn.evaluate_ofv(made, PEOPLE)
    assert str(fit).startswith("Bolus with relations to wt, sex: FOCEI, 12 subjects")
    assert "Bolus with relations to wt, sex" in repr(fit)


def test_formulas_say_the_factor():
    """Evaluated by Python they are what the terms compute."""
    for name, (_, covariate, at) in CASES.items():
        (term,) = dn.with_covariates(Bolus(), {"v": dn.Relation(covariate, name)}, PEOPLE).terms
        theta = {n: torch.tensor(v) for n, v in at.items()}
        x = torch.tensor(PEOPLE.records.covariates[covariate][PEOPLE.starts[:-1]])
        center = float(f"{term.center:.6g}")
        for value, factor in zip(x, term.factor(theta, x), strict=True):
            text = term.formula
            if name == "categorical":
                cases = dict(reversed(part.split(" if race = ")) for part in text.split(", "))
                text = cases[LEVELS[int(value)]]
            if name == "piecewise":
                below, above = text.split(", ")
                text = below.split(" below")[0] if value < center else above.removesuffix(" above")
            text = re.sub(r"(\w) \(", r"\1 * (", text).replace("^", "**")
            found = eval(text, {"exp": math.exp}, {covariate: float(value), **at})
            assert found == pytest.approx(float(factor), rel=1e-5)


# ---- other people ------------------------------------------------------------------------------------------------


def test_other_codes_of_the_same_labels_are_refused():
    made = dn.with_covariates(Bolus(), {"cl": "race"}, PEOPLE)
    last = PEOPLE[np.flatnonzero(PEOPLE.records.covariates["race"][PEOPLE.starts[:-1]] == 2)]
    alone = dn.read_nonmem(last.to_frame(), covariates=["wt", "race"])
    assert alone.categories["race"] == ("c",)
    at = {"cl_race_c": 2.0}
    with pytest.raises(
        dn.DataError, match=r"Invalid `race`: got the label 'c' with the code 0\. .* a = 0, b = 1, c = 2"
    ):
        dn.predict(made, alone, at=at)
    again = dn.read_nonmem(last.to_frame(), covariates=PEOPLE.reading())
    np.testing.assert_array_equal(dn.predict(made, again, at=at)["PRED"], dn.predict(made, last, at=at)["PRED"])


def test_levels_and_values_that_a_relation_does_not_know_are_refused():
    table = PEOPLE.to_frame().assign(grp=lambda t: t["ID"] % 3 + 1, low=lambda t: t["ID"] - 2.0)
    people = dn.read_nonmem(table, covariates=["grp", "low", "race"])
    group, low = people.records.covariates["grp"], people.records.covariates["low"]
    some = people[np.flatnonzero((group < 3)[people.starts[:-1]] & (low > 0)[people.starts[:-1]])]
    for relation, message in (
        (
            dn.Relation("grp", "categorical"),
            r"Invalid `grp`: got 3 for subject 2, the relation of v\. .* levels 1, 2\.",
        ),
        (dn.Relation("race"), r"Invalid `race`: got 'b' for subject 2, the relation of v\. .* levels 'a', 'c'\."),
        (dn.Relation("low", "power"), r"Invalid `low`: got -1 for subject 1, the relation of v\. A power needs"),
    ):
        with pytest.raises(dn.DataError, match=message):
            dn.evaluate_ofv(dn.with_covariates(Bolus(), {"v": relation}, some), people)


def changing():
    """Covariates that are the same for all at first, or have a level that only comes later."""
    subjects = []
    for i in range(8):
        later = {
            "drug": ([0.0, 4.0], [0.0, float(i % 2)]),
            "state": ([0.0, 4.0], ["ab"[i % 2], "c"]),
            "dose": ([0.0, 4.0], [1.0, 1.0 + i]),
        }
        subjects.append(dn.Subject(i + 1, dn.Dose(100.0), ([1.0, 6.0], [1.5, 1.0]), later))
    return dn.Population(subjects)


def test_levels_that_come_later_count():
    people = changing()
    drug, state, dose = dn.with_covariates(Bolus(), {"cl": ["drug", "state", "dose"]}, people).terms
    assert drug.levels == (("1", 1.0),) and drug.center == 0.0
    assert [label for label, _ in state.levels] == ["b", "c"] and state.center == 0.0
    assert dose.form == "power" and dose.center == 1.0 and dose.high > 5.0
    assert dose.size == pytest.approx(1 / np.std(np.log(people.records.covariates["dose"])))
    linear = dn.read_nonmem(people.to_frame(), covariates=["drug"], interpolation="linear")
    with pytest.raises(dn.DataError, match=r"Invalid `interpolation`: got 'linear' for cl ~ drug.* have no mean"):
        dn.with_covariates(Bolus(), {"cl": "drug"}, linear)
    fit = dn.evaluate_ofv(Bolus(), people)
    assert {t.covariate for t in candidates_of(fit, None)} == {"drug", "state", "dose"}


def test_ratios_beyond_all_numbers():
    """An interval that is far too wide is shown as such, and does not end the search."""
    assert ratio_with_interval(1.0, 1e4) == (math.exp(1.0), 0.0, math.inf)
    np.testing.assert_allclose(ratio_with_interval(0.3, 0.2), np.exp([0.3, 0.1, 0.5]), rtol=1e-14)
