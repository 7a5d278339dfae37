"""Fits and checkpoints on disk."""

import json
import zipfile
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch

import contract_models as cm
import deepnlme as dn
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.storage import Checkpoint, fingerprint
from deepnlme.joint import Joint
from deepnlme.nn import mlp
from network_models import people

QUIET = dict(progress=False)


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(cm.records([[0.4, 1.0, 2.0, 4.0, 8.0, 12.0]] * 8, seed=8))


class Small(cm.Oral):
    a = dn.Positive(0.05, fixed=True)
    eta = dn.RandomEffects("cl", omega=[0.1])

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * torch.exp(eta.cl), v=theta.v)


@pytest.fixture(scope="module")
def fit(population):
    return dn.fit(Small(), population, options=dn.Options(**QUIET))


@pytest.mark.parametrize("method", cm.GAUSSIAN, ids=lambda m: m.name)
def test_round_trip(population, tmp_path, method):
    fit = dn.fit(Small(), population, method, options=dn.Options(**QUIET, starts=2, checkpoint=None))
    fit.save(tmp_path / "fit.npz")
    again = dn.load_fit(tmp_path / "fit.npz", Small(), population)
    assert again.method == fit.method
    assert again.options == fit.options
    assert again.status is fit.status
    for name in ("decrement", "trace", "seconds", "versions", "starts", "estimates", "se", "shrinkage", "aic", "bic"):
        assert getattr(again, name) == getattr(fit, name), name
    np.testing.assert_array_equal(again.free, fit.free)
    for f in fields(fit.evaluation):
        np.testing.assert_array_equal(getattr(again.evaluation, f.name), getattr(fit.evaluation, f.name))
    for f in fields(fit.covariance):
        np.testing.assert_array_equal(getattr(again.covariance, f.name), getattr(fit.covariance, f.name))
    pd.testing.assert_frame_equal(again.predictions(), fit.predictions())
    pd.testing.assert_frame_equal(again.table(), fit.table())
    assert str(again) == str(fit)


def test_round_trip_of_what_is_not_a_full_fit(population, tmp_path):
    evaluated = dn.evaluate_ofv(Small(), population)
    evaluated.save(tmp_path / "e.npz")
    again = dn.load_fit(tmp_path / "e.npz", Small(), population)
    assert again.covariance is None
    assert again.status is dn.FitStatus.EVALUATED
    assert np.isnan(again.decrement)
    assert str(again) == str(evaluated)


def test_file_holds_no_code(fit, tmp_path):
    fit.save(tmp_path / "fit.npz")
    with np.load(tmp_path / "fit.npz", allow_pickle=False) as file:
        for name in file.files:
            assert file[name].dtype != object
        json.loads(str(file["head"]))
    assert not list(tmp_path.glob("*.part"))


def tampered(path, change):
    with np.load(path, allow_pickle=False) as file:
        arrays = {n: file[n] for n in file.files}
    change(arrays)
    np.savez(path, **arrays)


def set_head(arrays, **changes):
    head = json.loads(str(arrays["head"]))
    head.update(changes)
    arrays["head"] = np.array(json.dumps(head))


TAMPERED = {
    "truncated": None,
    "text": None,
    "pickle": None,
    "no head": lambda a: a.pop("head"),
    "head not JSON": lambda a: a.update(head=np.array("{")),
    "head no object": lambda a: a.update(head=np.array("[1]")),
    "format": lambda a: set_head(a, format=99),
    "array missing": lambda a: a.pop("free"),
    "evaluation missing": lambda a: a.pop("evaluation.z"),
    "array of another size": lambda a: a.update(free=a["free"][:-1]),
    "subjects missing": lambda a: a.update({"evaluation.z": a["evaluation.z"][:, :-1]}),
    "unknown method": lambda a: set_head(a, method={"class": "Other"}),
    "unknown status": lambda a: set_head(a, status="FINE"),
    "unknown option": lambda a: set_head(a, options={"speed": 3}),
    "no names": lambda a: set_head(a, names=None),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_damaged_file_is_refused(fit, population, tmp_path, kind):
    path = tmp_path / "fit.npz"
    fit.save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "text":
        path.write_text("not a fit")
    elif kind == "pickle":
        with zipfile.ZipFile(path, "w"):
            pass
        np.savez(path, head=np.array([{"a": 1}], dtype=object))
    else:
        tampered(path, TAMPERED[kind])
    with pytest.raises(dn.DeepNLMEError, match=r"fit\.npz"):
        dn.load_fit(path, Small(), population)


def test_missing_file(population, tmp_path):
    with pytest.raises(FileNotFoundError):
        dn.load_fit(tmp_path / "none.npz", Small(), population)


def test_other_data_or_model_is_refused(fit, population, tmp_path):
    path = tmp_path / "fit.npz"
    fit.save(path)
    with pytest.raises(dn.DataError, match="other data"):
        dn.load_fit(path, Small(), population[:7])
    with pytest.raises(dn.ModelError, match=r"written for Small .*got Block"):
        dn.load_fit(path, cm.Block(), population)
    # the same class, but a declaration that would give other numbers from the same vector
    with pytest.raises(dn.ModelError, match=r"`cl`"):
        dn.load_fit(path, Small(cl=dn.Real(2.7)), population)
    with pytest.raises(dn.ModelError, match=r"`a`"):
        dn.load_fit(path, Small(a=dn.Positive(0.5, fixed=True)), population)
    with pytest.raises(dn.ModelError, match=r"`eta`"):
        dn.load_fit(path, Small(eta=dn.RandomEffects("cl", omega=0.1, by="occasion")), population)


def test_fingerprint_sees_every_part_of_the_data():
    frame = cm.records(cm.TIMES)
    frame["WT"] = 70.0
    base = fingerprint(dn.read_nonmem(frame, covariates=["WT"]))
    assert base == fingerprint(dn.read_nonmem(frame.copy(), covariates=["WT"]))
    for column, value in (("DV", 1.234), ("AMT", 90.0), ("WT", 71.0), ("TIME", 0.25)):
        other = frame.copy()
        row = 0 if column == "AMT" else 1
        other.loc[row, column] = value
        assert fingerprint(dn.read_nonmem(other, covariates=["WT"])) != base, column
    assert fingerprint(dn.read_nonmem(frame, covariates=["WT"], interpolation="linear")) != base


def counted(monkeypatch):
    counter = {"points": 0}
    plain = MarginalObjective.__call__

    def counting(self, u):
        counter["points"] += len(np.atleast_2d(u))
        return plain(self, u)

    monkeypatch.setattr(MarginalObjective, "__call__", counting)
    return counter


@pytest.mark.parametrize("max_newton", [40, 1], ids=["newton", "quasi-newton"])
def test_checkpoint_is_resumed(fit, population, tmp_path, monkeypatch, max_newton):
    path = tmp_path / "run.npz"
    options = dict(**QUIET, max_newton=max_newton, covariance=None)
    start = dict(cl=6.0, v=9.0)
    short = dn.fit(Small(), population, start=start, options=dn.Options(**options, checkpoint=path, max_iterations=4))
    assert path.exists()
    counter = counted(monkeypatch)
    fresh = dn.fit(Small(), population, start=start, options=dn.Options(**options))
    whole, counter["points"] = counter["points"], 0
    resumed = dn.fit(Small(), population, start=start, options=dn.Options(**options, checkpoint=path))
    assert counter["points"] < whole
    assert resumed.trace.ofv[0] <= short.ofv + 1e-9
    assert resumed.ofv == pytest.approx(fresh.ofv, abs=1e-4)
    assert resumed.ofv == pytest.approx(fit.ofv, abs=1e-4)


def test_checkpoint_of_an_interrupted_fit_holds_its_best_point(population, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    calls = {"n": 0}
    plain = MarginalObjective.__call__

    def interrupted(self, u):
        calls["n"] += 1
        if calls["n"] == 5:
            raise KeyboardInterrupt
        return plain(self, u)

    monkeypatch.setattr(MarginalObjective, "__call__", interrupted)
    stopped = dn.fit(Small(), population, options=dn.Options(**QUIET, checkpoint=path))
    monkeypatch.undo()
    with np.load(path) as file:
        np.testing.assert_array_equal(file["u"], stopped.free)


def test_checkpoint_refuses_another_fit(population, tmp_path):
    path = tmp_path / "run.npz"
    options = dn.Options(**QUIET, checkpoint=path, covariance=None, max_iterations=2)
    dn.fit(Small(), population, options=options)
    with pytest.raises(dn.DataError, match="other data"):
        dn.fit(Small(), population[:6], options=options)
    with pytest.raises(dn.ModelError, match="written for Small"):
        dn.fit(cm.Block(), population, options=options)
    path.write_text("damaged")
    with pytest.raises(dn.DataError, match="not a fit"):
        dn.fit(Small(), population, options=options)


def test_a_checkpoint_keeps_the_best_of_all_starts(population, tmp_path):
    path = tmp_path / "fit.checkpoint"
    objective = MarginalObjective(Joint(Small(), population), dn.FOCE())
    u = objective.joint.space.initial()
    better = objective(u)
    worse = objective(u + 0.5)
    assert better.value[0] < worse.value[0]
    checkpoint = Checkpoint.open(path, objective)
    checkpoint.save(u, better)
    checkpoint.save(u + 0.5, worse)
    resumed = Checkpoint.open(path, objective)
    np.testing.assert_array_equal(resumed.u, u)
    resumed.save(u + 0.5, worse)
    np.testing.assert_array_equal(Checkpoint.open(path, objective).u, u)


def test_a_checkpoint_needs_its_folder_before_any_work(population, tmp_path):
    with pytest.raises(dn.ModelError, match=r"Invalid `checkpoint`.*no folder"):
        dn.fit(Small(), population, options=dn.Options(**QUIET, checkpoint=tmp_path / "none" / "x"))


def test_other_equations_are_refused(fit, population, tmp_path):
    fit.save(tmp_path / "fit.npz")
    other = type(
        "Small",
        (Small,),
        dict(
            individual=lambda self, theta, eta, cov: dict(ka=theta.ka, cl=2.0 * theta.cl * torch.exp(eta.cl), v=theta.v)
        ),
    )
    with pytest.raises(dn.ModelError, match=r"Invalid model.*its OFV at the estimates is"):
        dn.load_fit(tmp_path / "fit.npz", other(), population)


class Curves(dn.Model):
    """A network whose units come from the data, and one that is fixed."""

    sd = dn.Positive(0.3)
    base = dn.Positive(1.0)
    curve = dn.MLP(2, (2,), prior=dn.L2(1.0), seed=1)
    kept = dn.MLP(1, (2,), fixed=True, seed=2)
    latent = dn.RandomEffects(1, omega=0.2, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(z=eta.latent)

    def observe(self, theta, p, x):
        f = theta.base + theta.curve(x.time, p.z) + theta.kept(x.time)
        return dict(dv=dn.Normal(f, theta.sd))


@pytest.fixture(scope="module")
def curves():
    return dn.fit(Curves(), people(5, dose=None), options=dn.Options(**QUIET, max_iterations=4))


@pytest.mark.parametrize("shared", [False, True], ids=["by row", "shared"])
def test_round_trip_of_networks(tmp_path, monkeypatch, shared):
    if shared:
        monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    options = dn.Options(**QUIET, max_iterations=4, starts=2)
    fit = dn.fit(Curves(), people(5, dose=None), options=options)
    if not shared:
        fit = fit.with_covariance("R")
    fit.save(tmp_path / "fit.npz")
    again = dn.load_fit(tmp_path / "fit.npz", Curves(), people(5, dose=None))
    np.testing.assert_array_equal(again.free, fit.free)
    for name, weights in fit.weights.items():
        np.testing.assert_array_equal(again.weights[name], weights)
        assert again.model.networks[name].scaling == fit.model.networks[name].scaling
        inputs = (1.5, 0.2)[: fit.networks[name].inputs]
        assert again.networks[name](*inputs) == fit.networks[name](*inputs)
    for f in fields(fit.evaluation):
        np.testing.assert_array_equal(getattr(again.evaluation, f.name), getattr(fit.evaluation, f.name))
    assert again.trace == fit.trace
    assert str(again) == str(fit)
    pd.testing.assert_frame_equal(again.predictions(), fit.predictions())
    np.testing.assert_array_equal(again.individual(2)["z"], fit.individual(2)["z"])
    on = dn.fit(Curves(), people(5, dose=None), start=again, options=dn.Options(**QUIET, max_iterations=1))
    assert on.ofv + on.penalty <= fit.ofv + fit.penalty + 1e-6


def test_other_networks_are_refused(curves, tmp_path):
    path, population = tmp_path / "fit.npz", people(5, dose=None)
    curves.save(path)
    for name, other in {
        "curve": dn.MLP(2, (3,), prior=dn.L2(1.0)),
        "kept": dn.MLP(1, (2,), fixed=True, seed=3),
    }.items():
        with pytest.raises(dn.ModelError, match=rf"Invalid model for .*fit\.npz: `{name}` is declared as"):
            dn.load_fit(path, Curves(**{name: other}), population)
    for other in (
        dn.MLP(2, (2,), prior=dn.L2(2.0)),
        dn.MLP(2, (2,), prior=dn.L2(1.0, bias=False)),
        dn.MLP(2, (2,), prior=dn.L2(1.0), activation="swish"),
        dn.MLP(2, (2,), prior=dn.L2(1.0), input_scale=3.0),
        curves.model.networks["curve"].around(np.ones(9)),
        dn.MLP(2, (2,)),
    ):
        with pytest.raises(dn.ModelError, match=r"`curve` is declared as"):
            dn.load_fit(path, Curves(curve=other), population)
    # initial weights are no part of what was fitted
    again = dn.load_fit(path, Curves(curve=dn.MLP(2, (2,), prior=dn.L2(1.0), seed=9)), population)
    np.testing.assert_array_equal(again.weights["curve"], curves.weights["curve"])


def test_a_fit_with_subjects_kept_aside_is_read_with_all_or_with_those_fitted(tmp_path):
    population = people(6, dose=None)
    fit = dn.fit(Curves(), population, options=dn.Options(**QUIET, max_iterations=4, held_out=0.3, seed=2))
    assert (len(fit.population), len(fit.held_out)) == (4, 2)
    fit.save(tmp_path / "fit.npz")
    again = dn.load_fit(tmp_path / "fit.npz", Curves(), population)
    assert str(again) == str(fit)
    assert again.population.ids == fit.population.ids
    assert again.held_out.ids == fit.held_out.ids
    # NaN where the subjects kept aside were not looked at
    np.testing.assert_array_equal(again.trace.held_out, fit.trace.held_out)
    alone = dn.load_fit(tmp_path / "fit.npz", Curves(), fit.population)
    assert alone.ofv == fit.ofv and alone.held_out is None
    with pytest.raises(dn.DataError, match="other data"):
        dn.load_fit(tmp_path / "fit.npz", Curves(), population[:5])


def test_checkpoint_of_networks_is_resumed(tmp_path):
    path, population = tmp_path / "run.npz", people(5, dose=None)
    options = dict(**QUIET, checkpoint=path)
    short = dn.fit(Curves(), population, options=dn.Options(**options, max_iterations=4))
    resumed = dn.fit(Curves(), population, options=dn.Options(**options, max_iterations=2))
    assert resumed.trace.ofv[0] + resumed.trace.penalty[0] <= short.ofv + short.penalty + 1e-6


def test_checkpoint_in_other_units_is_refused(tmp_path):
    """Weights mean something in their units only, and these depend on the initial values."""

    class Additive(Curves):
        def individual(self, theta, eta, cov):
            return dict(z=eta.latent, f=theta.base + theta.curve(1.0, eta.latent))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.f + theta.kept(x.time), theta.sd))

    path, population = tmp_path / "run.npz", people(5, dose=None)
    options = dn.Options(**QUIET, checkpoint=path, max_iterations=2)
    one = dn.fit(Additive(), population, options=options)
    assert one.model.networks["curve"].scaling.output_scale == pytest.approx((1.0,))
    with pytest.raises(
        dn.ModelError, match=r"Invalid model for .*run\.npz: `curve` is declared as .*output_scale=\[9\]"
    ):
        dn.fit(Additive(base=9.0), population, options=options)
