"""Models that read an array per subject: against ordinary covariates, a loop, and modules called by hand."""

import numpy as np
import pytest
import torch
from torch import exp, nn

import deepnlme as dn
from deepnlme.joint import Joint, calibrated

QUIET = dn.Options(progress=False, covariance=None, max_iterations=4)
S = 8


class Weight(dn.Model):
    """cl depends on a number."""

    cl = dn.Positive(1.0)
    v = dn.Positive(10.0)
    slope = dn.Real(0.75)
    sd = dn.Positive(0.15)
    eta = dn.RandomEffects("cl", "v", omega=0.05)
    dynamics = dn.OneCompartment()

    def size(self, theta, cov):
        return (cov.wt / 70.0) ** theta.slope

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * self.size(theta, cov) * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(cp=dn.Normal(f, dn.proportional(f, theta.sd)))


class Tensor(Weight):
    """The same number as a tensor."""

    def size(self, theta, cov):
        return (cov.body[..., 0] / 70.0) ** theta.slope


class Equations(Tensor):
    """The same as differential equations."""

    def dynamics(self, theta, p, t, x):
        return dict(central=-p.cl / p.v * x.central)


class Encoded(Weight):
    """cl depends on an image."""

    slope = None
    encoder = dn.MLP(64, (5,), prior=dn.L2(1.0), seed=2)

    def size(self, theta, cov):
        return exp(theta.encoder(cov.image))


def people(n=S, seed=1):
    random = np.random.default_rng(seed)
    weight, images = random.uniform(50.0, 90.0, n), random.uniform(0.0, 16.0, (n, 8, 8))
    images[:, 0, 0] = 0.0
    noise = np.exp(0.2 * random.standard_normal((n, 3)))
    population = dn.Population(
        dn.Subject(i + 1, dn.Dose(100), ([1.0, 4.0, 12.0], [9.0, 6.5, 3.0] * noise[i]), {"wt": weight[i]})
        for i in range(n)
    )
    return population.with_tensors(body=weight[:, None], image=images)


@pytest.fixture(scope="module")
def population():
    return people()


@pytest.mark.parametrize("method", [dn.FOCE(), dn.Laplace(), dn.FO()])
def test_one_number_is_an_ordinary_covariate(population, method):
    number = dn.evaluate_ofv(Weight(), population, method)
    tensor = dn.evaluate_ofv(Tensor(), population, method)
    assert tensor.ofv == pytest.approx(number.ofv, rel=1e-12)
    np.testing.assert_allclose(tensor.evaluation.gradient, number.evaluation.gradient, rtol=1e-12, atol=1e-12)


def test_one_number_in_differential_equations(population):
    class Number(Equations):
        size = Weight.size

    tensor, number = (dn.evaluate_ofv(m, population) for m in (Equations(), Number()))
    assert tensor.ofv == pytest.approx(number.ofv, rel=1e-12)


def test_one_number_beside_a_covariate_that_changes(population):
    random = np.random.default_rng(3)
    changing = dn.Population(
        dn.Subject(s.id, dn.Dose(100), ([1.0, 4.0], [9.0, 6.0]), {"wt": s.covariates["wt"][0],
                   "crcl": ([0.0, 2.0], random.uniform(60.0, 120.0, 2))}, tensors={"body": s.tensors["body"]})
        for s in population
    )  # fmt: skip

    class Changing(Tensor):
        def individual(self, theta, eta, cov):
            p = super().individual(theta, eta, cov)
            return {**p, "cl": p["cl"] * cov.crcl / 90.0}

    class Number(Changing):
        size = Weight.size

    tensor, number = (dn.evaluate_ofv(m, changing) for m in (Changing(), Number()))
    assert tensor.ofv == pytest.approx(number.ofv, rel=1e-12)
    np.testing.assert_allclose(tensor.evaluation.gradient, number.evaluation.gradient, rtol=1e-12, atol=1e-12)


def test_a_model_sees_the_array_flattened(population):
    seen = []

    class Looking(Weight):
        def size(self, theta, cov):
            seen.append(cov.image)
            return exp(0.01 * cov.image.mean(-1))

    joint = Joint(Looking(), population)
    joint.parameters(*joint._start(S), joint.batch)
    assert seen[-1].shape == (1, S, 1, 64) and seen[-1].dtype == torch.float64
    np.testing.assert_array_equal(seen[-1][0, :, 0], population.tensors["image"].reshape(S, 64))


def test_what_nobody_reads_is_not_packed(population):
    assert set(Joint(Weight(), population).batch.tensors) == set()
    assert set(Joint(Tensor(), population).batch.tensors) == {"body"}
    assert set(Joint(calibrated(Encoded(), population), population).batch.tensors) == {"image"}


def test_batch_is_the_loop_and_order_changes_nothing(population):
    model = calibrated(Encoded(), population)
    whole = dn.evaluate_ofv(model, population)
    each = [dn.evaluate_ofv(model, population[[i]]).ofv for i in range(S)]
    np.testing.assert_allclose(whole.evaluation.subject[0], each, rtol=1e-10)
    order = np.random.default_rng(2).permutation(S)
    turned = dn.evaluate_ofv(model, population[order])
    np.testing.assert_allclose(turned.evaluation.gradient, whole.evaluation.gradient, rtol=1e-8, atol=1e-9)
    pieces = dn.evaluate_ofv(model, population, options=dn.Options(progress=False, max_numbers=1))
    np.testing.assert_allclose(pieces.evaluation.gradient, whole.evaluation.gradient, rtol=1e-8, atol=1e-9)


def test_pixels_share_one_unit_and_constant_ones_do_not_blow_up(population):
    scaling = calibrated(Encoded(), population).networks["encoder"].scaling
    pixels = population.tensors["image"]
    np.testing.assert_allclose(scaling.input_center, pixels.mean(), rtol=1e-12)
    np.testing.assert_allclose(scaling.input_scale, pixels.std(), rtol=1e-12)
    other = people(seed=9)
    loud = other.tensors["image"].copy()
    loud[:, 0, 0] = 16.0  # a pixel that never varied where the units were found
    fit = dn.fit(Encoded(), population, options=QUIET)
    here, there = (fit.predict(p, draws=0)["PRED"] for p in (other, other.with_tensors(image=loud)))
    assert np.abs(np.log(there / here)).max() < 2.0


def test_scalars_beside_a_vector_keep_their_own_units(population):
    class Both(Encoded):
        encoder = dn.MLP(66, (3,), seed=2)

        def size(self, theta, cov):
            return exp(theta.encoder(cov.wt, cov.image, cov.body))

    scaling = calibrated(Both(), population).networks["encoder"].scaling
    weight, pixels = population.tensors["body"], population.tensors["image"]
    center = [weight.mean(), *[pixels.mean()] * 64, weight.mean()]
    np.testing.assert_allclose(scaling.input_center, center, rtol=1e-12)
    np.testing.assert_allclose(scaling.input_scale, [weight.std(), *[pixels.std()] * 64, weight.std()], rtol=1e-12)


def test_a_convolution_is_the_module_called_by_hand(population):
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.ELU(), nn.Flatten(), nn.Linear(72, 1)]
    module = nn.Sequential(*layers)

    class Convolved(Encoded):
        encoder = dn.Network(module, 64, input_center=8.0, input_scale=5.0, output_center=0.0, output_scale=1.0)

    images = torch.tensor((population.tensors["image"] - 8.0) / 5.0, dtype=torch.float64)
    by_hand = module.double()(images.flatten(1))[:, 0].detach().exp().numpy()
    joint = Joint(Convolved(), population)
    _, p, _, _ = joint.parameters(*joint._start(S), joint.batch)
    np.testing.assert_allclose(p["cl"][0, :, 0].detach(), by_hand, rtol=1e-12)


class Recurrent(nn.Module):
    """The state of a recurrent network after the last measurement; nothing measured: its state before."""

    def __init__(self, length):
        super().__init__()
        self.length, self.cell, self.out = length, nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        value, time, mask = x.unflatten(1, (3, self.length)).unbind(1)
        states, _ = self.cell(torch.stack([value, time], -1))
        count = (mask > 0).sum(1)
        last = states[torch.arange(len(x)), (count - 1).clamp(min=0)]
        return self.out(torch.where(count[:, None] > 0, last, torch.zeros_like(last)))


class Series(Weight):
    """cl depends on measurements before treatment."""

    slope = None

    def size(self, theta, cov):
        return exp(theta.encoder(cov.value, cov.day, cov.mask))


def test_a_series_through_a_recurrent_network(population):
    random = np.random.default_rng(4)
    count = [0, 1, 4, 2, 3, 4, 1, 2]
    series = {i + 1: (np.sort(random.uniform(-30, 0, n)), random.normal(5.0, 1.0, n)) for i, n in enumerate(count)}
    value, day, mask = dn.padded_series(series)
    torch.manual_seed(1)
    module = Recurrent(4)

    class Model(Series):
        encoder = dn.Network(
            module, 12, input_center=0.0, input_scale=[5.0] * 4 + [10.0] * 4 + [1.0] * 4, output_scale=1.0
        )

    data = population.with_tensors(value=value, day=day, mask=mask)
    model = calibrated(Model(), data)
    joint = Joint(model, data)
    _, p, _, _ = joint.parameters(*joint._start(S), joint.batch)
    module.double()
    for i, (times, values) in enumerate(series.values()):
        state = torch.zeros(1, 3, dtype=torch.float64)
        if len(times):  # the series alone, without padding
            x = torch.tensor(np.stack([values / 5.0, times / 10.0], -1)[None])
            state = module.cell(x)[1][0]
        assert float(p["cl"][0, i, 0].detach()) == pytest.approx(module.out(state).detach().exp().item(), rel=1e-12)
    there = dn.evaluate_ofv(model, data)
    gradient, u = there.evaluation.gradient[0], there.free
    weights = [i for i in range(len(gradient)) if i >= len(gradient) - model.networks["encoder"].size]
    step = np.zeros(len(u))
    step[weights] = np.random.default_rng(0).standard_normal(len(weights))
    objective = there.objective()
    h = 1e-4
    difference = (objective(u + h * step).value[0] - objective(u - h * step).value[0]) / (2 * h)
    assert gradient @ step == pytest.approx(difference, rel=1e-5)


def test_fits_predict_simulate_and_cross_validate(population, tmp_path):
    fit = dn.fit(Encoded(), population, options=QUIET)
    new = people(3, seed=5)
    images = new.tensors["image"].reshape(3, 64)
    table = fit.predict(new, times=[2.0], draws=0)
    cl = fit.estimates["cl"] * np.exp(np.array([fit.networks["encoder"](*image) for image in images]).ravel())
    by_hand = 100.0 / fit.estimates["v"] * np.exp(-2.0 * cl / fit.estimates["v"])
    np.testing.assert_allclose(table["PRED"], by_hand, rtol=1e-10)
    curves = dn.simulate(fit, new, times=[2.0], random_effects=False, residual=False).values("ipred")
    np.testing.assert_allclose(curves.ravel(), by_hand, rtol=1e-10)
    assert np.isfinite(dn.evaluate_ofv(fit.model, new, at=fit).ofv)
    fit.save(tmp_path / "fit.npz")
    assert dn.load_fit(tmp_path / "fit.npz", Encoded(), population).ofv == fit.ofv
    with pytest.raises(dn.DataError, match="written for other data"):
        dn.load_fit(tmp_path / "fit.npz", Encoded(), population.with_tensors(image=population.tensors["image"] + 1.0))


def test_refused(population):
    fit = dn.fit(Encoded(), population, options=QUIET)
    new = people(3, seed=5)
    without = dn.Population(dn.Subject(s.id, dn.Dose(100), ([1.0], [9.0]), {"wt": 70.0}) for s in new)
    for call in (lambda: fit.predict(without), lambda: dn.evaluate_ofv(Encoded(), without)):
        with pytest.raises(dn.ModelError, match=r"`cov.image`: there is no such name, .* wt\. .*with_tensors"):
            call()
    with pytest.raises(dn.DataError, match=r"`image`: got shape \(4, 4\). The tensor of the fit's population is"):
        fit.predict(new.with_tensors(image=np.zeros((3, 4, 4))))
    with pytest.raises(dn.ModelError, match=r"got 16 inputs .*expected 64"):
        dn.evaluate_ofv(Encoded(), new.with_tensors(image=np.zeros((3, 4, 4))))


def test_resampling_folds_and_effects_are_those_of_the_number(population):
    tensor, number = (dn.fit(m, population, options=QUIET) for m in (Tensor(), Weight()))
    samples = [dn.bootstrap(f, 2, seed=3, progress=False).ofv for f in (tensor, number)]
    np.testing.assert_allclose(samples[0], samples[1], rtol=1e-10)
    found = dn.cross_validate({"tensor": Tensor(), "number": Weight()}, population, folds=2, options=QUIET).table
    assert found.loc["tensor", "-2LL"] == pytest.approx(found.loc["number", "-2LL"], rel=1e-10)

    class Mixed(Weight):
        def size(self, theta, cov):
            return (cov.wt / 70.0) ** theta.slope + cov.body[..., 0] / 70.0

    effects = dn.covariate_effects(dn.evaluate_ofv(Mixed(), population), uncertainty=None)
    body = np.median(population.tensors["body"]) / 70.0  # the reference subject has the median of every component
    middle = (np.median(population.tensors["body"]) / 70.0) ** 0.75 + body
    expected = ((effects["VALUE"] / 70.0) ** 0.75 + body) / middle
    np.testing.assert_allclose(effects["RATIO"], expected, rtol=1e-9)
