"""What a dose record becomes, and what is refused."""

import numpy as np
import pytest
import torch

from deepnlme.axes import Names
from deepnlme.dynamics import Dosing, LinearSystem, administer, superposition
from deepnlme.errors import ModelError
from engines import dose, observation, packed, population_of

NAMES = ("depot", "central")


def given(rows, controls=None, always=False):
    batch = packed(population_of({1: [*rows, *observation(100)]}), NAMES, always=always)
    return administer(controls or {}, batch, NAMES, always)


def one(value):
    return torch.full((1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize(("code", "which"), [(-1, "rate"), (-2, "duration")])
def test_a_modelled_dose_without_its_model_is_refused_by_name(code, which):
    with pytest.raises(ModelError, match=f"RATE.*{code}.*`central`.*{which}"):
        given([dose(0, CMT=2, RATE=code)], {0: Dosing(rate=one(1.0), duration=one(1.0))})


def test_controls():
    doses = given(
        [dose(0), dose(1, RATE=20), dose(2, RATE=-1), dose(3, RATE=-2), dose(4, CMT=2)],
        {0: Dosing(lag=one(0.5), bioavailability=one(0.8), rate=one(40.0), duration=one(5.0))},
    )
    np.testing.assert_allclose(doses.amount[0, 0], [80, 80, 80, 80, 100])
    np.testing.assert_allclose(doses.start[0, 0], [0.5, 1.5, 2.5, 3.5, 4.0])
    np.testing.assert_allclose(doses.duration[0, 0], [0, 4, 2, 5, 0])  # F scales a duration, not a rate
    np.testing.assert_allclose(doses.rate[0, 0], [0, 20, 40, 16, 0])


def test_plain_numbers_are_controls_too():
    doses = given([dose(0, RATE=-2)], {0: Dosing(lag=0.5, bioavailability=1, duration=4)})
    assert float(doses.start) == 0.5 and float(doses.rate) == 25.0


def test_a_duration_of_zero_is_a_bolus():
    doses = given([dose(0, RATE=-2)], {0: Dosing(duration=one(0.0))})
    assert float(doses.duration) == 0.0 and bool(torch.isfinite(doses.rate).all())


def test_zero_order_absorption_leaves_given_rates_alone():
    doses = given([dose(0), dose(1, RATE=50), dose(2, CMT=2)], {0: Dosing(duration=one(4.0))}, always=True)
    np.testing.assert_allclose(doses.duration[0, 0], [4, 2, 0])


def test_a_linear_system_with_a_vector_of_parameters():
    """Random effects as a vector beside scalars: their axis must not be taken for doses or slots."""
    chain = LinearSystem(*NAMES, rates=lambda p: {NAMES: p.z[..., 0], ("central", "out"): p.k * p.z[..., 1]})
    rows = [dose(0), *observation(1), dose(3), *observation(4, 9)]
    batch = packed(population_of({i: rows for i in range(3)}), NAMES)
    z = torch.tensor([[0.9, 1.0], [1.1, 2.0], [1.3, 3.0]], dtype=torch.float64).reshape(1, 3, 1, 2)
    k = torch.full((1, 3, 1), 0.1, dtype=torch.float64)
    together = torch.stack(superposition(chain, Names("p", {"z": z, "k": k}), batch, administer({}, batch, NAMES), {}))
    plain = LinearSystem(*NAMES, rates=lambda p: {NAMES: p.a, ("central", "out"): p.b})
    p = Names("p", {"a": z[..., 0], "b": k * z[..., 1]})
    wanted = torch.stack(superposition(plain, p, batch, administer({}, batch, NAMES), {}))
    np.testing.assert_allclose(together, wanted, rtol=1e-12)


@pytest.mark.parametrize("rates", [{("depot", "liver"): 1.0}, {("depot", "depot"): 1.0}, {"depot": 1.0}, {}])
def test_rates_that_name_no_transfer_are_refused(rates):
    system = LinearSystem(*NAMES, rates=lambda p: rates)
    with pytest.raises(ModelError, match="rate"):
        system.transfer(Names("p", {}), one(1.0), (0,))


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", "out")])
def test_compartments_have_different_names(names):
    with pytest.raises(ModelError, match="compartments"):
        LinearSystem(*names, rates=lambda p: {})


@pytest.mark.parametrize(
    ("which", "value", "rate"),
    [
        ("lag", -0.5, 0),
        ("bioavailability", -0.1, 0),
        ("bioavailability", -0.1, 5),
        ("rate", -1.0, -1),
        ("rate", 0.0, -1),
        ("duration", -1.0, -2),
    ],
)
def test_a_dose_that_cannot_be_is_nan(which, value, rate):
    """No engine may go on with a dose before its record, of a negative amount, or as a bolus instead of an infusion."""
    doses = given([dose(10, RATE=rate)], {0: Dosing(**{which: one(value)})})
    assert torch.isnan(doses.amount).all()
    assert not torch.isnan(doses.start).any()
    if rate:
        assert torch.isnan(doses.rate).all()
