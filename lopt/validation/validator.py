"""The validation of a meta-training: a theta's score from whole trainings on tasks that it is not trained on."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from lopt.distributed import PairLayout
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.ratios import Losses, task_ratios
from lopt.evaluation.runs import Learned
from lopt.names import InputError
from lopt.types import LearnedOptimizer, TaskFamily, Theta
from lopt.validation.reference import SEED, SPLIT, Trainings
from lopt.validation.scores import score_row


class TaskValidator:
    """Scores thetas of one rule on tasks: `prepare`, then `score` any number of times.

    Nothing is compiled twice: theta is an argument of each task's program.
    """

    def __init__(
        self,
        optimizer: LearnedOptimizer,
        families: Sequence[TaskFamily],
        *,
        horizon: int,
        num_seeds: int,
        layout: PairLayout,
        cache: Path | None = None,
    ):
        """Reads the data of the tasks.

        Args:
          optimizer: the rule.
          families: the tasks, at least one.
          horizon: T, the steps of a training.
          num_seeds: trainings of each task.
          layout: how they are spread over devices.
          cache: folder in which the reference's losses are kept; None for nowhere.

        Raises:
          InputError: a number is out of its range, data cannot be read, or a task has no validation split.
        """
        if not families:
            raise InputError("a validation needs at least one task")
        evaluation = Evaluation(horizon, num_seeds, SEED, split=SPLIT)
        self._rule = Learned(optimizer)
        self._cache = None if cache is None else EvaluationCache(cache)
        self._tasks: dict[str, Trainings] = {}
        for family in families:
            data = layout.load(family)
            evaluation.check_split(family, data)
            self._tasks[family.name] = Trainings(family, data, horizon, num_seeds, layout)
        self._references: dict[str, Losses] = {}

    def prepare(self, thetas: Sequence[Theta], stopped: Callable[[], bool] = lambda: False) -> None:
        """Finds or makes the runs of the reference, and compiles those of the rule.

        Args:
          thetas: as many as each call of `score` gets, of the same form.
          stopped: asked before each task; where it answers True, the rest is left undone.
        """
        for name, trainings in self._tasks.items():
            if stopped():
                return
            began = time.monotonic()
            self._references[name] = trainings.reference(self._cache)
            trainings.run(self._rule, _stacked(thetas), num_steps=1)
            logging.info("validation: %s is ready (%.1f s)", name, time.monotonic() - began)

    def score(self, thetas: Sequence[Theta]) -> list[dict[str, float]]:
        """Trains every task with each theta: the numbers of `scores.score_row`, lower is better, one dict per theta."""
        hypers, found = _stacked(thetas), [{} for _ in thetas]
        for name, trainings in self._tasks.items():
            if name not in self._references:
                self._references[name] = trainings.reference(self._cache)
            losses = trainings.run(self._rule, hypers)
            for i, scores in enumerate(found):
                own = Losses(losses.train[i], losses.valid[i])
                scores[name] = task_ratios(own, self._references[name])
        return [score_row(scores) for scores in found]


def _stacked(thetas: Sequence[Theta]) -> Theta:
    """In numpy, so that the devices of the meta-training do not matter."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *thetas)
