"""Packing: padding and order change nothing, times and ties are right, and data that do not fit are refused."""

import numpy as np
import pytest
import torch

import deepnlme as dn
from deepnlme.data.batch import Layout, pack
from deepnlme.data.records import Records
from deepnlme.data.subject import Subject
from deepnlme.errors import DataError
from engines import CASES, dose, observation, packed, population_of, run, system

NAMES = ("depot", "central")
PARAMETERS = {"r0": 31.0, "d0": 2.3, "r1": 17.0, "d1": 1.4, "lag0": 0.73, "f0": 0.8, "x1": 5.0}


def layout(**changes):
    given = {"compartments": NAMES, "dose_compartment": 0, "endpoints": ("dv",), "covariates": ()}
    return Layout(**{**given, **changes})


def changing(cov):
    return {**PARAMETERS, "cl": 2.7 * cov["w"], "f0": 0.8 * cov["w"]}


@pytest.mark.parametrize("engine", ["superposition", "scan", "expm-scan", "parallel"])
@pytest.mark.parametrize("varying", [False, True])
def test_a_batch_equals_a_loop_over_subjects(engine, varying):
    if varying and engine == "superposition":
        pytest.skip("parameters that change are the scan's")
    sys = system(1, True, changing if varying else PARAMETERS)
    population = population_of(CASES, varying)
    together = run(engine, sys, packed(population, NAMES))
    for i in range(len(population)):
        alone = run(engine, sys, packed(population[i : i + 1], NAMES))[0]
        tolerance = 1e-6 if engine == "parallel" else 1e-12
        scale = float(alone.abs().max()) + 1e-12
        np.testing.assert_allclose(together[i, : len(alone)], alone, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("engine", ["superposition", "scan"])
def test_rows_may_be_taken_repeated_and_reordered(engine):
    sys = system(1, True, PARAMETERS)
    batch = packed(population_of(CASES), NAMES)
    whole = run(engine, sys, batch)
    index = torch.randperm(batch.rows, generator=torch.Generator().manual_seed(1)).repeat(2)
    np.testing.assert_array_equal(run(engine, sys, batch.take(index)), whole[index])
    np.testing.assert_array_equal(run(engine, sys, batch.tile(3)), whole.repeat(3, 1, 1))
    assert batch.tile(3) is batch.tile(3) and batch.tile(1) is batch
    reverse = population_of(dict(reversed(CASES.items())))
    width = whole.shape[1]
    np.testing.assert_array_equal(run(engine, sys, packed(reverse, NAMES))[:, :width], whole.flip(0))


@pytest.mark.parametrize("engine", ["superposition", "scan"])
def test_observations_alone_are_the_same_slots(engine):
    sys = system(1, True, PARAMETERS)
    population = population_of(CASES)
    batch, every = packed(population, NAMES, "observations"), packed(population, NAMES)
    found, whole = run(engine, sys, batch), run(engine, sys, every)
    for i in range(batch.rows):
        record = batch.slot_record[i][batch.slot_valid[i]]
        assert bool(every.slot_valid[i][record].all()) and len(record) == int(every.slot_valid[i].sum())
        np.testing.assert_allclose(found[i][batch.slot_valid[i]], whole[i][record], rtol=1e-12, atol=1e-12)


def test_the_clock_never_runs_back_by_rounding():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b, c = np.round(rng.uniform(0.1, 30, 3), 1)
        rows = [*observation(a), dose(min(a, b), 10, 4), *observation(min(a, b) + c)]
        batch = packed(population_of({1: rows}), NAMES)
        assert bool((torch.diff(batch.time) >= 0).all()) and float(batch.time[0, 1] - batch.time[0, 0]) < 1e-13
        np.testing.assert_allclose(batch.time - batch.offset, [[a, min(a, b), min(a, b) + c]], rtol=1e-13)


def test_additional_doses_meet_the_records_at_their_time():
    times = np.round(0.1 * np.arange(1, 60), 10)
    batch = packed(population_of({1: [dose(0.1, 10, II=0.1, ADDL=70), *observation(*times)]}), NAMES)
    # a dose at each of the observations, to the last bit; none after the last
    np.testing.assert_array_equal(batch.dose_time[0].numpy(), np.r_[0.1, times[1:]])
    np.testing.assert_array_equal(batch.dose_effect[0, 1:].numpy(), np.arange(2, 60))
    assert not bool(batch.dose_additional[0, 0]) and bool(batch.dose_additional[0, 1:].all())


def test_occasions_are_numbered_within_the_subject():
    records = Records.build(
        np.arange(8.0),
        dv=1.0,
        subject=[0, 0, 0, 0, 1, 1, 1, 1],
        occasion=[3, 3, 5, 3, 5, 5, 0, 5],
        row=np.arange(8) + 2,
    )
    subjects = [
        Subject.of_records(i, records.take(records.subject == i, np.zeros(4, int)), {}, tuple("abcdef"), {})
        for i in (0, 1)
    ]
    batch = pack(dn.Population(subjects), layout(occasions=True))
    np.testing.assert_array_equal(batch.occasion.numpy(), [[0, 0, 1, 0], [0, 0, 1, 0]])


def test_compartments_by_number_and_name():
    rows = [dose(0), dose(0, CMT=0), dose(0, CMT=1), dose(0, CMT=2), *observation(1)]
    assert packed(population_of({1: rows}), NAMES).dose_cmt[0].tolist() == [0, 0, 0, 1]
    named = dn.Subject(1, dn.Regimen(dn.Dose(1, cmt="central"), dn.Dose(1, cmt="depot")), ([1.0], [1.0]))
    assert pack(dn.Population([named]), layout()).dose_cmt[0].tolist() == [1, 0]


def test_an_unknown_compartment_names_subject_and_row():
    rows = {7: [*observation(0.5), dose(2, CMT=3), *observation(4)]}
    with pytest.raises(DataError, match=r"CMT.*got 3 for subject 7, row 3 \(time 2\).*1 \(depot\), 2 \(central\)"):
        packed(population_of(rows), NAMES)
    with pytest.raises(DataError, match="no dynamics"):
        packed(population_of({1: [dose(0), *observation(1)]}), ())


def two_endpoints(*names):
    return dn.Population([dn.Subject(4, dn.Dose(1), {n: ([1.0], [1.0]) for n in names})])


def test_endpoints_are_matched_by_name_or_number():
    batch = pack(two_endpoints("pca", "cp"), layout(endpoints=("cp", "pca")))
    assert batch.slices == {"cp": slice(0, 1), "pca": slice(1, 2)}
    assert pack(two_endpoints("1", "2"), layout(endpoints=("cp", "pca"))).slices == batch.slices
    assert pack(two_endpoints("anything"), layout(endpoints=("dv",))).slot_valid.all()


def test_an_endpoint_that_the_model_does_not_have_is_refused():
    with pytest.raises(DataError, match=r"endpoint.*'pca' for subject 4, row 4.*cp, effect"):
        pack(two_endpoints("cp", "pca"), layout(endpoints=("cp", "effect")))


def test_a_missing_covariate_is_refused():
    with pytest.raises(DataError, match=r"cov\.wt.*population has \(none\)"):
        packed_without = population_of({1: observation(1)})
        pack(packed_without, layout(covariates=("wt",)))


def test_a_covariate_that_never_changes_is_packed_once():
    constant = dn.Population([dn.Subject(i, None, ([0.0, 1.0, 2.0], None), {"wt": 50.0 + i}) for i in (1, 2)])
    batch = pack(constant, layout(covariates=("wt",)), "records")
    assert batch.covariates["wt"][0].tolist() == [[51.0], [52.0]]
    moving = population_of({1: observation(0, 1, 2)}, True, "linear")
    at, over = pack(moving, layout(covariates=("w",)), "records").covariates["w"]
    np.testing.assert_allclose(at[0], [1.0, 1.4, 1.2])
    np.testing.assert_allclose(over[0], [1.0, 1.2, 1.3])


def test_a_subject_without_doses_or_observations():
    rows = {1: [dose(0), *observation(1, 2)], 2: [dose(0, 0, 2)], 3: [dose(0)]}
    batch = packed(population_of(rows), NAMES, "observations")
    assert batch.slot_valid.sum(1).tolist() == [2, 0, 0] and batch.dose_valid.sum(1).tolist() == [1, 0, 1]
    states = run("superposition", system(1, True), batch)
    assert bool(torch.isfinite(states).all()) and float(states[1].abs().max()) == 0.0


def test_device():
    batch = packed(population_of(CASES), NAMES)
    assert batch.to("cpu").device == torch.device("cpu")
