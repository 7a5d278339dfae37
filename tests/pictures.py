"""What tests of pictures share: a line by its label, and a drawn figure whose texts can be read."""

from itertools import combinations

import matplotlib

matplotlib.use("Agg")


def line(ax, label):
    """The one line of a panel that has this label."""
    found = [item for item in ax.lines if item.get_label() == label]
    assert len(found) == 1, [item.get_label() for item in ax.lines]
    return found[0]


def notes(ax):
    """The texts written into or above a panel."""
    return [text.get_text() for text in ax.texts]


def rendered(figure):
    """Draws the figure; every text of it must lie inside, and none over another."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [(t, t.get_window_extent()) for ax in figure.axes if ax.axison for t in _texts(ax)]
    boxes += [(t, t.get_window_extent()) for legend in figure.legends for t in legend.get_texts()]
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a.x1 < b.x0 + 1 or b.x1 < a.x0 + 1 or a.y1 < b.y0 + 1 or b.y1 < a.y0 + 1
        slanted = one.get_rotation() % 90 or other.get_rotation() % 90
        assert apart or slanted, (one, other)
    return figure


def _texts(ax):
    labels = []
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        labels += [axis.label]
        labels += [t.label1 for t in axis.get_major_ticks() if t.label1.get_visible() and low <= t.get_loc() <= high]
    titles = [ax.title, ax._left_title, ax._right_title]
    return [text for text in (*labels, *titles, *ax.texts) if text.get_visible() and text.get_text().strip()]
