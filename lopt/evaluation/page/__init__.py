"""`report.html`: an evaluation as one page that opens from disk and fetches nothing."""

from lopt.evaluation.page.sections import render

__all__ = ["render"]
