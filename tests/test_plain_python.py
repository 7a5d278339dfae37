"""Plain Python inside a model is refused, and numbers made there are float64."""

import math

import numpy as np
import pytest
import torch

import deepnlme as dn


class Base(dn.Model):
    base = dn.Positive(2.0)
    sd = dn.Positive(0.3)
    eta = dn.RandomEffects("base", omega=0.1)

    def individual(self, theta, eta, cov):
        return dict(f=theta.base * torch.exp(eta.base))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.f, theta.sd))


def population(n=1):
    return dn.Population(
        [dn.Subject(i, observations=([0.0, 1.0], [2.0, 2.5]), covariates={"x": 1.0 + i}) for i in range(1, n + 1)]
    )


BAD = {
    "math": lambda theta, eta, cov: dict(f=theta.base * math.exp(eta.base)),
    "if": lambda theta, eta, cov: dict(f=theta.base if cov.x > 1 else 2 * theta.base),
    "max": lambda theta, eta, cov: dict(f=max(theta.base, 0.1)),
}


@pytest.mark.parametrize("name", BAD)
def test_plain_python_is_refused(name):
    function = BAD[name]

    class Bad(Base):
        def individual(self, theta, eta, cov):
            return function(theta, eta, cov)

    with pytest.raises(dn.ModelError, match=r"batch of scalars: use torch functions"):
        dn.evaluate_ofv(Bad(), population())


def test_wrong_signature_is_refused():
    class Bad(Base):
        def individual(self, theta, eta):
            return dict(f=theta.base)

    with pytest.raises(dn.ModelError, match="TypeError"):
        dn.evaluate_ofv(Bad(), population())


def test_numbers_are_float64():
    class Where(Base):
        def individual(self, theta, eta, cov):
            return dict(f=theta.base * torch.exp(eta.base) * torch.where(cov.x > 1, 0.1, 0.3))

    class Spelled(Base):
        def individual(self, theta, eta, cov):
            factor = 0.3 + (0.1 - 0.3) * (cov.x > 1)
            return dict(f=theta.base * torch.exp(eta.base) * factor)

    before = torch.get_default_dtype()
    both = [dn.evaluate_ofv(m(), population(4)).ofv for m in (Where, Spelled)]
    assert both[0] == pytest.approx(both[1], rel=1e-13)
    assert torch.get_default_dtype() == before


def test_censored_record_before_the_dose_can_be_left_out():
    """M1 with a prediction of zero and proportional error: the record must not reach the likelihood."""

    class Bolus(dn.Model):
        cl = dn.Positive(1.0)
        v = dn.Positive(10.0)
        b = dn.Positive(0.2)
        eta = dn.RandomEffects("cl", omega=0.1)
        dynamics = dn.OneCompartment()

        def individual(self, theta, eta, cov):
            return dict(cl=theta.cl * torch.exp(eta.cl), v=theta.v)

        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.proportional(f, theta.b), blq="M1"))

    import pandas as pd

    rows = [
        dict(ID=1, TIME=0, AMT=0, DV=0.1, CENS=1, EVID=0),
        dict(ID=1, TIME=1, AMT=100, DV=np.nan, CENS=0, EVID=1),
        dict(ID=1, TIME=2, AMT=0, DV=9.0, CENS=0, EVID=0),
        dict(ID=1, TIME=9, AMT=0, DV=4.0, CENS=0, EVID=0),
    ]
    with_it = dn.read_nonmem(pd.DataFrame(rows))
    without = dn.read_nonmem(pd.DataFrame(rows[1:]).drop(columns="CENS"))
    for method in (dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace(), dn.NaivePooled()):
        one, other = (dn.evaluate_ofv(Bolus(), p, method) for p in (with_it, without))
        assert one.ofv == pytest.approx(other.ofv, rel=1e-10)
        np.testing.assert_allclose(one.evaluation.gradient, other.evaluation.gradient, rtol=1e-8)


def test_require_converged_carries_the_fit():
    fit = dn.fit(Base(), population(6), options=dn.Options(max_iterations=1, tolerance=1e-30, progress=False))
    with pytest.raises(dn.ConvergenceError, match="iteration limit") as caught:
        fit.require_converged()
    assert caught.value.result is fit
