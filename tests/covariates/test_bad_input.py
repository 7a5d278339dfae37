"""What people do wrong with covariates, by every method that takes them: refused with a way out, or remarked upon."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from covariate_people import QUIET, Level, levels

PEOPLE = 24
RANDOM = np.random.default_rng(1)
WEIGHT, AGE = 70 * np.exp(0.2 * RANDOM.standard_normal(PEOPLE)), RANDOM.uniform(20, 80, PEOPLE)
NUMBER = np.array(list("abc") * 8)
COVARIATES = {
    "fine": {"wt": WEIGHT, "age": AGE},
    "constant": {"wt": WEIGHT, "site": np.full(PEOPLE, 3.0)},
    "constant text": {"wt": WEIGHT, "site": np.array(["one"] * PEOPLE)},
    "copied": {"wt": WEIGHT, "kg": WEIGHT},
    "in other units": {"wt": WEIGHT, "lb": 2.2046 * WEIGHT},
    "rounded in other units": {"wt": WEIGHT.round(1), "lb": (2.2046 * WEIGHT).round(1)},
    "two labels renamed": {"sex": np.array(list("mf") * 12), "gender": np.array(["man", "woman"] * 12)},
    "three labels renamed": {"race": NUMBER, "group": np.char.add("group ", NUMBER)},
    "many": {f"x{i}": RANDOM.standard_normal(PEOPLE) for i in range(30)},
}
METHODS = {
    "with_covariates": lambda fit, names: dn.with_covariates(Level(), {"mu": names}, fit.population),
    "scm": lambda fit, names: dn.scm(fit, {"mu": names}, progress=False, forward=1e-3),
    "screen": lambda fit, names: dn.screen(fit, {"mu": names}),
    "lasso": lambda fit, names: dn.lasso(fit, {"mu": names}, progress=False),
    "lasso by people kept aside": lambda fit, names: dn.lasso(fit, {"mu": names}, criterion="cv", progress=False),
    "attribute": lambda fit, names: dn.attribute(fit, names, refits=2, progress=False),
    "augment by a network": lambda fit, names: dn.augment(
        fit, dn.MLP(inputs=len(names), hidden=(2,), outputs=1), names, penalties=[10.0], folds=2
    ),
    "augment by a regressor": lambda fit, names: dn.augment(fit, Mean(), names),
}
NEURAL = {"augment by a network", "augment by a regressor"}


class Mean:
    """A regressor that learns nothing but the mean."""

    def fit(self, x, y, sample_weight=None):
        self.mean = float(np.average(y, weights=sample_weight))
        return self

    def predict(self, x):
        return np.full(len(x), self.mean)


@pytest.fixture(scope="module")
def fits():
    people = {name: levels(x, np.zeros(PEOPLE), seed=4) for name, x in COVARIATES.items()}
    return {name: dn.fit(Level(), population, options=QUIET) for name, population in people.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "mistake",
    [
        "constant",
        "constant text",
        "copied",
        "in other units",
        "rounded in other units",
        "two labels renamed",
        "three labels renamed",
    ],
)
def test_covariates_that_say_nothing_or_the_same(mistake, method, fits):
    fit = fits[mistake]
    first, second = fit.population.covariates
    with pytest.raises(dn.DataError) as caught:
        METHODS[method](fit, [first, second])
    message = str(caught.value)
    if "constant" in mistake:
        assert "Leave it out." in message and ("for all subjects" in message or "for all 24 subjects" in message)
        assert "Invalid `site`" in message
    else:
        assert "say the same" in message and first in message and second in message and message.count("Leave") == 1
        assert message.endswith("out.")


@pytest.mark.parametrize("method", METHODS)
def test_unknown_names(method, fits):
    with pytest.raises(dn.DataError, match=r"got 'wieght'.* wt, age\. Read it with read_nonmem"):
        METHODS[method](fits["fine"], ["wt", "wieght"])


@pytest.mark.parametrize("method", [name for name in METHODS if name != "with_covariates"])
def test_no_fit(method, fits):
    with pytest.raises(dn.ModelError, match=r"Invalid `fit`: got Population\. It is a fit"):
        METHODS[method](fits["fine"].population, ["wt"])


@pytest.mark.parametrize("method", ["scm", "screen", "lasso", "augment by a network", "augment by a regressor"])
def test_more_covariates_than_subjects(method, fits):
    """None of these has an effect. What does not correct for their number by itself says that it cannot."""
    fit = fits["many"]
    names = list(fit.population.covariates)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = METHODS[method](fit, names)
    if method in NEURAL:
        assert any("30 inputs for 24 subjects: the penalty alone decides" in str(w.message) for w in told)
        return
    notes = " ".join(found.notes)
    expected = {"scm": "30 coefficients of candidates for 24", "lasso": "30 coefficients for 24", "screen": ""}
    assert expected[method] in notes and len(found.terms) <= 2


def test_more_covariates_than_subjects_without_a_penalty(fits):
    names = list(fits["many"].population.covariates)
    with pytest.raises(dn.DataError, match=r"30 inputs for 24 subjects.* penalties="):
        dn.augment(fits["many"], dn.MLP(inputs=30, hidden=(2,), outputs=1), names, folds=0)


def observed(i, covariates):
    return dn.Subject(i + 1, observations=([1.0, 2.0], [9.0, 8.0]), covariates=covariates)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wt": float("nan")}, "Invalid `wt`: got nan for subject 4"),
        ({"wt": None}, "Invalid `wt`: got None for subject 4"),
        ({}, "Invalid `covariates`: got none for subject 4. All subjects have the same covariates"),
    ],
)
def test_a_subject_without_a_value(given, message):
    """Nobody gets into a population without a value, so that no method has to think of it."""
    with pytest.raises(dn.DataError) as caught:
        dn.Population([observed(i, given if i == 3 else {"wt": 70.0 + i}) for i in range(6)])
    assert message in str(caught.value)


def test_records_without_a_value(fits):
    population = fits["fine"].population
    r = population.records
    gap = np.where(r.subject == 3, np.nan, r.covariates["wt"])
    with pytest.raises(dn.DataError, match=r"Invalid `wt`: got no value for subject 4, row 2"):
        population.with_records(type(r)(**dict(r.columns()), covariates={**r.covariates, "wt": gap}))


def test_a_file_without_a_value(tmp_path):
    rows = [f"{i + 1},{t},{7 + i % 3},{'.' if i in (2, 4) else 60 + i}" for i in range(6) for t in range(3)]
    path = tmp_path / "people.csv"
    path.write_text("\n".join(["ID,TIME,DV,WT", *rows]))
    with pytest.raises(dn.DataError) as caught:
        dn.read_nonmem(path, covariates=["wt"])
    for part in ("subject 3", "no value of this covariate", "the median", "leave them out", "2 subjects"):
        assert part in str(caught.value)


def test_images_of_different_sizes(fits):
    population = fits["fine"].population
    images = [np.zeros((8, 8))] * PEOPLE
    with pytest.raises(dn.DataError, match=r"got shape \(8, 9\) for subject 5.* Resize or pad"):
        population.with_tensors(image=[*images[:4], np.zeros((8, 9)), *images[5:]])
    with pytest.raises(dn.DataError, match=r"got 23 arrays.* 24 subjects"):
        population.with_tensors(image=images[1:])
    one, other = population[:12].with_tensors(image=images[:12]), population[12:]
    with pytest.raises(dn.DataError, match=r"got shape \(4, 4\) for subject 13.* Resize or pad"):
        dn.Population([one, other.with_tensors(image=np.zeros((12, 4, 4)))])
    fit = dn.fit(Level(), one, options=QUIET)
    with pytest.raises(dn.DataError, match=r"got shape \(4, 4\).* Resize or pad"):
        fit.predict(other.with_tensors(image=np.zeros((12, 4, 4))), draws=0)


def test_people_on_both_sides_of_a_split(fits):
    """A network of covariates that was scored on people it had learned from would look better than it is."""
    population = fits["fine"].population
    train, test = population.split(test=0.25)
    assert not set(train.ids) & set(test.ids) and len(train) + len(test) == PEOPLE
    x, y, who = np.repeat(WEIGHT, 2)[:, None], np.repeat(AGE, 2), np.repeat(np.arange(PEOPLE), 2)
    with pytest.raises(dn.DataError, match=r"Invalid `split`: got subject \d+ .* in both train and test"):
        dn.learn("linear", x, y, split=dn.split(2 * PEOPLE, test=0.3, seed=1), groups=who)
    parts = dn.split(who, test=0.3, seed=1)
    learned = dn.learn("linear", x, y, split=parts)
    with pytest.raises(dn.DataError, match="It was learned from"):
        learned.score(x, y, groups=who)


@pytest.mark.parametrize("name", ["augment by a network", "augment by a regressor"])
def test_people_learned_from_decide_alone(name, fits):
    """Other observations of the people who are not learned from: the same model of the others to the last bit."""
    population = fits["fine"].population
    r = population.records
    other = population.with_records(
        type(r)(**(dict(r.columns()) | {"dv": np.where(r.subject >= 16, 5.0 * r.dv, r.dv)}), covariates=r.covariates)
    )
    found = []
    for people in (population, other):
        fit = dn.fit(Level(), people[:16], options=QUIET)
        found.append(METHODS[name](fit, ["wt", "age"]).effects(people)["G_mu"].to_numpy())
    np.testing.assert_array_equal(found[0], found[1])


def test_missing_values_come_with_two_ways_out():
    table = pd.read_csv("datasets/phenobarbital/data.csv", na_values=".")
    table.loc[table["ID"].isin([2, 5]), "WT"] = np.nan
    with pytest.raises(dn.DataError, match="2 subjects have none") as caught:
        dn.read_nonmem(table, covariates=["WT"])
    ways = re.findall(r'table\["WT"\] = .*?\)\)|table = .*?\)', str(caught.value))
    for way, subjects in zip(ways, (59, 57), strict=True):
        scope = {"table": table.copy()}
        exec(way, scope)  # what is to be pasted works
        assert len(dn.read_nonmem(scope["table"], covariates=["WT"])) == subjects
