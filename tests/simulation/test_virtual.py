"""Virtual people: margins, correlations and resampled rows as specified; doses as a slow loop over subjects gives."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import deepnlme as dn

N = 20_000


def drawn(spec, n=N, seed=3, name="x"):
    return dn.virtual_population(n, covariates={name: spec}, seed=seed).records.covariates[name]


@pytest.mark.parametrize(
    ("spec", "true"),
    [
        (dn.LogNormal(70, 0.2), stats.lognorm(0.2, scale=70)),
        (dn.Normal(170.0, 9.0), stats.norm(170, 9)),
        (stats.gamma(3.0, scale=2.0), stats.gamma(3.0, scale=2.0)),
        (torch.distributions.Uniform(2.0, 5.0), stats.uniform(2, 3)),
        (torch.distributions.LogNormal(1.0, 0.5), stats.lognorm(0.5, scale=np.e)),
        (dn.Truncated(dn.Normal(50, 20), 18, 80), stats.truncnorm(-1.6, 1.5, loc=50, scale=20)),
        (dn.Truncated(torch.distributions.Exponential(1.0), -1.0, 2.0), stats.truncexpon(2.0)),
    ],
)
def test_margins(spec, true):
    assert stats.kstest(drawn(spec), true.cdf).pvalue > 0.01


def test_truncated_lognormal_is_the_conditional_distribution():
    x = drawn(dn.Truncated(dn.LogNormal(70, 0.2), low=60, high=90))
    full = stats.lognorm(0.2, scale=70)
    given = lambda v: (full.cdf(v) - full.cdf(60)) / (full.cdf(90) - full.cdf(60))  # noqa: E731
    assert x.min() >= 60 and x.max() <= 90
    assert stats.kstest(x, given).pvalue > 0.01


def test_bounds_of_a_truncated_count_are_included():
    x = drawn(dn.Truncated(stats.poisson(3.0), 1, 4))
    p = stats.poisson(3.0).pmf([1, 2, 3, 4])
    counts = np.array([(x == k).sum() for k in (1, 2, 3, 4)])
    assert counts.sum() == N
    assert stats.chisquare(counts, N * p / p.sum()).pvalue > 0.01


def test_levels_are_texts_or_numbers():
    people = dn.virtual_population(
        N, covariates={"sex": {"female": 0.4, "male": 0.6}, "n": {0: 0.1, 2: 0.9}, "site": "A"}
    )
    table = people.to_frame()
    assert people.categories == {"sex": ("female", "male"), "site": ("A",)}
    assert set(table["site"]) == {"A"} and set(table["n"]) == {0.0, 2.0}
    assert stats.binomtest(int((table["sex"] == "male").sum()), N, 0.6).pvalue > 0.01
    assert stats.binomtest(int((table["n"] == 2).sum()), N, 0.9).pvalue > 0.01


def test_values_given_one_by_one_and_computed_ones():
    people = dn.virtual_population(
        3,
        covariates={
            "wt": [50.0, 70.0, 90.0],
            "sex": ["m", "f", "m"],
            "bmi": lambda c: c["wt"] / 1.7**2,
            "adult": lambda c: np.where(c["sex"] == "m", "yes", "no"),
            "site": lambda c: 4.0,
        },
    )
    table = people.to_frame()
    assert table["wt"].tolist() == [50, 70, 90] and table["sex"].tolist() == ["m", "f", "m"]
    assert table["bmi"].to_numpy() == pytest.approx(np.array([50, 70, 90]) / 2.89, rel=1e-15)
    assert table["adult"].tolist() == ["yes", "no", "yes"] and table["site"].tolist() == [4, 4, 4]


def test_the_same_call_gives_the_same_people_and_others_leave_them_alone():
    wt = {"wt": dn.LogNormal(70, 0.2)}
    first = dn.virtual_population(50, covariates=wt, seed=1)
    assert first == dn.virtual_population(50, covariates=wt, seed=1)
    x = first.records.covariates["wt"]
    assert np.array_equal(x, drawn(dn.LogNormal(70, 0.2), 80, seed=1, name="wt")[:50])
    more = dn.virtual_population(50, covariates={"age": dn.Normal(40, 5), **wt}, seed=1).records.covariates
    assert np.array_equal(x, more["wt"])
    assert not np.any(x == drawn(dn.LogNormal(70, 0.2), 50, seed=2, name="wt"))
    assert abs(np.corrcoef(np.log(more["wt"]), more["age"])[0, 1]) < 0.5


def test_copula_keeps_margins_and_has_the_latent_correlation():
    correlation = pd.DataFrame([[1, 0.6, -0.5], [0.6, 1, 0], [-0.5, 0, 1]], ["a", "b", "c"], ["a", "b", "c"])
    spec = dn.Copula({"c": dn.Normal(0, 1), "a": dn.LogNormal(70, 0.2), "b": stats.gamma(2.0)}, correlation)
    values = dn.virtual_population(N, covariates=spec, seed=5).records.covariates
    assert list(values) == ["c", "a", "b"]
    assert stats.kstest(values["a"], stats.lognorm(0.2, scale=70).cdf).pvalue > 0.01
    assert stats.kstest(values["b"], stats.gamma(2.0).cdf).pvalue > 0.01
    assert np.corrcoef(np.log(values["a"]), values["c"])[0, 1] == pytest.approx(-0.5, abs=4 / np.sqrt(N))
    spearman = stats.spearmanr(values["a"], values["b"]).statistic
    assert spearman == pytest.approx(6 / np.pi * np.arcsin(0.3), abs=4 / np.sqrt(N))
    assert abs(np.corrcoef(values["b"], values["c"])[0, 1]) < 4 / np.sqrt(N)


def test_copula_with_a_text():
    spec = dn.Copula({"wt": dn.Normal(70, 10), "sex": {"f": 0.3, "m": 0.7}}, [[1, 0.7], [0.7, 1]])
    table = dn.virtual_population(N, covariates=spec).to_frame()
    both = stats.multivariate_normal(cov=[[1, 0.7], [0.7, 1]]).cdf([0.0, stats.norm.ppf(0.3)])
    count = int(((table["wt"] < 70) & (table["sex"] == "f")).sum())
    assert stats.binomtest(count, N, both).pvalue > 0.01
    assert stats.binomtest(int((table["sex"] == "f").sum()), N, 0.3).pvalue > 0.01


def test_resampled_rows_stay_together():
    rows = [(1, 0, 50.0, "f", 30.0), (1, 5, 55.0, "f", 99.0), (2, 0, 80.0, "m", 40.0), (3, 0, 95.0, "m", 60.0)]
    data = pd.DataFrame(rows, columns=["ID", "TIME", "wt", "sex", "age"]).assign(DV=1.0)
    source = dn.read_nonmem(data, covariates=["wt", "sex", "age"])
    for given in (source, data[["ID", "wt", "sex", "age"]]):
        table = dn.virtual_population(6000, covariates=dn.Resampled(given), seed=2).to_frame()
        found = table.groupby(["wt", "sex", "age"]).size()
        assert set(found.index) == {(50.0, "f", 30.0), (80.0, "m", 40.0), (95.0, "m", 60.0)}  # the first record's
        assert stats.chisquare(found.to_numpy()).pvalue > 0.01
    some = dn.virtual_population(10, covariates=[dn.Resampled(source, ["sex"]), {"wt": 70.0}])
    assert some.covariates == ("sex", "wt")


def slow(plan_of, weights, **columns):
    """The same population, made one subject after the other."""
    subjects = []
    for i, weight in enumerate(weights):
        plan = plan_of(float(weight))
        covariates = {"wt": float(weight), **{name: value[i] for name, value in columns.items()}}
        start = None if plan is not None and min(d.time for d in plan) == 0 else ([0.0], [0.0])
        subjects.append(dn.Subject(i + 1, plan, None, {**covariates, "zero": start or 0.0}))
    return dn.Population(subjects).to_frame().drop(columns="zero")


def same(found, expected):
    pd.testing.assert_frame_equal(found.to_frame(), expected, check_exact=False, rtol=1e-12)


INFUSIONS = dn.Regimen(dn.Dose(5, duration=2, cmt=1), dn.Dose(2, time=12, ii=12, addl=3), dn.Dose(3, time=99, rate=-2))


def test_doses_per_kilogram_are_scaled_regimens():
    weights = np.random.default_rng(0).uniform(8, 120, 40)
    found = dn.virtual_population(40, dn.PerCovariate("wt", INFUSIONS), covariates={"wt": weights})
    same(found, slow(lambda wt: INFUSIONS.scale(wt), weights))


def test_rounding_then_capping():
    weights = np.array([10.0, 11.0, 12.0, 55.0, 62.5, 100.0])
    rule = dn.PerCovariate("wt", dn.Dose(2.0, duration=0.5), cap=130, round_to=25)
    found = dn.virtual_population(6, rule, covariates={"wt": weights}).records
    assert found.amt.tolist() == [25, 25, 25, 100, 125, 130]  # 20 22 24 110 125 (half-way up) 200
    assert found.rate.tolist() == [50, 50, 50, 200, 250, 260]


def test_bands_hold_their_lower_edge_and_rules_nest():
    weights = np.array([9.9, 10, 19, 20, 39, 40, 80, 5])
    inner = dn.PerCovariate("wt", dn.Dose(2.0))
    rule = dn.Bands("wt", [10, 20, 40], [dn.Dose(50), None, dn.Regimen(dn.Dose(1), dn.Dose(2, time=8)), inner])

    def plan(wt):
        if wt < 10:
            return dn.Regimen(dn.Dose(50))
        if wt < 20:
            return None
        return dn.Regimen(dn.Dose(1), dn.Dose(2, time=8)) if wt < 40 else dn.Regimen(dn.Dose(2.0)).scale(wt)

    same(dn.virtual_population(8, rule, covariates={"wt": weights}), slow(plan, weights))
    outer = dn.PerCovariate("wt", dn.Bands("wt", [10], [dn.Dose(1), dn.Dose(2)]))
    found = dn.virtual_population(8, outer, covariates={"wt": weights}).records.amt
    assert found == pytest.approx(np.where(weights < 10, 1, 2) * weights)
    assert dn.virtual_population(8, rule.scale(3.0), covariates={"wt": weights}).records.amt == pytest.approx(
        3.0 * dn.virtual_population(8, rule, covariates={"wt": weights}).records.amt
    )


def test_everybody_has_a_record_at_time_zero():
    frame = dn.virtual_population(2, dn.Dose(10, time=5)).to_frame()
    assert frame[["ID", "TIME", "EVID"]].to_numpy().tolist() == [[1, 0, 2], [1, 5, 1], [2, 0, 2], [2, 5, 1]]
    assert dn.virtual_population(1).to_frame()[["TIME", "EVID"]].to_numpy().tolist() == [[0, 2]]


def test_occasions_begin_with_a_record():
    doses = dn.Regimen(dn.Dose(10, ii=12, addl=5), dn.Dose(10, time=48))
    found = dn.virtual_population(2, doses, occasions=[0, 24, 48])
    subjects = [dn.Subject(i, doses, None, {"x": ([0.0, 24.0], [1.0, 1.0])}, occasions=[0, 24, 48]) for i in (1, 2)]
    pd.testing.assert_frame_equal(found.to_frame(), dn.Population(subjects).to_frame().drop(columns="x"))


def test_it_can_be_written_and_read():
    people = dn.virtual_population(5, INFUSIONS, covariates={"wt": dn.LogNormal(70, 0.2), "sex": {"a": 0.5, "b": 0.5}})
    again = dn.read_nonmem(people.to_frame(), covariates=people.reading())
    assert again == people


def test_identifiers():
    assert dn.virtual_population(2, ids=["A1", "A2"]).ids == ("A1", "A2")
    with pytest.raises(dn.DataError, match=r"Invalid `ids`: got 3 identifiers. There is one identifier for each of 2"):
        dn.virtual_population(2, ids=[1, 2, 3])


WT = {"wt": dn.LogNormal(70, 0.2)}
MISTAKES = [
    (dict(n=0), "`n`: got 0. It is a whole number"),
    (dict(n=2.5), "`n`: got 2.5"),
    (dict(n=True), "`n`: got True"),
    (dict(n={"a": 1}), "`n`: got {'a': 1}. Numbers by arm need arms"),
    (dict(seed=-1), "`seed`: got -1"),
    (dict(regimen=100), "`regimen`: got 100. It is a dn.Dose"),
    (dict(occasions=[0, 5, 5]), "`occasions`"),
    (dict(occasions=[1, 5]), "The first occasion begins at 0"),
    (dict(covariates=5), "`covariates`: got 5. It is a dict"),
    (dict(covariates={"wt": np.nan}), "`covariates['wt']`: got nan"),
    (dict(covariates={"wt": None}), "`covariates['wt']`: got None. It is a number"),
    (dict(covariates={"wt": [1.0, 2.0]}), "got 2 values. There is one value for each of 3 people"),
    (dict(covariates={"wt": [1.0, np.nan, 2.0]}), "got nan for person 2. A covariate is a finite number"),
    (
        dict(covariates={"wt": ["a", None, "b"]}),
        "got nan for person 2. The values of a covariate are all texts or all numbers",
    ),
    (dict(covariates={"wt": lambda c: [1.0]}), "got 1 values"),
    (
        dict(covariates={"bmi": lambda c: c["wt"] / 3, "wt": 70.0}),
        "`covariates['bmi']`: got a function that reads 'wt'. The covariates before it are none. Put it before",
    ),
    (dict(covariates={"wt": dn.LogNormal(70, -0.2)}), "got LogNormal with sd -0.2. A standard deviation is positive"),
    (dict(covariates={"wt": dn.Normal(70, 0)}), "got Normal with sd 0"),
    (dict(covariates={"wt": dn.LogNormal(-70, 0.2)}), "A median of LogNormal is positive"),
    (dict(covariates={"sex": {"f": 0.5, "m": 0.4}}), "got probabilities 0.5, 0.4 that add up to 0.9"),
    (dict(covariates={"sex": {"f": 1.5, "m": -0.5}}), "got 1.5 for 'f'. A probability is"),
    (dict(covariates={"sex": {"f": 0.5, 1: 0.5}}), "A dict has texts, or numbers, as keys"),
    (dict(covariates={"sex": {"na": 0.5, "m": 0.5}}), "got 'na'. A label is a text"),
    (dict(covariates={"dv": 3}), "`covariates`: got 'dv'. This names a data item"),
    (dict(covariates=[WT, {"WT": 4}]), "got 'WT' twice"),
    (dict(covariates={"x": torch.distributions.Gamma(2.0, 1.0)}), "no quantile function. Use the same one of scipy"),
    (dict(covariates={"x": dn.Truncated(dn.Normal(50, 1), 90, 95)}), "They leave a probability of"),
    (dict(regimen=dn.PerCovariate("wt", dn.Dose(1))), "`covariate`: got 'wt' for PerCovariate('wt')"),
    (dict(regimen=dn.PerCovariate("s", dn.Dose(1)), covariates={"s": "a"}), "got the text covariate 's'"),
    (dict(regimen=dn.PerCovariate("x", dn.Dose(1)), covariates={"x": [1, -2, 3]}), "`x`: got -2 for person 2"),
    (dict(regimen=dn.PerCovariate("wt", dn.Dose(1), round_to=500), covariates=WT), "`round_to`: got 500, which rounds"),
    (
        dict(regimen=dn.PerCovariate("wt", dn.Dose(0, rate=2, ss=1), cap=5), covariates=WT),
        "got a constant infusion or a reset",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_mistakes_of_a_population(arguments, message):
    with pytest.raises(dn.DataError) as error:
        dn.virtual_population(**{"n": 3, **arguments})
    assert str(error.value).startswith("Invalid `") and message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dn.Truncated(dn.Normal(0, 1), 2, 1), "`Truncated`: got low=2, high=1"),
        (lambda: dn.Truncated(dn.Normal(0, 1), "a"), "`low`: got 'a'"),
        (lambda: dn.Copula({}, []), "`margins`: got {}"),
        (lambda: dn.Copula(WT, [[1, 0], [0, 1]]), "`correlation`: got shape (2, 2). It is 1 by 1: wt"),
        (lambda: dn.Copula({**WT, "b": 1}, [[1, 0.5], [0.4, 1]]), "symmetric, with ones on the diagonal"),
        (lambda: dn.Copula({**WT, "b": 1}, [[1, 1.0], [1.0, 1]]), "positive definite"),
        (lambda: dn.Copula({**WT, "b": 1}, "no"), "`correlation`: got 'no'. It is a 2 by 2 matrix of numbers"),
        (lambda: dn.Copula({**WT, "b": 1}, pd.DataFrame(np.eye(2))), "Its rows and columns are wt, b"),
        (lambda: dn.Copula({**WT, "b": [1, 2]}, np.eye(2)), "`covariates['b']`: got [1, 2]"),
        (lambda: dn.Resampled(5), "`source`: got int"),
        (lambda: dn.Resampled(pd.DataFrame({"wt": [1.0]}), ["age"]), "got 'age'. The covariates of the source are wt"),
        (lambda: dn.Resampled(pd.DataFrame({"wt": [1.0]}), "wt"), "Write columns=['wt']"),
        (lambda: dn.Resampled(pd.DataFrame({"wt": [1.0, np.nan]})), "`covariates['wt']`: got nan for person 2"),
        (lambda: dn.PerCovariate("wt", 5), "`regimen`: got 5"),
        (lambda: dn.PerCovariate("wt", None), "PerCovariate scales doses"),
        (lambda: dn.PerCovariate("wt", dn.Dose(1), cap=-1), "`cap`: got -1 for PerCovariate('wt')"),
        (lambda: dn.Bands("wt", [10, 10], [dn.Dose(1)] * 3), "`edges`: got [10, 10] for Bands('wt')"),
        (lambda: dn.Bands("wt", [], [dn.Dose(1)]), "Edges of bands are numbers that increase"),
        (lambda: dn.Bands("wt", [10, 20], [dn.Dose(1)] * 2), "got 2 regimens for Bands('wt'). 2 edges make 3 bands"),
        (lambda: dn.Bands("wt", [10], dn.Dose(1)), "got one regimen"),
    ],
)
def test_mistakes_of_specifications(make, message):
    with pytest.raises(dn.DataError) as error:
        make()
    assert message in str(error.value)
