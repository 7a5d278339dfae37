"""Pictures of supervised learning: loss curves, learning curves, predicted against observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.learning import Learned, LearningCurve
from deepnlme.learning.table import read_targets
from deepnlme.plots.style import (
    BLUE,
    DOUBLE,
    GREY,
    SINGLE,
    VERMILION,
    axes_for,
    legend_above,
    row_height,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = {
    "mse": "MSE",
    "mae": "MAE",
    "gaussian": "NLPD",
    "binary": "Cross-entropy",
    "multiclass": "Cross-entropy",
    "perceptron": "Perceptron loss",
}


def plot_learning(
    result: Learned | LearningCurve,
    *,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = SINGLE,
) -> Figure:
    """The loss by epoch, or the score by the number of subjects.

    Of a `Learned`: the mean loss of the training rows and, where there are any, of the validation rows, on the learning
    scale (1 is the variance of the training rows for `mse` with standardisation), with the epoch that was kept. Of a
    `LearningCurve`: the mean over folds with its standard errors, of those learned from and those held out. Where both
    meet, more subjects do not help; where they are apart, more subjects or a stronger penalty do.

    Args:
        result: What `deepnlme.learn` or `deepnlme.learning_curve` returned.
        axes: One axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Another kind of result.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(result, Learned | LearningCurve):
        expected = "It is what dn.learn or dn.learning_curve returned"
        raise ModelError(invalid("result", type(result).__name__, expected))
    with style():
        figure, panels = axes_for(axes, 1, 1, width, row_height(0.68 * width))
        draw = _losses if isinstance(result, Learned) else _by_subjects
        draw(panels[0], result)  # type: ignore[arg-type]
        legend_above(figure, panels, own=axes is None)
    return figure


def _losses(ax: Axes, learned: Learned) -> None:
    history = learned.history
    epoch, train = history["EPOCH"].to_numpy(), history["TRAIN"].to_numpy()
    ax.plot(epoch, train, color=BLUE, label="training")
    aside = history["VALIDATION"].to_numpy()
    if np.isfinite(aside).any():
        ax.plot(epoch, aside, color=VERMILION, label="validation")
    ax.axvline(learned.best_epoch, color=GREY, ls="--", lw=0.8, zorder=1, label=f"epoch {learned.best_epoch}, kept")
    both = np.concatenate([train, aside])
    both = both[np.isfinite(both)]
    if (both > 0).all() and both.max() > 10 * both.min():
        ax.set_yscale("log")
    ax.set_xlabel("Epoch")
    ax.set_ylabel(f"{LOSSES[learned.loss]}, learning scale")
    ax.locator_params(axis="x", integer=True)


def _by_subjects(ax: Axes, curve: LearningCurve) -> None:
    table = curve.table
    for name, color, label in (("TRAIN", BLUE, "learned from"), ("HELD_OUT", VERMILION, "held out")):
        se = table[f"{name}_SE"]
        ax.errorbar(table["SUBJECTS"], table[name], se, color=color, marker="o", capsize=2, label=label)
    ax.set_xlabel("Subjects learned from")
    ax.set_ylabel(f"{curve.metric} (mean, standard error)")


def plot_predicted(
    learned: Learned,
    inputs: Any,
    targets: Any,
    *,
    unit: str = "",
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Observed against predicted, one panel per target, with the line of identity.

    With the loss `gaussian` every point carries its predicted standard deviation.

    Args:
        learned: What `deepnlme.learn` returned for quantities.
        inputs: Rows to predict; the test part of a split, for an honest picture.
        targets: What was found.
        unit: Of the targets.
        axes: As many axes as there are targets.
        width: Width of a new figure [mm]; one target takes one column of a journal.

    Returns:
        The figure.

    Raises:
        ModelError: Classes have no such picture; fewer axes than targets.
        DataError: As `Learned.predict`.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(learned, Learned) or learned.loss not in ("mse", "mae", "gaussian"):
        got = learned.loss if isinstance(learned, Learned) else type(learned).__name__
        raise ModelError(invalid("learned", got, "It predicts quantities (mse, mae, gaussian)"))
    predicted = np.asarray(learned.predict(inputs), dtype=np.float64)
    predicted = predicted.reshape(len(predicted), -1)
    y, _ = read_targets(targets, len(predicted))
    if y.shape[1] != len(learned.targets):
        expected = f"It has learned {', '.join(learned.targets)}"
        raise DataError(invalid("targets", f"{y.shape[1]} columns", expected))
    gaussian = learned.loss == "gaussian"
    mean = predicted[:, ::2] if gaussian else predicted
    count = len(learned.targets)
    with style():
        own = min(width, SINGLE) if count == 1 else width
        figure, panels = axes_for(axes, count, 2, own, row_height(0.9 * own / min(count, 2)))
        for k, ax in enumerate(panels):
            ends = [min(mean[:, k].min(), y[:, k].min()), max(mean[:, k].max(), y[:, k].max())]
            ax.plot(ends, ends, color=GREY, ls="--", lw=0.8, zorder=1)
            if gaussian:
                bars = {"fmt": "none", "ecolor": GREY, "elinewidth": 0.5, "zorder": 1.5}
                ax.errorbar(mean[:, k], y[:, k], xerr=predicted[:, 2 * k + 1], **bars)
            ax.plot(mean[:, k], y[:, k], "o", color=BLUE, ms=2.5, alpha=0.6, mew=0)
            name = learned.targets[k]
            ax.set_xlabel(with_unit(f"Predicted {name}", unit))
            ax.set_ylabel(with_unit(f"Observed {name}", unit))
            ax.set_aspect("equal", adjustable="datalim")
    return figure
