"""What is learned against closed forms and independent optimisers."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import deepnlme as dn


def regression(seed=1, rows=60, columns=3, targets=1):
    generator = np.random.default_rng([seed, 100])
    x = generator.normal(2.0, [1.0, 10.0, 0.1][:columns], (rows, columns))
    y = 3.0 + x @ generator.normal(0, 1, (columns, targets)) + generator.normal(0, 0.5, (rows, targets))
    return x, y


def test_linear_is_least_squares():
    x, y = regression(targets=2)
    learned = dn.learn("linear", x, y)
    design = np.column_stack([np.ones(len(x)), x])
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert learned.predict(x) == pytest.approx(expected, abs=1e-8)
    assert learned.status == "converged"
    score = learned.score(x, y)
    assert score["MSE"] == pytest.approx(((y - expected) ** 2).mean(), rel=1e-9)
    assert score["R2"] == pytest.approx(1 - ((y - expected) ** 2).sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-9)


def test_weights_make_weighted_least_squares():
    x, y = regression()
    w = np.random.default_rng(3).uniform(0.1, 4.0, len(x))
    design = np.column_stack([np.ones(len(x)), x])
    root = np.sqrt(w)[:, None]
    expected = design @ np.linalg.lstsq(root * design, root * y, rcond=None)[0]
    assert dn.learn("linear", x, y, weights=w).predict(x) == pytest.approx(expected, rel=1e-8)


def test_weights_of_single_targets():
    """Each target with weights of its own is as if it were learned alone; a weight of zero leaves a value out."""
    x, y = regression(targets=2)
    w = np.random.default_rng(3).uniform(0.1, 4.0, y.shape)
    w[:10, 0] = 0.0
    together = dn.learn("linear", x, y, weights=w, standardise=False).predict(x)
    design = np.column_stack([np.ones(len(x)), x])
    for k in range(2):
        root = np.sqrt(w[:, k : k + 1])
        alone = design @ np.linalg.lstsq(root * design, root * y[:, k : k + 1], rcond=None)[0]
        assert together[:, k : k + 1] == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("strength", [1e-3, 0.3])
def test_l2_is_ridge_on_the_standardised_scale(strength):
    x, y = regression()
    z = (x - x.mean(0)) / x.std(0)
    t = (y - y.mean(0)) / y.std(0)
    w = np.linalg.solve(z.T @ z / len(z) + strength * np.eye(3), z.T @ t / len(z))
    expected = y.mean(0) + y.std(0) * (z @ w)
    assert dn.learn("linear", x, y, l2=strength).predict(x) == pytest.approx(expected, rel=1e-8)


def test_l1_is_soft_thresholding_of_orthogonal_inputs():
    """With orthonormal columns the lasso is sign(b) max(|b| - l1/2, 0); subgradient steps come near."""
    generator = np.random.default_rng(5)
    z = np.linalg.qr(np.column_stack([np.ones(80), generator.normal(size=(80, 3))]))[0][:, 1:] * math.sqrt(80)
    t = z @ np.array([1.0, -0.5, 0.02]) + generator.normal(0, 0.1, 80)
    b = z.T @ ((t - t.mean()) / t.std()) / 80
    expected = np.sign(b) * np.maximum(np.abs(b) - 0.1, 0.0)
    learned = dn.learn("linear", z, t, l1=0.2, optimiser="rprop", epochs=600)
    assert learned.network.weight.detach().numpy()[0] == pytest.approx(expected, abs=1e-4)


def logistic_data(classes, rows=200):
    generator = np.random.default_rng([7, classes])
    x = generator.normal(1.0, 3.0, (rows, 2))
    logits = x @ generator.normal(0, 0.4, (2, classes))
    y = np.array([generator.choice(classes, p=np.exp(v) / np.exp(v).sum()) for v in logits])
    return x, y


def test_logistic_is_maximum_likelihood():
    x, y = logistic_data(2)

    def nll(b):
        f = b[0] + x @ b[1:]
        return np.logaddexp(0, f).sum() - f[y == 1].sum()

    best = minimize(nll, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    expected = 1 / (1 + np.exp(-(best.x[0] + x @ best.x[1:])))
    learned = dn.learn("logistic", x, y)
    assert learned.loss == "binary"
    assert learned.predict(x) == pytest.approx(expected, abs=1e-6)
    score = learned.score(x, y)
    assert score["log loss"] == pytest.approx(best.fun / len(x), rel=1e-9)
    assert score["accuracy"] == np.mean((expected > 0.5) == y)


def test_logistic_of_three_classes():
    x, y = logistic_data(3)

    def nll(b):
        f = np.column_stack([np.zeros(len(x)), b[0] + x @ b[1:3], b[3] + x @ b[4:]])
        return (np.logaddexp.reduce(f, axis=1) - f[np.arange(len(x)), y]).sum()

    best = minimize(nll, np.zeros(6), method="BFGS", options={"gtol": 1e-9})
    learned = dn.learn("logistic", x, y)
    p = learned.predict(x)
    assert learned.loss == "multiclass" and p.shape == (len(x), 3)
    assert p.sum(axis=1) == pytest.approx(1.0)
    assert learned.score(x, y)["log loss"] == pytest.approx(best.fun / len(x), rel=1e-8)
    assert learned.score(x, y)["accuracy"] == np.mean(p.argmax(axis=1) == y)


def test_mae_is_the_median():
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.value.expand(len(x), 1)

    y = np.random.default_rng(1).exponential(1.0, 51)
    learned = dn.learn(Constant(), y, y, loss="mae", optimiser="rprop", epochs=300)
    assert learned.predict(y[:1])[0] == pytest.approx(np.median(y), abs=1e-4)
    assert next(iter(learned.score(y, y))) == "MAE"


class LinearMeanOneVariance(torch.nn.Module):
    def __init__(self, inputs, targets):
        super().__init__()
        self.mean = torch.nn.Linear(inputs, targets)
        self.log_variance = torch.nn.Parameter(torch.zeros(targets))

    def forward(self, x):
        mean = self.mean(x)
        return torch.cat([mean, self.log_variance.expand_as(mean)], 1)


def test_gaussian_with_one_variance_is_least_squares_and_its_mean_square():
    x, y = regression(targets=2)
    learned = dn.learn(LinearMeanOneVariance(3, 2), x, y, loss="gaussian", optimiser="l-bfgs")
    design = np.column_stack([np.ones(len(x)), x])
    mean = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    sd = np.sqrt(((y - mean) ** 2).mean(axis=0))
    found = learned.predict(x)
    assert found[:, [0, 2]] == pytest.approx(mean, rel=1e-6)
    assert found[0, [1, 3]] == pytest.approx(sd, rel=1e-6)
    nlpd = np.mean(0.5 * np.log(2 * math.pi * sd**2) + 0.5)  # at the maximum the squares average to one
    assert learned.score(x, y)["NLPD"] == pytest.approx(nlpd, rel=1e-6)


def test_gaussian_finds_a_variance_that_depends_on_the_input():
    generator = np.random.default_rng(2)
    x = generator.uniform(0, 1, (4000, 1))
    y = 2 * x[:, 0] + generator.normal(0, 1, 4000) * np.exp(-1 + 2 * x[:, 0])
    sd = dn.learn("linear", x, y, loss="gaussian").predict(np.array([[0.0], [1.0]]))[:, 1]
    assert np.log(sd) == pytest.approx([-1.0, 1.0], abs=4 * math.sqrt(2 / 4000))  # 4 standard errors of log sd


def test_perceptron_is_rosenblatts_rule():
    """One row a step at rate one, in the order of the loop, against a slow loop; and it separates what can be."""
    generator = np.random.default_rng(4)
    x = generator.normal(size=(40, 2))
    y = (x @ [1.0, -2.0] + 0.3 > 0).astype(float)
    settings = {"optimiser": "sgd", "learning_rate": 1.0, "batch_size": 1, "epochs": 30, "standardise": False}
    learned = dn.learn("perceptron", x, y, seed=9, **settings)
    order, w = np.random.default_rng([9, 13]), np.zeros(3)
    for _ in range(30):
        for i in order.permutation(40):
            row, sign = np.array([1.0, *x[i]]), 2 * y[i] - 1
            if sign * (w @ row) <= 0:
                w += sign * row
    found = np.concatenate([learned.network.bias.detach(), learned.network.weight.detach()[0]])
    assert found == pytest.approx(w, rel=1e-12)
    assert set(learned.predict(x)) == {0.0, 1.0}
    assert learned.score(x, y)["error rate"] == np.mean((np.column_stack([np.ones(40), x]) @ w > 0) != y) < 0.1
