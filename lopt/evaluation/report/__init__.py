"""`report.html`: an evaluation as one page that opens from disk and fetches nothing."""

from lopt.evaluation.report.page import render

__all__ = ["render"]
