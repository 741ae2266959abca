"""The report of a run: one self-contained ``report.html``."""

from reverie.report.page import report

__all__ = ["report"]
