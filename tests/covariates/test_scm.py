"""Stepwise covariate modelling against likelihood ratios in closed form, and its false-positive rate."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.stats import binom, chi2

import deepnlme as dn
from covariate_people import QUIET, Bolus, Level, boluses, levels
from deepnlme.covariates.scm_refits import Base, Outcome


def exact_gain(population, columns):
    """Change of the OFV by columns [S, q] in log mu, for as many observations of each: S log(RSS0 / RSS1)."""
    records = population.records
    means = np.bincount(records.subject, np.log(records.dv)) / np.bincount(records.subject)
    design = np.column_stack([np.ones(len(means)), columns])
    rest = means - design @ np.linalg.lstsq(design, means, rcond=None)[0]
    return len(means) * math.log(np.sum((means - means.mean()) ** 2) / np.sum(rest**2))


def drawn(n, seed, count=4):
    rng = np.random.default_rng(seed)
    return {f"x{i}": rng.standard_normal(n) for i in range(count)}


def test_likelihood_ratios_are_exact():
    x = drawn(50, 1, 2) | {"group": np.array(list("abaca") * 10)}
    people = levels(x, 0.4 * x["x0"])
    found = dn.scm(dn.fit(Level(), people, options=QUIET), forward=1e-6, progress=False)
    first = found.steps[found.steps["STEP"] == 1].set_index("RELATION")
    b, c = (x["group"] == "b")[:, None], (x["group"] == "c")[:, None]
    expected = {
        "mu ~ x0 (exponential)": exact_gain(people, x["x0"][:, None]),
        "mu ~ x1 (exponential)": exact_gain(people, x["x1"][:, None]),
        "mu ~ group (categorical)": exact_gain(people, np.hstack([b, c])),
    }
    assert set(first.index) == set(expected)
    for relation, gain in expected.items():
        df = 2 if "group" in relation else 1
        assert first.loc[relation, "dOFV"] == pytest.approx(-gain, abs=1e-3)
        assert first.loc[relation, "DF"] == df
        assert first.loc[relation, "P"] == pytest.approx(chi2.sf(gain, df), rel=1e-3)
    row = found.table.iloc[0]
    assert (row["COVARIATE"], row["SELECTED"], row["RANK"]) == ("x0", True, 1)
    low, high = np.quantile(x["x0"], [0.05, 0.95])
    assert row["EFFECT"] == pytest.approx(math.exp((high - low) * found.fit.estimates["mu_x0"]), rel=1e-9)
    assert row["LOW"] < row["EFFECT"] < row["HIGH"]
    assert "included" in str(found) and found.relations == {"mu": [dn.Relation("x0", "exponential")]}


def test_false_positives_are_as_nominal():
    """p-values of the first step on 60 data sets without any effect, 4 covariates each."""
    p = []
    for seed in range(60):
        x = drawn(60, [seed, 3])
        people = levels(x, np.zeros(60), seed=seed)
        base = dn.fit(Level(), people, dn.FO(), options=QUIET)  # exact for this model
        steps = dn.scm(base, forward=1e-9, progress=False).steps
        assert len(steps) == 4
        p += steps["P"].tolist()
    for level in (0.05, 0.25, 0.5):
        count = int(np.sum(np.array(p) < level))
        low, high = binom.ppf([0.001, 0.999], len(p), level)
        assert low <= count <= high, (level, count)


@pytest.fixture(scope="module")
def base():
    return dn.fit(Bolus(), boluses(), options=QUIET)


CANDIDATES = {"cl": ["wt", "age", "sex"], "v": ["wt", "age", "sex", "race"]}


def test_planted_relations_are_found(base):
    found = dn.scm(base, CANDIDATES, progress=False, forward=0.01)
    assert {t.label for t in found.terms} == {"v ~ wt (power)", "cl ~ sex (categorical)"}
    assert found.fit.ofv < base.ofv - 20 and found.fit.covariance.ok
    by_hand = dn.fit(dn.with_covariates(Bolus(), found.relations, base.population), base.population, options=QUIET)
    assert found.fit.ofv == pytest.approx(by_hand.ofv, abs=1e-4)
    assert found.model is found.fit.model
    assert list(found.table["RANK"]) == list(range(1, 8))
    side_by_side = dn.scm(base, CANDIDATES, progress=False, forward=0.01, workers=2)
    assert side_by_side.table.equals(found.table) and side_by_side.steps.equals(found.steps)


def test_elimination_and_criteria(base):
    loose = dn.scm(base, CANDIDATES, progress=False, forward=0.6, backward=None)
    strict = dn.scm(base, CANDIDATES, progress=False, forward=0.6, backward=0.001)
    assert set(strict.terms) < set(loose.terms)
    assert (strict.steps["DECISION"] == "removed").sum() == len(loose.terms) - len(strict.terms)
    removed = strict.steps[strict.steps["DECISION"] == "removed"]
    assert (removed["P"] >= 0.001).all()
    kept = strict.steps[strict.steps["STEP"] == strict.steps["STEP"].max()]
    assert (kept["P"] < 0.001).all() and (kept["dOFV"] > 0).all()
    for criterion, cost in (("bic", math.log(40)), ("aic", 2.0)):
        steps = dn.scm(base, CANDIDATES, progress=False, criterion=criterion).steps
        included = steps[steps["DECISION"] == "included"]
        assert len(included) and (-included["dOFV"] > cost * included["DF"]).all()
        last = steps[steps["STEP"] == steps.loc[steps["DIRECTION"] == "forward", "STEP"].max()]
        assert (-last["dOFV"] <= cost * last["DF"]).all()


def test_the_best_form_is_taken(base):
    found = dn.scm(base, {"v": ["wt"]}, forms=("power", "linear", "piecewise"), progress=False, backward=None)
    first = found.steps[found.steps["STEP"] == 1]
    assert list(first["RELATION"]) == ["v ~ wt (power)", "v ~ wt (linear)", "v ~ wt (piecewise)"]
    assert list(first["DF"]) == [1, 1, 2] and len(found.terms) == 1 and found.steps["STEP"].max() == 1
    assert first["P"].min() == first.loc[first["DECISION"] == "included", "P"].item()


def test_a_search_that_was_interrupted_goes_on(base, tmp_path, monkeypatch):
    whole = dn.scm(base, CANDIDATES, progress=False)
    file, fitted, done = tmp_path / "scm.json", Base.fitted, []

    def until(limit):
        def one(self, job):
            if len(done) == limit:
                raise KeyboardInterrupt
            done.append(job.key)
            return fitted(self, job)

        return one

    monkeypatch.setattr(Base, "fitted", until(10))
    with pytest.raises(KeyboardInterrupt):
        dn.scm(base, CANDIDATES, progress=False, checkpoint=file)
    assert len(done) == 10
    monkeypatch.setattr(Base, "fitted", until(10_000))
    again = dn.scm(base, CANDIDATES, progress=False, checkpoint=file)
    assert len(done) == len(set(done)) and again.table.equals(whole.table) and again.steps.equals(whole.steps)
    count = len(done)
    dn.scm(base, CANDIDATES, progress=False, checkpoint=file)
    assert len(done) == count
    with pytest.raises(dn.ModelError, match="It was written for other settings"):
        dn.scm(base, {"v": ["wt"]}, progress=False, checkpoint=file)
    content = json.loads(file.read_text())
    content["found"]["v ~ age (power)"]["ofv"] -= 100.0
    file.write_text(json.dumps(content))
    with pytest.raises(dn.DataError, match=r"It is not a search of this package \(it was changed\)"):
        dn.scm(base, CANDIDATES, progress=False, checkpoint=file)
    file.write_text("nonsense")
    with pytest.raises(dn.DataError, match="It is not a search of this package"):
        dn.scm(base, CANDIDATES, progress=False, checkpoint=file)
    with pytest.raises(dn.ModelError, match="There is no folder"):
        dn.scm(base, CANDIDATES, progress=False, checkpoint=tmp_path / "none" / "scm.json")


def test_a_search_with_other_equations_is_not_gone_on_with(base, tmp_path):
    """The same names, data and estimates, but another residual."""
    file = tmp_path / "scm.json"
    dn.scm(base, {"v": ["wt"]}, progress=False, checkpoint=file)

    class Other(Bolus):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central / p.v, theta.sd))

    other = dataclasses.replace(base, model=Other(), evaluation=dn.evaluate_ofv(Other(), base.population).evaluation)
    with pytest.raises(dn.ModelError, match="It was written for another fit"):
        dn.scm(other, {"v": ["wt"]}, progress=False, checkpoint=file)


def test_improvements_are_counted_from_the_minimum(base):
    """Evaluated far from it, every candidate would seem to improve the OFV by the rest of the way."""
    far = dn.evaluate_ofv(Bolus(cl=2.0, v=90.0), base.population)
    candidates = {"cl": ["age"], "v": ["age"]}
    found = dn.scm(far, candidates, progress=False, forward=0.01)
    expected = dn.scm(base, candidates, progress=False, forward=0.01)
    np.testing.assert_allclose(found.steps["dOFV"], expected.steps["dOFV"], atol=2e-3)
    assert not found.terms and far.ofv > base.ofv + 50
    assert found.fit.ofv == pytest.approx(base.ofv, abs=1e-4) and found.fit.converged
    with pytest.raises(dn.ConvergenceError, match="counted from the minimum without it"):
        dn.scm(dn.fit(Bolus(), base.population, options=dataclasses.replace(QUIET, max_iterations=1)), progress=False)


def test_what_is_fixed_is_not_estimated_by_the_candidates(base):
    """Else every candidate takes the credit for the parameters that it sets free."""
    people = base.population
    kept = dn.with_covariates(Bolus(), {"v": "wt"}, people)
    kept = kept.replace(v_wt=dataclasses.replace(kept.parameters["v_wt"], value=0.3, fixed=True))
    fit = dn.fit(kept, people, options=QUIET)
    found = dn.scm(fit, {"v": ["age"]}, progress=False, backward=None)
    age = dn.with_covariates(kept, {"v": "age"}, people)
    assert found.steps["dOFV"][0] == pytest.approx(dn.fit(age, people, options=QUIET).ofv - fit.ofv, abs=2e-3)
    assert len(age.space.names) == len(kept.space.names) + 1


def test_a_fit_that_fails_is_told(base, monkeypatch):
    fitted = Base.fitted

    def one(self, job):
        if any(t.covariate == "age" for t in job.terms):
            return Outcome(math.nan, {}, [], "the OFV is not finite")
        return fitted(self, job)

    monkeypatch.setattr(Base, "fitted", one)
    found = dn.scm(base, CANDIDATES, progress=False, forward=0.01)
    assert {t.label for t in found.terms} == {"v ~ wt (power)", "cl ~ sex (categorical)"}
    age = found.steps[found.steps["RELATION"].str.contains("age")]
    assert (age["DECISION"] == "failed: the OFV is not finite").all() and len(age) == 6
    assert "6 fits of candidates failed" in str(found)
    assert list(found.table["COVARIATE"][-2:]) == ["age", "age"]


def test_mistakes(base):
    for change, message in (
        ({"forward": 5}, "Invalid `forward`: got 5. It is a p-value"),
        ({"criterion": "dic"}, "Invalid `criterion`: got 'dic'. It is one of lrt, bic, aic"),
        ({"workers": 0}, "Invalid `workers`: got 0"),
        ({"candidates": {"q": ["wt"]}}, "Invalid `candidates`: got 'q'. The model's individual parameters are cl, v"),
        ({"candidates": {"v": []}}, "Invalid `candidates`: got none"),
        ({"candidates": {"v": [7]}}, "Invalid `candidates`: got 7"),
        ({"forms": "cubic"}, "Invalid `form`: got 'cubic' for covariate wt"),
        ({"forms": {"wt": []}}, "Invalid `forms`: got none for covariate wt"),
    ):
        with pytest.raises(dn.ModelError) as caught:
            dn.scm(base, **{"candidates": CANDIDATES, "progress": False, **change})
        assert message in str(caught.value)
    with pytest.raises(dn.DataError, match=r"Invalid `forms`: got 'WT'\. The population's covariates are wt"):
        dn.scm(base, CANDIDATES, forms={"WT": "linear"}, progress=False)
    with pytest.raises(dn.ModelError, match="Invalid `fit`: got Bolus"):
        dn.scm(Bolus())
