"""The search for the modes of the random effects."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import contract_models as cm
import deepnlme as dn
from deepnlme.estimation import inner
from deepnlme.estimation.inner import EBEStatus, InnerOptions, Modes, derivatives, find_modes, newton_step
from deepnlme.estimation.method import Rows
from deepnlme.joint import Joint, free_tensor


def rows_of(model, population):
    joint = Joint(model, population)
    return Rows(joint, joint.batch, free_tensor(joint.space.initial(), joint.batch.rows))


@pytest.mark.parametrize("name", ["block", "occasions", "interval", "power", "lag"])
@pytest.mark.parametrize("method", [dn.FOCE(), dn.FOCE(interaction=False)], ids=lambda m: m.name)
def test_same_mode_from_bad_starts(name, method):
    case = cm.BY_NAME[name]
    rows = rows_of(case.model(), case.population())
    r, k = rows.batch.rows, rows.joint.k
    options = InnerOptions(tolerance=1e-8)
    reference = find_modes(method, rows, torch.zeros(r, k, dtype=torch.float64), options)
    assert (reference.status == EBEStatus.CONVERGED).all()
    value, g, h = derivatives(method, rows, reference.z)
    assert g.abs().max() < 1e-7
    assert torch.linalg.eigvalsh(h).min() > 0
    draws = torch.randn(4, r, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for start in (*(2.0 * draws), torch.full((r, k), 3.0).double(), torch.full((r, k), -3.0).double()):
        found = find_modes(method, rows, start, options)
        assert (found.status == EBEStatus.CONVERGED).all()
        again, slope, curvature = derivatives(method, rows, found.z)
        # wherever it ends is a minimum; these models may have a second one far out, never a better one
        assert slope.abs().max() < 1e-6
        assert torch.linalg.eigvalsh(curvature).min() > 0
        assert (again > value - 1e-8).all()


def test_unimodal_model_finds_the_one_mode():
    case = cm.BY_NAME["counts"]
    rows = rows_of(case.model(), case.population())
    r, k = rows.batch.rows, rows.joint.k
    found = [find_modes(dn.Laplace(), rows, torch.full((r, k), s).double(), InnerOptions()) for s in (-6.0, 0.0, 2.0)]
    for other in found[1:]:
        torch.testing.assert_close(other.z, found[0].z, rtol=0, atol=1e-7)


def test_exact_derivatives_of_the_inner_problem():
    case = cm.BY_NAME["block"]
    rows = rows_of(case.model(), case.population())
    z = 0.3 * torch.randn(rows.batch.rows, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    _, g, h = derivatives(dn.FOCE(), rows, z)
    step = 1e-5
    for a in range(3):
        e = step * torch.eye(3, dtype=torch.float64)[a]
        up, down = derivatives(dn.FOCE(), rows, z + e), derivatives(dn.FOCE(), rows, z - e)
        torch.testing.assert_close(g[:, a], (up[0] - down[0]) / (2 * step), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(h[:, a], (up[1] - down[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_newton_step_goes_downhill_for_any_curvature():
    g = torch.tensor([[1.0, -2.0], [1.0, 1.0], [0.5, 0.0], [torch.nan, 1.0]], dtype=torch.float64)
    h = torch.tensor(
        [[[2.0, 0.3], [0.3, 1.0]], [[-1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
        dtype=torch.float64,
    )
    step, decrement = newton_step(g, h, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(step[0], -torch.linalg.solve(h[0], g[0]))
    assert ((step * g).sum(1)[:3] < 0).all()
    assert (decrement[:3] > 0).all()
    assert (step[3] == 0).all()


def test_a_search_that_is_stuck_does_not_call_itself_converged():
    """A kink at the minimum: ever shorter steps are no sign of a vanishing gradient."""

    class Kink(dn.Model):
        sd = dn.Positive(1.0)
        eta = dn.RandomEffects("b", omega=1.0)

        def individual(self, theta, eta, cov):
            return dict(b=eta.b)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.b.abs() + 0 * x.time, theta.sd))

    population = dn.read_nonmem(pd.DataFrame(dict(ID=[1], TIME=[0.0], DV=[-1.0])))
    rows = rows_of(Kink(), population)
    found = find_modes(dn.Laplace(), rows, torch.tensor([[0.3]], dtype=torch.float64), InnerOptions())
    assert found.status.tolist() == [EBEStatus.MAX_ITERATIONS]


class LateAbsorption(dn.Model):
    """A lag time that may be early or late: two modes, of which the one near zero is the worse."""

    ka = dn.Positive(4.0)
    tlag = dn.Positive(1.0)
    sd = dn.Positive(0.3)
    eta = dn.RandomEffects("tlag", omega=1.5)
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=1.0 + 0 * theta.ka, v=10.0 + 0 * theta.ka, tlag=theta.tlag * exp(eta.tlag))

    def dosing(self, theta, p):
        return dict(depot=dn.Dosing(lag=p.tlag))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


def late_absorption():
    rows = []
    for i, lag in enumerate((4.1, 0.4, 3.2)):
        rows.append(dict(ID=i, TIME=0.0, DV=np.nan, AMT=100.0, EVID=1))
        for t in (0.25, 1.0, 2.0, 3.0, 5.0, 8.0):
            s = max(t - lag, 0.0)
            rows.append(dict(ID=i, TIME=t, DV=10 * 4 / 3.9 * (np.exp(-0.1 * s) - np.exp(-4 * s)), AMT=0.0, EVID=0))
    return dn.read_nonmem(pd.DataFrame(rows))


def test_several_starts_find_the_better_of_several_modes():
    population = late_absorption()
    few = dn.evaluate_ofv(LateAbsorption(), population, dn.Laplace())
    many = dn.evaluate_ofv(LateAbsorption(), population, dn.Laplace(), options=dn.Options(ebe_starts=12))
    grid = np.linspace(-3.0, 3.0, 6001)
    joint = Joint(LateAbsorption(), population)
    with torch.no_grad():
        z = torch.tensor(grid / np.sqrt(1.5)).reshape(-1, 1, 1).expand(-1, 3, 1)
        values = joint.space.values(free_tensor(joint.space.initial(), 3).expand(len(grid), 3, -1))
        nll = 0.5 * (z**2).sum(-1) - joint.predict(values, z, joint.batch).log_density().sum(-1)
    best = grid[nll.argmin(0).numpy()]
    np.testing.assert_allclose(many.ebes.eta[:, 0], best, atol=2e-3)
    # from the origin alone a worse mode is found for some
    assert np.abs(few.ebes.eta[:, 0] - best).max() > 0.1


class Fragile(cm.Oral):
    """The prediction of one subject is not finite once its random effect is far from zero."""

    eta = dn.RandomEffects("cl", "v", omega=[0.1, 0.05])

    def individual(self, theta, eta, cov):
        wrong = torch.where((cov.BAD > 0) & (eta.cl.abs() > 1e-3), torch.nan, 1.0)
        return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl) * wrong, v=theta.v * exp(eta.v))


def test_one_bad_subject_is_named_and_does_not_sink_the_others():
    frame = cm.records(cm.TIMES)
    frame["BAD"] = (frame["ID"] == 3).astype(float)
    population = dn.read_nonmem(frame, covariates=["BAD"])
    rows = rows_of(Fragile(), population)
    start = torch.full((4, 2), 0.1, dtype=torch.float64)
    found = find_modes(dn.FOCE(), rows, start, InnerOptions())
    assert found.status.tolist() == [0, 0, EBEStatus.NOT_FINITE, 0]
    good = dn.evaluate_ofv(cm_without_bad(), population, dn.FOCE())
    np.testing.assert_allclose(
        (found.z * torch.tensor([0.1, 0.05]).sqrt())[[0, 1, 3]].numpy(), good.ebes.eta[[0, 1, 3]], atol=1e-5
    )
    with pytest.raises(dn.ModelError, match=r"subject 3"):
        bad = dn.read_nonmem(frame.assign(BAD=frame["BAD"] * 1.0), covariates=["BAD"])
        dn.fit(AlwaysBad(), bad, options=dn.Options(progress=False))


def cm_without_bad():
    class Sound(Fragile):
        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    return Sound()


class AlwaysBad(Fragile):
    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl) * torch.where(cov.BAD > 0, torch.nan, 1.0), v=theta.v)


def test_a_subject_whose_search_fails_is_reported_by_the_result():
    frame = cm.records(cm.TIMES)
    frame["BAD"] = (frame["ID"] == 3).astype(float)
    found = dn.evaluate_ofv(Fragile(), dn.read_nonmem(frame, covariates=["BAD"]), dn.FOCE())
    assert found.unconverged == [3]
    assert not found.converged
    assert "random effects not found for 1 subjects: 3" in str(found)


def test_every_start_is_another_point(monkeypatch):
    seen = []

    def record(method, rows, start, options):
        seen.append(start[0].tolist())
        return Modes(start, torch.zeros(len(start), dtype=torch.int64), 1)

    monkeypatch.setattr(inner, "find_modes", record)
    population = late_absorption()
    joint = Joint(LateAbsorption(), population)
    rows = Rows(joint, joint.batch, free_tensor(joint.space.initial(), 3))
    for n in (1, 2, 5):
        seen.clear()
        inner.find_modes_from_many(dn.Laplace(), rows, torch.zeros(3, 1, dtype=torch.float64), InnerOptions(starts=n))
        assert len(set(map(tuple, seen))) == len(seen) == n
