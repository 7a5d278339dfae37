"""The classes of errors and the form of their messages."""

import pytest

from deepnlme.errors import ConvergenceError, DataError, DeepNLMEError, MissingExtraError, ModelError, invalid


@pytest.mark.parametrize(
    ("kind", "base"), [(DataError, ValueError), (ModelError, ValueError), (ConvergenceError, RuntimeError)]
)
def test_errors_are_both_ours_and_python_s(kind, base):
    assert issubclass(kind, DeepNLMEError)
    assert issubclass(kind, base)


def test_convergence_error_carries_the_partial_result():
    assert ConvergenceError("stopped", {"ofv": 1.0}).result == {"ofv": 1.0}
    assert ConvergenceError("stopped").result is None


def test_missing_extra_names_the_extra():
    error = MissingExtraError("matplotlib", "plots")
    assert isinstance(error, ImportError)
    assert error.extra == "plots"
    assert "pip install 'deepnlme[plots]'" in str(error)


def test_message_form():
    message = invalid("omega", "shape (2, 2)", "Expected (3, 3): the model declares eta ka, cl, v.")
    assert message == "Invalid `omega`: got shape (2, 2). Expected (3, 3): the model declares eta ka, cl, v."
    full = invalid("dv", -3.2, "LogNormal needs dv > 0", "subject 12, row 41 (time 6.0)", "Set MDV=1")
    assert full == "Invalid `dv`: got -3.2 for subject 12, row 41 (time 6.0). LogNormal needs dv > 0. Set MDV=1."
