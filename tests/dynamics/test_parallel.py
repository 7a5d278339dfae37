"""The collocation solver: its parts against algebra, its solutions against scipy and torchdiffeq."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import deepnlme as dn
from deepnlme.dynamics.mesh import refine, uniform_mesh
from deepnlme.dynamics.radau import radau
from deepnlme.dynamics.recursion import Recursion
from deepnlme.joint import Joint, free_tensor

torch.manual_seed(0)


@pytest.mark.parametrize("stages", range(2, 9))
def test_radau_is_the_pade_approximation(stages):
    """On x' = -z x the end of a step is the (s-1, s) Pade approximation of exp(-z), L-stable."""
    method = radau(stages)
    for z in (0.3, 2.0, 1e6):
        end = np.linalg.solve(np.eye(stages) + z * method.a, np.ones(stages))[-1]
        k, j = stages - 1, stages
        total = math.factorial(k + j)
        top = sum(math.comb(k, i) * math.factorial(k + j - i) / total * (-z) ** i for i in range(k + 1))
        bottom = sum(math.comb(j, i) * math.factorial(k + j - i) / total * z**i for i in range(j + 1))
        assert end == pytest.approx(top / bottom, rel=1e-7, abs=1e-13)


def test_two_stage_radau_by_hand():
    np.testing.assert_allclose(radau(2).c, [1 / 3, 1])
    np.testing.assert_allclose(radau(2).a, [[5 / 12, -1 / 12], [3 / 4, 1 / 4]])


def test_recursion_is_the_loop_and_its_transpose():
    a, b = torch.randn(3, 7, 2, 2, dtype=torch.float64), torch.randn(3, 7, 2, 4, dtype=torch.float64)
    recursion = Recursion(a)
    x = [b[:, 0]]
    for g in range(1, 7):
        x.append(a[:, g] @ x[-1] + b[:, g])
    torch.testing.assert_close(recursion(b), torch.stack(x, 1))
    y = torch.randn_like(b)
    torch.testing.assert_close((recursion.forward(b) * y).sum(), (recursion.transposed(y) * b).sum())
    scan = Recursion(a)
    scan._steps, scan._levels = None, scan._products(a)  # the form used on a GPU
    torch.testing.assert_close(scan.forward(b), recursion.forward(b))
    torch.testing.assert_close(scan.transposed(b), recursion.transposed(b))
    assert torch.autograd.gradgradcheck(recursion, b.requires_grad_())


def test_mesh_covers_every_stretch_once():
    counts = torch.tensor([[1, 3, 2], [2, 1, 1]])
    mesh = uniform_mesh(counts)
    parts = torch.tensor([[2, 1, 3, 1, 1, 2], [1, 4, 1, 1, 1, 1]])
    for m in (mesh, refine(mesh, parts)):
        for row in range(2):
            for piece in range(3):
                mine = (m.piece[row] == piece) & m.used[row]
                left, right = m.left[row][mine], m.right[row][mine]
                assert left[0] == 0 and right[-1] == 1
                torch.testing.assert_close(left[1:], right[:-1])
                assert m.last[row][mine].tolist() == [False] * (int(mine.sum()) - 1) + [True]
                assert int(m.end[row, piece]) == int(torch.nonzero(mine).max())
    assert refine(mesh, parts).steps == int((parts * mesh.used).sum(1).max())


class Saturable(dn.Model):
    """Michaelis-Menten elimination, from far above Km to far below it."""

    vm = dn.Positive(10.0)
    km = dn.Positive(0.5)
    sd = dn.Positive(1.0)

    def dynamics(self, theta, p, t, x):
        return dict(central=-p.vm * x.central / (p.km + x.central))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central, theta.sd))


def subjects(doses, times):
    return dn.Population(
        [dn.Subject(i + 1, doses=dn.Dose(d), observations=(times, np.zeros(len(times)))) for i, d in enumerate(doses)]
    )


def states(model, population):
    joint = Joint(model, population)
    rows = joint.batch.rows
    values = joint.space.values(free_tensor(joint.space.initial(), rows))
    z = torch.zeros(1, rows, joint.k, dtype=torch.float64)
    return joint, torch.stack(list(joint.individuals(values, z, joint.batch).states.values()), -1)[0]


def test_saturable_elimination_finds_the_true_solution():
    """The equations of a long step have a second solution, with negative amounts; doses over four decades."""
    doses, times = 10.0 ** np.linspace(-1, 3, 13), np.array([1.0, 8.0, 50.0, 120.0])
    _, found = states(Saturable(), subjects(doses, times))
    for row, dose in enumerate(doses):
        exact = solve_ivp(
            lambda t, x: -10.0 * x / (0.5 + x), (0, 120), [dose], t_eval=times, rtol=1e-11, atol=1e-14, method="LSODA"
        ).y[0]
        np.testing.assert_allclose(found[row, :, 0], exact, rtol=1e-5, atol=1e-8 * dose)


class Robertson(dn.Model):
    """The classical stiff problem: rates from 0.04 to 3e7."""

    a = dn.Positive(0.04)
    sd = dn.Positive(1.0)

    def initial(self, theta, p):
        return dict(first=1.0)

    def dynamics(self, theta, p, t, x):
        slow, mixed, fast = p.a * x.first, 1e4 * x.second * x.third, 3e7 * x.second**2
        return dict(first=-slow + mixed, second=slow - mixed - fast, third=fast)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.first, theta.sd))


def test_stiff_system():
    times = np.array([0.0, 0.4, 4.0, 40.0, 400.0])
    population = dn.Population([dn.Subject(1, observations=(times, np.zeros(5)))])
    _, found = states(Robertson(), population)

    def field(t, x):
        slow, mixed, fast = 0.04 * x[0], 1e4 * x[1] * x[2], 3e7 * x[1] ** 2
        return [-slow + mixed, slow - mixed - fast, fast]

    exact = solve_ivp(field, (0, 400), [1.0, 0, 0], t_eval=times, rtol=1e-11, atol=1e-15, method="Radau").y.T
    np.testing.assert_allclose(found[0], exact, rtol=1e-5, atol=1e-12)


def test_a_kept_mesh_gives_the_same_as_a_new_one():
    """Warm starts must not show in the results beyond the tolerance."""
    population = subjects([1.0, 30.0, 400.0], np.array([1.0, 5.0, 20.0, 60.0]))
    joint = Joint(Saturable(), population)
    z = torch.zeros(1, 3, 0, dtype=torch.float64)

    def at(vm):
        u = free_tensor(joint.space.initial({"vm": vm}), 3)
        return joint.individuals(joint.space.values(u), z, joint.batch).states["central"]

    first = at(10.0)
    at(14.0)
    at(3.0)
    torch.testing.assert_close(at(10.0), first, rtol=1e-6, atol=1e-8)


def test_a_vector_field_that_explodes_is_nan_in_its_row_only():
    class Explosive(Saturable):
        def dynamics(self, theta, p, t, x):
            return dict(central=0.02 * x.central**2)

    # x = 1 / (1/x0 - 0.02 t) has a pole before t = 10 for x0 > 5
    _, found = states(Explosive(), subjects([1.0, 50.0, 2.0], np.array([5.0, 10.0])))
    exact = 1.0 / (1.0 / np.array([[1.0], [2.0]]) - 0.02 * np.array([5.0, 10.0]))
    np.testing.assert_allclose(found[[0, 2], :, 0], exact, rtol=1e-7)
    assert torch.isnan(found[1]).all()


@pytest.mark.parametrize("settings", [{"rtol": 0.0}, {"atol": -1.0}, {"stages": 1}, {"stages": 9}, {"max_newton": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(dn.ModelError, match="Invalid solver settings"):
        dn.ParallelInTime(**settings)


def test_rows_of_very_different_size_and_without_a_dose_amount_do_not_disturb_each_other():
    """Guesses are made to each row's own scale; a NaN amount is NaN in its row only."""

    class Failing(Saturable):
        scale = dn.Positive(1.0)

        def individual(self, theta, eta, cov):
            return dict(vm=theta.vm * cov.size, km=theta.km * cov.size, f=torch.where(cov.bad > 0, torch.nan, 1.0))

        def dosing(self, theta, p):
            return dict(central=dn.Dosing(bioavailability=p.f))

    times, sizes, bad = np.array([1.0, 8.0, 50.0]), [1e-6, 1.0, 1.0, 1e6], [0, 0, 1, 0]
    population = dn.Population(
        [
            dn.Subject(i, doses=dn.Dose(20 * s), observations=(times, np.zeros(3)), covariates={"size": s, "bad": b})
            for i, (s, b) in enumerate(zip(sizes, bad, strict=True))
        ]
    )
    _, found = states(Failing(), population)
    assert torch.isnan(found[2]).all()
    for row in (0, 3):
        torch.testing.assert_close(found[row] / sizes[row], found[1], rtol=1e-6, atol=1e-7)
