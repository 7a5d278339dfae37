"""Fixed effects: ranges, transforms, priors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deepnlme as dn

KINDS = {
    "Real": lambda v: dn.Real(v),
    "Positive": lambda v: dn.Positive(abs(v) + 1e-3),
    "Bounded": lambda v: dn.Bounded(v, low=-1e4 - 1.0, high=1e4 + 1.0),
}


@pytest.mark.parametrize("kind", KINDS)
@given(v=st.floats(-1e4, 1e4).filter(lambda v: v == 0 or abs(v) > 1e-6))
def test_transforms_are_inverse(kind, v):
    declared = KINDS[kind](v)
    free = declared.to_free(declared.value)
    back = float(declared.to_natural(torch.tensor(free, dtype=torch.float64)))
    assert back == pytest.approx(declared.value, rel=1e-9, abs=1e-7)
    assert declared.contains(back)


@pytest.mark.parametrize("kind", KINDS)
def test_every_free_number_is_admissible(kind):
    declared = KINDS[kind](2.0)
    for free in np.linspace(-20, 20, 41):
        value = float(declared.to_natural(torch.tensor(free, dtype=torch.float64)))
        assert declared.contains(value) or (kind == "Bounded" and abs(free) > 15)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: dn.Positive(0.0), "Positive parameter: got 0, expected a positive number"),
        (lambda: dn.Positive(-1), "Positive parameter: got -1, expected a positive number"),
        (lambda: dn.Positive(math.inf), "got inf, expected a finite number"),
        (lambda: dn.Real(math.nan), "got nan, expected a finite number"),
        (lambda: dn.Real("1.5"), "got '1.5', expected a finite number"),
        (lambda: dn.Real(True), "got True, expected a finite number"),
        (lambda: dn.Bounded(1.0), "got 1, expected a number strictly between 0 and 1"),
        (lambda: dn.Bounded(3.0, low=0.0, high=2.0), "expected a number strictly between 0 and 2"),
        (lambda: dn.Bounded(0.5, low=1.0, high=0.0), "Invalid bounds: got low=1.0, high=0.0"),
        (lambda: dn.Bounded(0.5, high=math.inf), "Invalid bounds"),
        (lambda: dn.Positive(1.0, prior="normal"), r"Invalid prior: got 'normal', expected an object with log_prob"),
        (lambda: dn.Positive(1.0, prior=torch.distributions.Normal(torch.zeros(2), 1.0)), "expected one finite number"),
        (lambda: dn.Real(-1.0, prior=torch.distributions.Gamma(2.0, 1.0)), "expected one finite number"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_refuses(make, match):
    with pytest.raises(dn.ModelError, match=match):
        make()


def test_numbers_of_numpy_are_numbers():
    assert dn.Positive(np.float64(2.0)).value == 2.0
    assert dn.Positive(np.int64(2)).value == 2.0
    assert dn.Real(3).value == 3.0


def test_prior_is_a_density_of_the_natural_value():
    prior = torch.distributions.LogNormal(0.3, 0.5)
    declared = dn.Positive(1.5, prior=prior)
    value = torch.tensor([1.2, 2.0], dtype=torch.float64)
    torch.testing.assert_close(declared.log_prior(value), prior.log_prob(value))
    # outside the support: not finite, no error from torch
    assert not torch.isfinite(declared.log_prior(torch.tensor([-1.0], dtype=torch.float64))).any()
    flat = dn.Bounded(0.3, prior=torch.distributions.Uniform(0.0, 0.5))
    leaf = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    found = flat.log_prior(leaf)
    assert found[0].item() == pytest.approx(math.log(2.0), abs=1e-7)
    assert found[1].item() == -math.inf
    torch.autograd.grad(found[0], leaf)
    # the user's object is not changed
    assert prior._validate_args and flat.prior._validate_args


def test_anything_with_log_prob_is_a_prior():
    class Ridge:
        def log_prob(self, value):
            return -0.5 * value**2

    declared = dn.Real(2.0, prior=Ridge())
    assert float(declared.log_prior(torch.tensor(3.0, dtype=torch.float64))) == -4.5
