"""A single endpoint is matched by its name, unless one side does not name it."""

import pytest

import deepnlme as dn


def model(endpoint):
    class Constant(dn.Model):
        base = dn.Positive(2.0)
        sd = dn.Positive(0.3)

        def observe(self, theta, p, x):
            return {endpoint: dn.Normal(theta.base, theta.sd)}

    return Constant()


def population(name):
    times, values = [0.0, 1.0], [2.0, 2.5]
    return dn.Population([dn.Subject(1, observations={name: (times, values)} if name else (times, values))])


@pytest.mark.parametrize(("of_model", "of_data"), [("cp", "cp"), ("cp", ""), ("cp", "1"), ("cp", "3"), ("dv", "cp")])
def test_matched(of_model, of_data):
    assert dn.evaluate_ofv(model(of_model), population(of_data)).n_observations == 2


def test_another_name_is_refused():
    with pytest.raises(dn.DataError, match=r"got 'pca' for subject 1, row .*expected one of cp"):
        dn.evaluate_ofv(model("cp"), population("pca"))


def test_naive_pooled_shows_no_omega():
    class Pooled(dn.Model):
        base = dn.Positive(2.0)
        sd = dn.Positive(0.3)
        eta = dn.RandomEffects("base", omega=0.1)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.base, theta.sd))

    fit = dn.fit(Pooled(), population(""), dn.NaivePooled(), options=dn.Options(progress=False, covariance=None))
    assert list(fit.table().index) == ["base", "sd"]
