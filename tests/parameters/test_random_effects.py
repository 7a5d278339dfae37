"""Random effects: shapes of Omega, what may be zero, transforms."""

import numpy as np
import pytest
import torch

import deepnlme as dn


def test_omega_as_number_list_or_matrix():
    np.testing.assert_array_equal(dn.RandomEffects("a", "b", omega=0.2).omega, np.diag([0.2, 0.2]))
    np.testing.assert_array_equal(dn.RandomEffects("a", "b", omega=[0.2, 0.3]).omega, np.diag([0.2, 0.3]))
    full = np.array([[0.2, 0.1], [0.1, 0.3]])
    np.testing.assert_array_equal(dn.RandomEffects("a", "b", omega=full, block=True).omega, full)
    assert dn.RandomEffects(3, omega=0.1).size == 3
    assert dn.RandomEffects(3).vector
    assert dn.RandomEffects(3).labels("latent") == ("latent1", "latent2", "latent3")


def test_omega_is_copied():
    given = np.diag([0.2, 0.3])
    effects = dn.RandomEffects("a", "b", omega=given)
    given[0, 0] = 9.0
    assert effects.omega[0, 0] == 0.2


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: dn.RandomEffects("ka", "cl", "v", omega=np.eye(2)),
            r"Invalid `omega`: got shape \(2, 2\), expected \(3, 3\): the model declares eta ka, cl, v",
        ),
        (lambda: dn.RandomEffects("ka", "cl", omega=[0.1, 0.2, 0.3]), r"got shape \(3,\), expected \(2, 2\)"),
        (lambda: dn.RandomEffects(4, omega=[0.1]), r"got shape \(1,\), expected \(4, 4\): 4 effects are declared"),
        (lambda: dn.RandomEffects("a", omega="small"), "got 'small', expected a number, variances or a matrix"),
        (lambda: dn.RandomEffects("a", omega=-0.1), "expected positive ones"),
        (
            lambda: dn.RandomEffects("a", omega=0.0),
            r"got variances \[0.0\], expected positive ones \(zero only where it is",
        ),
        (lambda: dn.RandomEffects("a", omega=np.nan), "expected a finite symmetric matrix"),
        (lambda: dn.RandomEffects("a", "b", omega=[[0.1, 0.05], [0.05, 0.1]]), "covariances in a diagonal Omega"),
        (lambda: dn.RandomEffects("a", "b", omega=[[0.1, 0.05], [0.0, 0.1]], block=True), "finite symmetric matrix"),
        (lambda: dn.RandomEffects("a", "b", omega=[[0.1, 0.5], [0.5, 0.1]], block=True), "positive definite"),
        (lambda: dn.RandomEffects("a", "b", omega=[[0.1, 0.1], [0.1, 0.1]], block=True), "positive definite"),
        (lambda: dn.RandomEffects("a", "a"), "each name once"),
        (lambda: dn.RandomEffects(), "expected at least one"),
        (lambda: dn.RandomEffects(0), "expected at least one"),
        (lambda: dn.RandomEffects("not a name"), "expected names, or one count"),
        (lambda: dn.RandomEffects("a", 3), "expected names, or one count"),
        (lambda: dn.RandomEffects("a", by="visit"), 'Invalid `by`: got \'visit\', expected "subject" or "occasion"'),
        (lambda: dn.RandomEffects("a", fixed=["b"]), "Invalid `fixed`: got 'b', expected some of a"),
        (lambda: dn.RandomEffects("a", "b", block=True, fixed=["a"]), "a block Omega is fixed as a whole"),
        (lambda: dn.RandomEffects("a", "b", fixed="a"), "Invalid `fixed`: got 'a'"),
        (lambda: dn.RandomEffects(2.5), "expected names, or one count"),
        (lambda: dn.RandomEffects(True), "expected names, or one count"),
    ],
    ids=lambda v: v[:30] if isinstance(v, str) else "",
)
def test_refuses(make, match):
    with pytest.raises(dn.ModelError, match=match):
        make()


def test_zero_is_allowed_where_it_is_fixed():
    assert dn.RandomEffects("a", "b", omega=[0.0, 0.1], fixed=["a"]).free_size == 1
    assert dn.RandomEffects("a", omega=0.0, fixed=True).free_size == 0
    singular = dn.RandomEffects("a", "b", omega=[[0.1, 0.1], [0.1, 0.1]], block=True, fixed=True)
    chol = singular.cholesky(torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(chol @ chol.mT, torch.full((2, 2), 0.1, dtype=torch.float64))
    assert torch.equal(chol, chol.tril())


@pytest.mark.parametrize("block", [False, True])
def test_free_numbers_and_back(block):
    omega = np.array([[0.4, 0.1, -0.05], [0.1, 0.2, 0.02], [-0.05, 0.02, 0.1]]) if block else np.diag([0.4, 0.2, 0.1])
    effects = dn.RandomEffects("a", "b", "c", omega=omega, block=block)
    free = effects.to_free(omega)
    assert len(free) == effects.free_size == (6 if block else 3)
    chol = effects.cholesky(torch.tensor(free, dtype=torch.float64))
    np.testing.assert_allclose(chol @ chol.mT, omega, rtol=1e-12, atol=1e-15)
    # any free numbers give a covariance matrix, for a batch of them too
    batch = torch.randn(5, 2, len(free), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chol = effects.cholesky(batch)
    assert chol.shape == (5, 2, 3, 3)
    assert torch.linalg.eigvalsh(chol @ chol.mT).min() > 0


def test_partly_fixed():
    effects = dn.RandomEffects("a", "b", "c", omega=[0.4, 0.2, 0.1], fixed=["b"])
    chol = effects.cholesky(torch.tensor([0.0, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(np.diag(chol) ** 2, [1.0, 0.2, np.exp(2.0)], rtol=1e-12)


def test_as_fixed_and_with_omega():
    effects = dn.RandomEffects("a", "b", omega=[0.4, 0.2], fixed=["b"], by="occasion")
    assert effects.as_fixed().fixed.all()
    assert effects.as_fixed().by == "occasion"
    other = effects.with_omega([0.3, 0.2])
    np.testing.assert_array_equal(other.fixed, effects.fixed)
    assert other.by == "occasion"
    np.testing.assert_array_equal(effects.omega, np.diag([0.4, 0.2]))
