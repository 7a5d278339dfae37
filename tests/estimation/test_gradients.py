"""The gradient of every method in every parameter equals central finite differences of its value."""

import numpy as np
import pytest

import deepnlme as dn
from contract_models import PAIR_IDS, PAIRS, Ode, Oral, plain
from deepnlme.estimation.inner import EBEStatus, InnerOptions
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint

STEP = 1e-4


@pytest.mark.parametrize(("case", "method"), PAIRS, ids=PAIR_IDS)
def test_gradient_equals_finite_differences(case, method):
    joint = Joint(case.model(), case.population())
    objective = MarginalObjective(joint, method, InnerOptions(tolerance=1e-9))
    u = joint.space.initial()
    # not at the declared values, where a parameter might be special
    u = u + 0.05 * np.sin(1.0 + np.arange(len(u)))
    here = objective(u)
    assert (here.status == EBEStatus.CONVERGED).all()
    steps = STEP * np.concatenate([np.eye(len(u)), -np.eye(len(u)), 2 * np.eye(len(u)), -2 * np.eye(len(u))])
    near = objective(u + steps)
    for value, gradient in (
        (near.value, here.gradient[0]),
        (near.subject.T, here.subject_gradient[0]),
    ):
        parts = np.asarray(value).reshape(*np.shape(value)[:-1], 4, len(u))
        one, two = parts[..., 0, :] - parts[..., 1, :], parts[..., 2, :] - parts[..., 3, :]
        differences = (8.0 * one - two) / (12.0 * STEP)
        scale = np.abs(differences).max()
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("method", [dn.FOCE(), dn.Laplace()], ids=lambda m: m.name)
def test_gradient_of_differential_equations_equals_that_of_the_closed_form(method):
    population = plain()[:2]
    found = []
    for model in (Oral(), Ode()):
        joint = Joint(model, population)
        found.append(MarginalObjective(joint, method, InnerOptions(tolerance=1e-8))(joint.space.initial()))
    closed, ode = found
    # the OFV is a sum of terms of size one, so that its error is that of the states: ten times the solver's tolerance
    np.testing.assert_allclose(ode.ofv, closed.ofv, atol=1e-6)
    np.testing.assert_allclose(ode.gradient, closed.gradient, rtol=1e-6, atol=1e-6 * np.abs(closed.gradient).max())
