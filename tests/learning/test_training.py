"""The loop: optimisers as torch has them, batches, early stopping, penalties, randomness."""

import numpy as np
import pytest
import torch

import deepnlme as dn

PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, weight_decay=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
    "l-bfgs": lambda p: torch.optim.LBFGS(p, lr=0.05, max_iter=7, max_eval=999, line_search_fn="strong_wolfe"),
}


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 3))
    return x, np.sin(x[:, 0]) + x[:, 1] ** 2 + generator.normal(0, 0.1, 50)


@pytest.mark.parametrize("name", PLAIN)
def test_optimiser_is_torchs_own(name, table):
    """Seven epochs on all rows, no standardisation: the same weights as a plain loop."""
    x, y = table
    start = dn.feedforward(3, (5,), 1, activation="tanh", seed=3)
    more = {} if name in ("rprop", "l-bfgs") else {"weight_decay": 0.01, "batch_size": 50}
    learned = dn.learn(
        start, x, y, optimiser=name, learning_rate=0.05, momentum=0.8, epochs=7, standardise=False, **more
    )
    plain = dn.feedforward(3, (5,), 1, activation="tanh", seed=3).double()
    optimiser = PLAIN[name](plain.parameters())
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)[:, None]

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(plain(inputs), targets)
        loss.backward()
        return loss

    for _ in range(1 if name == "l-bfgs" else 7):
        optimiser.step(closure)
    for a, b in zip(learned.network.parameters(), plain.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), rel=1e-9, abs=1e-12)


def test_mini_batches_cover_every_row_once(table):
    """A step on each batch in the order of the seed, the last single row with the batch before it."""
    x, y = table[0][:33], table[1][:33]
    start = dn.feedforward(3, (), 1, seed=1)
    settings = {"optimiser": "sgd", "learning_rate": 0.1, "standardise": False}
    learned = dn.learn(start, x, y, batch_size=8, epochs=2, seed=5, **settings)
    w = np.concatenate([start.output.weight.detach().numpy()[0], start.output.bias.detach().numpy()]).astype(float)
    design, order = np.column_stack([x, np.ones(33)]), np.random.default_rng([5, 13])
    for _ in range(2):
        rows = order.permutation(33)
        for batch in (rows[:8], rows[8:16], rows[16:24], rows[24:]):
            w -= 0.1 * 2 * design[batch].T @ (design[batch] @ w - y[batch]) / len(batch)
    found = np.concatenate([p.detach().numpy().ravel() for p in learned.network.parameters()])
    assert found == pytest.approx(w, rel=1e-10)


def test_penalties_spare_biases(table):
    x, y = table
    strong = dn.learn(dn.feedforward(3, (), 1, seed=1), x, y + 100, optimiser="l-bfgs", l2=1e6, standardise=False)
    assert strong.predict(x) == pytest.approx(np.full(50, y.mean() + 100), abs=1e-3)


def noisy(rows=40):
    generator = np.random.default_rng(8)
    x = generator.normal(size=(rows, 2))
    return x, x[:, 0] + generator.normal(0, 1.0, rows)


def test_early_stopping_returns_the_best_epoch():
    """It overfits, stops `patience` epochs after the best, and predicts as a run that ended there."""
    x, y = noisy()
    parts = dn.split(40, test=0.0, validation=0.4, seed=2)
    start = dn.feedforward(2, (30,), 1, activation="tanh", seed=1)
    stopped = dn.learn(start, x, y, split=parts, learning_rate=0.02, epochs=400, patience=15)
    history, best = stopped.history, stopped.best_epoch
    assert 0 < best < 300 and len(history) == best + 15 + 1
    assert history["VALIDATION"].idxmin() == best
    assert stopped.status == "stopped early: no better for 15 epochs"
    there = dn.learn(start, x, y, split=parts, learning_rate=0.02, epochs=best)
    assert stopped.predict(x) == pytest.approx(there.predict(x), rel=1e-12)
    scaled = (y[parts.validation] - y[parts.train].mean()) / y[parts.train].std()
    off = scaled - (stopped.predict(x[parts.validation]) - y[parts.train].mean()) / y[parts.train].std()
    assert history["VALIDATION"][best] == pytest.approx((off**2).mean(), rel=1e-10)


def test_without_validation_the_last_epoch_is_kept(table):
    learned = dn.learn(dn.feedforward(3, (4,), 1), *table, epochs=5)
    assert learned.best_epoch == 5 and learned.status == "all 5 epochs"
    assert learned.history["VALIDATION"].isna().all()


def test_a_loss_that_is_not_finite_ends_it_with_what_was_good(table):
    with pytest.warns(RuntimeWarning, match=r"not finite after epoch \d+; the weights of epoch \d+ are kept"):
        learned = dn.learn("linear", *table, optimiser="sgd", learning_rate=1e30, epochs=50)
    assert np.isfinite(learned.predict(table[0])).all()
    assert np.isfinite(learned.history["TRAIN"][learned.best_epoch])
    assert not np.isfinite(learned.history["TRAIN"].iloc[-1]) and len(learned.history) < 51


RATES = {
    "constant": [0.1] * 6,
    "cosine": [0.1 * (1 + np.cos(np.pi * e / 6)) / 2 for e in range(6)],
    "step": [0.1, 0.1, 0.01, 0.01, 0.001, 0.001],
    "exponential": [0.1 * 0.01 ** (e / 6) for e in range(6)],
}


@pytest.mark.parametrize("name", RATES)
def test_schedules(name, table):
    learned = dn.learn("linear", *table, optimiser="sgd", learning_rate=0.1, epochs=6, schedule=name)
    assert learned.history["RATE"][1:].to_numpy() == pytest.approx(RATES[name], rel=1e-9)


def test_a_function_as_schedule_and_plateau(table):
    learned = dn.learn("linear", *table, optimiser="sgd", learning_rate=0.1, epochs=3, schedule=lambda e: 1 / (1 + e))
    assert learned.history["RATE"][1:].to_numpy() == pytest.approx([0.1, 0.05, 0.1 / 3])
    flat = dn.learn("linear", *table, optimiser="sgd", learning_rate=1e-300, epochs=13, schedule="plateau")
    assert flat.history["RATE"].iloc[-1] == pytest.approx(5e-301)


def test_the_seed_decides_and_torchs_own_numbers_stay(table):
    def run(seed):
        build = lambda: dn.feedforward(3, (6,), 1, dropout=0.3, seed=4)  # noqa: E731
        return dn.learn(build, *table, epochs=4, seed=seed).predict(table[0])

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = run(1)
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(first, run(1)) and not np.allclose(first, run(2))


def test_a_function_draws_its_weights_from_the_seed(table):
    def run(seed):
        return dn.learn(lambda: torch.nn.Linear(3, 1), *table, optimiser="sgd", epochs=1, seed=seed).predict(table[0])

    assert np.array_equal(run(1), run(1)) and not np.allclose(run(1), run(2), atol=1e-3)


def test_the_callers_module_is_left_alone(table):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    before = [p.clone() for p in module.parameters()]
    learned = dn.learn(module, *table, epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert next(module.parameters()).dtype == torch.float32 and not learned.network.training


def test_float32(table):
    learned = dn.learn("linear", *table, dtype="float32", epochs=20)
    assert next(learned.network.parameters()).dtype == torch.float32
    assert learned.predict(table[0]) == pytest.approx(dn.learn("linear", *table).predict(table[0]), abs=1e-3)


@pytest.mark.parametrize("normalisation", [None, "batch", "layer"])
@pytest.mark.parametrize("skip", [False, True])
def test_feedforward_is_what_it_says(normalisation, skip):
    """Against the layers written out."""
    network = dn.feedforward(3, (4, 4), 2, activation="tanh", normalisation=normalisation, skip=skip, seed=2).double()
    network.eval()
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    h = x.numpy()
    for i, layer in enumerate(network.layers):
        z = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if normalisation == "batch":
            z = z / np.sqrt(1 + 1e-5)
        if normalisation == "layer":
            z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
        short = h if h.shape[1] == 4 else h @ network.shortcuts[i].weight.detach().numpy().T if skip else 0.0
        h = np.tanh(z) + (short if skip else 0.0)
    expected = h @ network.output.weight.detach().numpy().T + network.output.bias.detach().numpy()
    assert network(x).detach().numpy() == pytest.approx(expected, rel=1e-10)


def test_dropout_only_while_learning():
    network = dn.feedforward(3, (50,), 1, dropout=0.5)
    x = torch.ones(1, 3)
    assert torch.equal(network.eval()(x), network(x))
    assert not torch.equal(network.train()(x), network(x))


def test_batch_normalisation_learns_in_batches_and_predicts_by_row(table):
    learned = dn.learn(dn.feedforward(3, (8,), 1, normalisation="batch"), table[0][:33], table[1][:33], batch_size=16)
    one = np.concatenate([learned.predict(row[None]) for row in table[0]])
    assert one == pytest.approx(learned.predict(table[0]), rel=1e-12)
