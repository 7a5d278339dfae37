"""A batch equals a loop over subjects; order, padding, chunks and company change nothing."""

import numpy as np
import pandas as pd
import pytest

import contract_models as cm
import deepnlme as dn
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint

NAMES = ("block", "occasions", "interval", "lag", "two endpoints", "time-varying", "duration")
CASES = [(cm.BY_NAME[n], m) for n in NAMES for m in (dn.FOCE(), dn.Laplace(), dn.FO()) if m in cm.BY_NAME[n].methods]
CASES += [(cm.BY_NAME["counts"], dn.Laplace())]
TIGHT = dn.Options(ebe_tolerance=1e-8)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize(("case", "method"), CASES, ids=[f"{c.name}-{m.name}" for c, m in CASES])


def same(a, b, scale=1.0):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * scale)


def test_batch_equals_loop(case, method):
    population, model = case.population(), case.model()
    whole = dn.evaluate_ofv(model, population, method, options=TIGHT)
    assert whole.ofv == pytest.approx(whole.subject_ofv.sum(), rel=1e-13)
    for i in range(len(population)):
        alone = dn.evaluate_ofv(model, population[i : i + 1], method, options=TIGHT)
        same(alone.ofv, whole.subject_ofv.iloc[i])
        k = alone.ebes.eta.shape[1]
        np.testing.assert_allclose(alone.ebes.eta[0], whole.ebes.eta[i, :k], rtol=1e-7, atol=1e-9)
        # a subject without later occasions has no information on them
        same(whole.ebes.eta[i, k:], 0.0)
        gradient = whole.evaluation.subject_gradient[0, i]
        np.testing.assert_allclose(alone.evaluation.gradient[0], gradient, rtol=1e-7, atol=1e-8)


def test_order_changes_nothing(case, method):
    population, model = case.population(), case.model()
    order = [2, 0, 3, 1]
    whole = dn.evaluate_ofv(model, population[:4], method, options=TIGHT)
    mixed = dn.evaluate_ofv(model, dn.Population([population[i] for i in order]), method, options=TIGHT)
    same(mixed.subject_ofv.to_numpy(), whole.subject_ofv.to_numpy()[order])
    np.testing.assert_allclose(mixed.ebes.eta, whole.ebes.eta[order], rtol=1e-7, atol=1e-9)
    assert list(mixed.subject_ofv.index) == [whole.subject_ofv.index[i] for i in order]
    a, b = whole.predictions(), mixed.predictions()
    b = b.set_index("ID").loc[list(dict.fromkeys(a["ID"]))].reset_index()[a.columns]
    for name in ("TIME", "DV", "PRED", "IPRED", "CWRES", "WRES"):
        values = [t[name].to_numpy(dtype=float, na_value=np.nan) for t in (a, b)]
        np.testing.assert_allclose(*values, rtol=1e-7, atol=1e-8)


def test_chunks_change_nothing(case, method):
    joint = Joint(case.model(), case.population())
    u = joint.space.initial()
    points = np.stack([u, u + 0.01, u - 0.02])
    whole = MarginalObjective(joint, method)
    chunked = MarginalObjective(joint, method, budget=1)
    chunked.rows_per_chunk = 1
    for _ in range(2):  # the second time from remembered modes
        a, b = whole(points), chunked(points)
        for name in ("ofv", "subject", "penalty"):
            same(getattr(a, name), getattr(b, name))
        np.testing.assert_allclose(b.gradient, a.gradient, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(b.z, a.z, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(b.curvature, a.curvature, rtol=1e-8, atol=1e-8)


def test_small_memory_gives_the_same_fit():
    population = cm.longitudinal("counts", subjects=12)
    options = dict(progress=False)
    whole = dn.fit(cm.Counts(), population, dn.Laplace(), options=dn.Options(**options))
    small = dn.fit(cm.Counts(), population, dn.Laplace(), options=dn.Options(max_numbers=10, **options))
    assert small.ofv == pytest.approx(whole.ofv, abs=1e-6)
    np.testing.assert_allclose(list(small.estimates.values()), list(whole.estimates.values()), rtol=1e-3)


def test_several_vectors_equal_single_ones(case, method):
    joint = Joint(case.model(), case.population())
    u = joint.space.initial()
    objective = MarginalObjective(joint, method)
    both = objective(np.stack([u, u + 0.03]))
    for i, point in enumerate((u, u + 0.03)):
        alone = MarginalObjective(joint, method)(point)
        same(alone.ofv[0], both.ofv[i])
        np.testing.assert_allclose(both.gradient[i], alone.gradient[0], rtol=1e-8, atol=1e-8)


class OnlyEffect(cm.TwoEndpoints):
    """The second endpoint alone."""

    def observe(self, theta, p, x):
        return {"effect": super().observe(theta, p, x)["effect"]}


@pytest.mark.parametrize("method", [dn.FO(), dn.FOCE(), dn.Laplace()], ids=lambda m: m.name)
@pytest.mark.parametrize("placebo", [False, True])
def test_a_subject_without_an_endpoint_whose_logarithm_has_no_value(method, placebo):
    """A log-normal concentration that is zero at the first record, or always: nothing of it is observed."""
    frame = cm.two_endpoints().to_frame()
    frame = frame[~((frame["ID"] == 1) & (frame["DVID"] == "cp"))]
    if placebo:
        frame = frame[~((frame["ID"] == 1) & (frame["EVID"] == 1))]
    population = dn.read_nonmem(frame)
    whole = dn.evaluate_ofv(cm.TwoEndpoints(), population, method, options=TIGHT)
    alone = dn.evaluate_ofv(OnlyEffect(), population[:1], method, options=TIGHT)
    same(whole.subject_ofv.iloc[0], alone.ofv)
    gradient = dict(zip(whole.joint.space.names, whole.evaluation.subject_gradient[0, 0], strict=True))
    for name, value in zip(alone.joint.space.names, alone.evaluation.gradient[0], strict=True):
        np.testing.assert_allclose(gradient[name], value, rtol=1e-7, atol=1e-8)
    assert np.isfinite(whole.evaluation.gradient).all()
    assert whole.predictions().query("ID == 1")["DVID"].eq("effect").all()


def test_records_left_out_may_have_a_prediction_without_a_logarithm():
    """M1 with a log-normal error: a record below the limit before anything was given."""

    class LeftOut(cm.Logarithmic):
        def observe(self, theta, p, x):
            return dict(dv=dn.LogNormal(x.central / p.v, theta.b, blq="M1"))

    frame = cm.plain().to_frame()
    early = frame.groupby("ID", as_index=False).first().assign(TIME=0.0, DV=0.1, EVID=0, MDV=0, AMT=0.0, CENS=1)
    both = pd.concat([early, frame.assign(CENS=0)]).sort_values(["ID", "TIME"], kind="stable")
    without, withal = (dn.read_nonmem(f) for f in (frame, both))
    expected = dn.evaluate_ofv(LeftOut(), without, dn.FOCE(), options=TIGHT)
    found = dn.evaluate_ofv(LeftOut(), withal, dn.FOCE(), options=TIGHT)
    same(found.ofv, expected.ofv)
    np.testing.assert_allclose(found.evaluation.gradient, expected.evaluation.gradient, rtol=1e-8, atol=1e-9)
