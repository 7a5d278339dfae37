"""Random regimens over all event types: every engine against the slow oracle."""

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engines import LINEAR, compare, population_of, system

QUICK = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
SLOW = settings(QUICK, phases=(Phase.explicit, Phase.generate))
steps = st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.7, 6.0])


@st.composite
def one_dose(draw, reset: bool):
    row = {
        "EVID": 4 if reset else 1,
        "AMT": draw(st.sampled_from([10.0, 60.0])),
        "CMT": draw(st.sampled_from([0, 1, 2])),
    }
    row["RATE"] = draw(st.sampled_from([0.0, 0.0, 5.0, 40.0, -1.0, -2.0]))
    row["SS"] = draw(st.sampled_from([0, 0, 1, 2]))
    if row["SS"] == 1 and draw(st.integers(0, 3)) == 0:
        return {**row, "AMT": 0.0, "RATE": draw(st.sampled_from([2.0, 9.0]))}
    if row["SS"] or draw(st.booleans()):
        row["II"] = draw(st.sampled_from([1.5, 4.0, 6.0, 12.0]))
        row["ADDL"] = draw(st.integers(0 if row["SS"] else 1, 4))
    return row


@st.composite
def subject(draw):
    time, rows = draw(st.sampled_from([0.0, 0.2, 5.0])), []
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["observation"] * 4 + ["dose"] * 4 + ["reset and dose", "reset", "other"]))
        if kind.startswith("reset") and rows and draw(st.booleans()):
            time = draw(st.sampled_from([0.0, 0.1, 2.0]))
        else:
            time = time + draw(steps)
        if kind in ("dose", "reset and dose"):
            row = draw(one_dose(kind != "dose"))
        else:
            row = {"EVID": {"observation": 0, "reset": 3, "other": 2}[kind], "AMT": 0.0}
        rows.append({"TIME": time, **row})
    return [*rows, {"TIME": time + draw(steps), "EVID": 0, "AMT": 0.0}]


@st.composite
def controls(draw):
    p = {"r0": 31.0, "d0": 2.3, "r1": 7.0, "d1": 1.4}
    for name, values in {
        "lag0": [0.53, 1.01, 1.37],
        "lag1": [0.27, 1.21],
        "f0": [0.8, 1.3],
        "f1": [0.5],
        "x0": [3.0],
        "x1": [5.0],
    }.items():
        if draw(st.booleans()):
            p[name] = draw(st.sampled_from(values))
    return p


def changing(p):
    return lambda cov: {
        **p,
        "cl": 2.7 * cov["w"],
        **{k: p[k] * cov["w"] ** 0.3 for k in ("f0", "f1", "d0", "x1") if k in p},
    }


subjects = st.lists(subject(), min_size=1, max_size=3).map(lambda found: dict(enumerate(found, 1)))


@settings(QUICK, max_examples=60)
@given(subjects, controls(), st.sampled_from([(1, True), (2, False), (2, True)]))
def test_constant_parameters(rows, p, kind):
    compare(system(*kind, p), population_of(rows), LINEAR, options={"memory": 400.0})


@settings(QUICK, max_examples=30)
@given(subjects, controls(), st.sampled_from(["nocb", "locf", "linear"]))
def test_parameters_that_change_with_time(rows, p, rule):
    compare(system(1, True, changing(p)), population_of(rows, True, rule), LINEAR, options={"memory": 400.0})


@settings(SLOW, max_examples=8)
@given(subjects, controls(), st.booleans())
def test_differential_equations(rows, p, varying):
    parameters = changing(p) if varying else p
    compare(system(1, True, parameters), population_of(rows, varying), ("ode", "parallel"), options={"memory": 400.0})
