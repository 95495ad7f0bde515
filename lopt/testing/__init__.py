"""Checks of tasks, rules and estimators: what lopt's own members keep, as functions for anyone's tests.

Each raises `Broken`, an AssertionError that names the rule that is broken and what to do.
"""

from lopt.testing.broken import Broken
from lopt.testing.estimators import check_estimator
from lopt.testing.optimizers import check_optimizer
from lopt.testing.tasks import check_task

__all__ = ["Broken", "check_estimator", "check_optimizer", "check_task"]
