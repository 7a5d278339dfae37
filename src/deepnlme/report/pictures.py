"""Figures as images that stand in the page itself."""

from __future__ import annotations

import base64
import io
from typing import Any

from deepnlme.plots.style import pyplot
from deepnlme.report.elements import Picture

LARGEST = 400_000
"""Bytes of a vector image beyond which it is drawn as points instead."""

DPI = 200
"""Points per inch of an image, and of what is drawn as points inside a vector image."""

SETTINGS = {"svg.hashsalt": "deepnlme", "svg.fonttype": "path", "savefig.bbox": "standard"}
"""The salt makes the identifiers inside an SVG, and with them the file, the same every time; the box keeps the size."""


def picture(figure: Any, caption: str, alt: str) -> Picture:
    """A figure as SVG, or as PNG where SVG would be large; the figure is closed.

    As an image of its own, the identifiers inside an SVG cannot meet those of another.

    Args:
        figure: A matplotlib figure.
        caption: What is shown.
        alt: The same for those who cannot see it.
    """
    plt = pyplot()
    width, height = figure.get_size_inches()
    _literal(figure)
    try:
        with plt.rc_context(SETTINGS):
            uri = _encoded(figure, "svg", "image/svg+xml", {"Date": None, "Creator": None})
            if len(uri) > LARGEST:
                drawn = _encoded(figure, "png", "image/png", {"Software": None})
                uri = min(uri, drawn, key=len)
    finally:
        plt.close(figure)
    return Picture(uri, caption, alt, round(96 * width), round(96 * height))


def _literal(figure: Any) -> None:
    """Show text of the user as it is: between two $ matplotlib would read a formula in ids and names."""
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        if "$" in text.get_text() and "\\mathdefault" not in text.get_text():  # these are ticks with powers of ten
            text.set_parse_math(False)


def _encoded(figure: Any, kind: str, media: str, metadata: dict[str, None]) -> str:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
    return f"data:{media};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
