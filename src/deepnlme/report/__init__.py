"""A report of a fit as one HTML file (extra `report`): ``from deepnlme.report import report``."""

from deepnlme.report.settings import SECTIONS
from deepnlme.report.write import report

__all__ = ["SECTIONS", "report"]
