"""The report of a run: one self-contained ``report.html``."""

from reverie.recipes.report.page import report

__all__ = ["report"]
