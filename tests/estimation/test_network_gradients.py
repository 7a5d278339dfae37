"""The gradient of the penalised objective with networks in every place of a model, against differences of its value."""

import numpy as np
import pytest

import deepnlme as dn
from deepnlme.estimation.inner import EBEStatus, InnerOptions
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint
from deepnlme.nn import mlp
from network_models import InField, InIndividual, InInitial, InObserve, people

METHODS = (dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace(), dn.NaivePooled())
TIGHT = InnerOptions(tolerance=1e-9)


class Stepwise(InField):
    """The vector field with torchdiffeq."""

    solver = dn.TorchDiffEq(rtol=1e-9, atol=1e-10)


MODELS = {"field": InField, "individual": InIndividual, "observe": InObserve, "initial": InInitial}
PAIRS = [(n, m) for n in MODELS for m in METHODS]
IDS = [f"{n}-{m.name}" for n, m in PAIRS]


def data(name, count=3):
    return people(count, dose=10.0 if name in ("field", "individual") else None)


def moved(joint):
    """Not at the initial values, where a parameter might be special."""
    u = joint.space.initial()
    return u + 0.05 * np.sin(1.0 + np.arange(len(u)))


def slope(objective, u, direction, step):
    """Fourth-order central difference of the value along a direction."""
    one, two, three, four = (objective(u + a * step * direction).value[0] for a in (1, -1, 2, -2))
    return (8.0 * (one - two) - (three - four)) / (12.0 * step)


def check(objective, directions=4, tolerance=1e-6):
    """The gradient along random directions, which have a part in every parameter."""
    u = moved(objective.joint)
    here = objective(u)
    assert (here.status == EBEStatus.CONVERGED).all()
    gradient = here.gradient[0]
    rng = np.random.default_rng(2)
    for _ in range(directions):
        along = rng.standard_normal(len(u))
        expected = slope(objective, u, along, 1e-3 / np.linalg.norm(along))
        scale = np.linalg.norm(along) * np.linalg.norm(gradient)
        assert gradient @ along == pytest.approx(expected, rel=tolerance, abs=tolerance * scale / len(u))
    return here


@pytest.mark.parametrize(("name", "method"), PAIRS, ids=IDS)
def test_gradient_equals_differences(name, method):
    here = check(MarginalObjective(Joint(MODELS[name](), data(name)), method, TIGHT))
    assert (here.penalty > 0) == (name != "individual")
    assert np.isfinite(here.gradient).all()


def test_gradient_by_torchdiffeq_equals_that_of_the_other_solver():
    found = []
    for model in (Stepwise(), InField()):
        joint = Joint(model, data("field", 2))
        found.append(MarginalObjective(joint, dn.FOCE(), TIGHT)(moved(joint)))
    stepwise, parallel = found
    np.testing.assert_allclose(stepwise.ofv, parallel.ofv, atol=1e-6)
    scale = np.abs(parallel.gradient).max()
    np.testing.assert_allclose(stepwise.gradient, parallel.gradient, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize(("name", "method"), PAIRS, ids=IDS)
def test_shared_weights_give_the_gradient_of_weights_by_row(name, method, monkeypatch):
    """They are differentiated in two ways: through the modes' derivatives, and through a constant combination."""
    population = data(name)

    def evaluated():
        joint = Joint(MODELS[name](), population)
        return joint.space, MarginalObjective(joint, method, TIGHT)(moved(joint))

    space, by_row = evaluated()
    monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    other, shared = evaluated()
    assert other.row_size < other.size == space.size == space.row_size
    assert shared.subject_gradient.shape[-1] == other.row_size
    for field in ("ofv", "penalty", "subject"):
        np.testing.assert_allclose(getattr(shared, field), getattr(by_row, field), rtol=1e-10, atol=1e-10)
    scale = np.abs(by_row.gradient).max()
    np.testing.assert_allclose(shared.gradient, by_row.gradient, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(
        shared.subject_gradient, by_row.subject_gradient[..., : other.row_size], rtol=1e-9, atol=1e-9 * scale
    )
    np.testing.assert_allclose(shared.z, by_row.z, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shared", [False, True], ids=["by row", "shared"])
@pytest.mark.parametrize("name", MODELS)
def test_chunks_change_nothing(name, shared, monkeypatch):
    if shared:
        monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    joint = Joint(MODELS[name](), data(name))
    u = moved(joint)
    points = np.stack([u, u + 0.01, u - 0.02])
    whole, chunked = (MarginalObjective(joint, dn.FOCE(), TIGHT) for _ in range(2))
    chunked.rows_per_chunk = 2
    a, b = whole(points), chunked(points)
    alone = [MarginalObjective(joint, dn.FOCE(), TIGHT)(point) for point in points]
    # nonlinear systems: each row's mesh is its own, but the rounding of sums differs
    for field in ("ofv", "penalty", "gradient", "subject", "subject_gradient", "z", "curvature"):
        value = getattr(a, field)
        close = dict(rtol=1e-8, atol=1e-8 * np.abs(value).max())
        np.testing.assert_allclose(getattr(b, field), value, **close)
        np.testing.assert_allclose(np.concatenate([getattr(e, field) for e in alone]), value, **close)


@pytest.mark.parametrize("name", MODELS)
def test_order_and_company_change_nothing(name):
    population = data(name)
    joint = Joint(MODELS[name](), population)
    u = moved(joint)
    whole = MarginalObjective(joint, dn.FOCE(), TIGHT)(u)
    order = [2, 0, 1]
    mixed = Joint(MODELS[name](), dn.Population([population[i] for i in order]))
    found = MarginalObjective(mixed, dn.FOCE(), TIGHT)(u)
    np.testing.assert_allclose(found.subject[0], whole.subject[0, order], rtol=1e-8, atol=1e-9)
    close = dict(rtol=1e-7, atol=1e-8 * np.abs(whole.gradient).max())
    np.testing.assert_allclose(found.subject_gradient[0], whole.subject_gradient[0, order], **close)
    for i in range(3):
        alone = MarginalObjective(Joint(MODELS[name](), population[i : i + 1]), dn.FOCE(), TIGHT)(u)
        np.testing.assert_allclose(alone.subject[0, 0], whole.subject[0, i], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(alone.subject_gradient[0, 0], whole.subject_gradient[0, i], **close)


@pytest.mark.parametrize("shared", [False, True], ids=["by row", "shared"])
@pytest.mark.parametrize("rows", [1, 1000])
def test_lanes_change_nothing(rows, shared, monkeypatch):
    """Every lane keeps modes of its own: what one does changes nothing for the others."""
    if shared:
        monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    joint = Joint(InField(), data("field", 2))
    u = moved(joint)
    points = np.stack([u, u + 0.1, u - 0.1])
    side = MarginalObjective(joint, dn.FOCE(), TIGHT)
    side.rows_per_chunk = rows
    side.open_lanes(3)
    side(points, np.arange(3))
    side.remember_lanes(np.arange(3), np.arange(3))
    later = side(points[[2, 0]] + 0.02, np.array([2, 0]))  # the second lane has ended
    side.remember_lanes(np.array([2, 0]), np.array([0, 1]))
    for lane, i in ((2, 0), (0, 1)):  # what each lane starts from next
        np.testing.assert_array_equal(side._warm.z[lane].numpy(), later.z[i])
        np.testing.assert_array_equal(side._warm.u[lane].numpy(), later.u[i, : side._warm.u.shape[1]])
    last = side(points[[0, 2]] + 0.04, np.array([0, 2]))
    for i, lane in enumerate((2, 0)):
        alone = MarginalObjective(joint, dn.FOCE(), TIGHT)
        alone(points[lane])
        alone.remember(0)
        here = alone(points[lane] + 0.02)
        alone.remember(0)
        end = alone(points[lane] + 0.04)
        for found, expected in ((later.one(i), here), (last.one(1 - i), end)):
            np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)
            scale = np.abs(expected.gradient).max()
            np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-7, atol=1e-8 * scale)
            np.testing.assert_allclose(found.z, expected.z, rtol=1e-7, atol=1e-8)


def test_a_part_of_the_subjects_is_their_own_objective():
    population = people(5, dose=None)
    joint = Joint(InObserve(), population)
    whole = MarginalObjective(joint, dn.FOCE(), TIGHT)
    u = moved(joint)
    all_of_them = whole(u)
    index = np.array([1, 4])
    part = whole.part(index)
    assert part.subjects == 2
    found = part(u)
    alone = MarginalObjective(Joint(InObserve(), population[index]), dn.FOCE(), TIGHT)(u)
    np.testing.assert_allclose(found.subject, all_of_them.subject[:, index], rtol=1e-10)
    np.testing.assert_allclose(found.gradient, alone.gradient, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.penalty, all_of_them.penalty, rtol=1e-14)
    # the whole objective is not touched by what its parts remember
    again = whole(u)
    np.testing.assert_allclose(again.subject, all_of_them.subject, rtol=1e-12)
