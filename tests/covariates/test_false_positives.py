"""Every search says what it was found to select of relations without effect, if its settings are those measured."""

import numpy as np
import pytest

import deepnlme as dn
from covariate_people import QUIET, Level, levels
from deepnlme.covariates import false_positives

SEARCHES = {
    "SCM": (dn.scm, {"progress": False}, ({"forward": 0.01}, {"backward": None}, {"criterion": "aic"})),
    "SCREENING": (dn.screen, {}, ({"level": 0.01}, {"test": "spearman"})),
    "LASSO": (dn.lasso, {"progress": False}, ({"criterion": "ebic"}, {"power": 0}, {"approximation": "quadratic"})),
    "ATTRIBUTION": (
        dn.attribute,
        {"progress": False, "refits": 0},
        ({"level": 0.02}, {"eliminate": False}, {"conditional": False}, {"network": dn.MLP(2, (), 1)}),
    ),
}


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(1)
    x = {"a": rng.standard_normal(40), "b": rng.standard_normal(40)}
    return dn.fit(Level(), levels(x, 0.3 * x["a"]), options=QUIET)


@pytest.mark.parametrize("name", SEARCHES)
def test_usual_settings_and_others(name, fit):
    search, quiet, others = SEARCHES[name]
    found = search(fit, **quiet)
    measured = getattr(false_positives, name)
    assert found.false_positives is measured and str(measured) in str(found).splitlines()
    assert measured.datasets >= 50 and 0 <= measured.relations <= measured.sets <= 100
    for change in others:
        other = search(fit, **quiet, **change)
        assert other.false_positives is None and "false positives" not in str(other)


def test_in_words():
    one = false_positives.FalsePositives(0.44, 12.0, 200)
    expected = "0.4 % of relations without effect, in 12 % of 200 simulated data sets (100 subjects, 30 candidates)"
    assert str(one) == f"false positives: {expected}"
