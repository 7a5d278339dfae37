"""Models as declarations."""

import numpy as np
import pytest
import torch

import contract_models as cm
import deepnlme as dn


def test_declarations_are_inherited_replaced_and_removed():
    class Base(dn.Model):
        a = dn.Positive(1.0)
        b = dn.Real(2.0)
        eta = dn.RandomEffects("a", omega=0.1)

    class Changed(Base):
        a = dn.Positive(3.0)
        b = None
        c = dn.Real(0.0)

    model = Changed()
    assert list(model.parameters) == ["a", "c"]
    assert model.parameters["a"].value == 3.0
    assert Base().parameters["a"].value == 1.0
    assert list(model.groups) == ["eta"]


def test_changes_make_another_model():
    model = cm.Oral(ka=2.0, cl=dn.Positive(3.0, fixed=True))
    assert model.parameters["ka"].value == 2.0
    assert model.parameters["cl"].fixed
    assert cm.Oral().parameters["ka"].value == 1.1
    other = model.replace(ka=5)
    assert other.parameters["ka"].value == 5.0
    assert model.parameters["ka"].value == 2.0
    assert isinstance(other, cm.Oral)
    assert other.parameters["cl"].fixed


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(kaa=1.0), r"Invalid declaration `kaa`: the model declares ka, cl, v, a, b, eta"),
        (dict(ka="fast"), r"Invalid declaration `ka`: got 'fast', expected a Positive"),
        (dict(ka=True), r"Invalid value of a Positive parameter: got True"),
        (dict(ka=-1.0), r"got -1, expected a positive number"),
        (dict(ka=dn.RandomEffects("ka")), r"Invalid declaration `ka`"),
        (dict(eta=0.1), r"Invalid declaration `eta`: got 0.1, expected a RandomEffects"),
        (dict(eta=dn.Positive(1.0)), r"Invalid declaration `eta`"),
    ],
    ids=str,
)
def test_wrong_changes(changes, match):
    with pytest.raises(dn.ModelError, match=match):
        cm.Oral(**changes)
    with pytest.raises(dn.ModelError, match=match):
        cm.Oral().replace(**changes)


def test_duplicate_effects():
    class Twice(cm.Oral):
        iov = dn.RandomEffects("cl", by="occasion")

    with pytest.raises(
        dn.ModelError, match=r"Invalid random effect `cl`: it is declared in `eta` and in `iov`.*`iov_cl`"
    ):
        Twice()


def test_a_model_without_parameters():
    class Nothing(dn.Model):
        pass

    with pytest.raises(dn.ModelError, match="Invalid model Nothing: it declares no parameter"):
        Nothing()


def test_kind_of_dynamics():
    assert cm.Oral().is_linear and not cm.Oral().is_ode
    assert cm.Ode().is_ode and not cm.Ode().is_linear
    assert not cm.Counts().is_ode and not cm.Counts().is_linear


def test_default_individual_is_theta():
    class Line(dn.Model):
        a = dn.Real(1.0)
        b = dn.Real(2.0)
        sd = dn.Positive(0.5)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.a + p.b * x.time, p.sd))

    table = dn.predict(Line(), cm.longitudinal("counts"))
    np.testing.assert_allclose(table["PRED"], 1.0 + 2.0 * table["TIME"])


def test_initial_amounts_and_constant_numbers():
    """States that do not start at zero, and plain numbers among the individual parameters."""

    class Start(dn.Model):
        k = dn.Positive(0.2)
        sd = dn.Positive(0.5)

        def individual(self, theta, eta, cov):
            return dict(k=theta.k, amount=50, v=np.float64(10.0))

        def initial(self, theta, p):
            return dict(central=p.amount)

        def dynamics(self, theta, p, t, x):
            return dict(central=-p.k * x.central)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central / p.v, theta.sd))

    table = dn.predict(Start(), cm.longitudinal("counts")[:2])
    np.testing.assert_allclose(table["PRED"], 5.0 * np.exp(-0.2 * table["TIME"]), rtol=1e-6)


def test_names_are_read_only(monkeypatch):
    def individual(self, theta, eta, cov):
        theta.ka = theta.ka * 2
        return dict(ka=theta.ka, cl=theta.cl, v=theta.v)

    monkeypatch.setattr(cm.Oral, "individual", individual)
    with pytest.raises(dn.ModelError, match="theta is read-only"):
        dn.predict(cm.Oral(), cm.plain())


def test_evaluation_at_any_values():
    population = cm.plain()
    base = dn.evaluate_ofv(cm.Oral(), population)
    moved = dn.evaluate_ofv(cm.Oral(), population, at={"cl": 3.0, "omega[cl]": 0.2})
    declared = dn.evaluate_ofv(
        cm.Oral(cl=3.0, eta=dn.RandomEffects("ka", "cl", "v", omega=[0.2, 0.2, 0.05])), population
    )
    assert moved.ofv == pytest.approx(declared.ofv, rel=1e-12)
    assert moved.ofv != pytest.approx(base.ofv, rel=1e-3)
    assert base.status is dn.FitStatus.EVALUATED
    assert torch.get_default_dtype() is torch.float32  # nothing global is changed
