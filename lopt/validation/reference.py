"""Trainings of one rule on one task for a validation, and those of the reference, Adam with a cosine schedule."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.distributed import PairLayout
from lopt.evaluation.baselines import BASELINES, Baseline
from lopt.evaluation.cache import EvaluationCache, arrays_sha, sources
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.ratios import Losses
from lopt.evaluation.runs import Rule, Runner
from lopt.types import Data, PyTree, TaskFamily
from lopt.validation.scores import best_of_grid
from lopt.version import versions

REFERENCE = BASELINES["adam_cosine"]
SEED = 1  # the keys of runs are folded from it; an evaluation's are from 0, so that it has other trainings
SPLIT = "valid"


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Whole trainings of a task, the same for all rules: task, initial parameters and batches follow from the seed.

    Attributes:
      family: the task family.
      data: what its `load` returned.
      horizon: T, the steps of a training.
      num_seeds: S, the trainings of each theta and of each learning rate.
      layout: how the trainings are spread over devices.
    """

    family: TaskFamily
    data: Data
    horizon: int
    num_seeds: int
    layout: PairLayout

    def run(self, rule: Rule, hypers: PyTree, *, num_steps: int | None = None) -> Losses:
        """The losses that trainings end with: `[num_hypers, S]`.

        Hypers are arguments of the compiled program, so that later calls with as many of them compile nothing.

        Args:
          rule: the optimizer.
          hypers: learning rates or thetas, stacked: the leading axis is `num_hypers`.
          num_steps: a length of at least 1 in place of T.
        """
        number, steps = len(jax.tree.leaves(hypers)[0]), num_steps or self.horizon
        runner = Runner(
            rule=rule,
            hypers=hypers,
            family=self.family,
            data=self.data,
            seed=SEED,
            split=SPLIT,
            layout=self.layout,
            max_steps=self.horizon,
            capacity=number * self.num_seeds,
        )
        plan = np.stack(np.divmod(np.arange(number * self.num_seeds), self.num_seeds))
        curves = runner(plan, steps)
        losses = (MEASURES[name](curves) for name in ("final_loss", "valid_loss"))
        return Losses(*(x.reshape(number, self.num_seeds) for x in losses))

    def reference(self, cache: EvaluationCache | None, baseline: Baseline = REFERENCE) -> Losses:
        """The reference's losses at its best learning rate, `[S]`; from the cache if they are there.

        The rates are compared on the very trainings that theta is scored on: the reference is at least as good as one
        that is tuned on others.
        """
        description = self._description(baseline) if cache else {}
        name = f"{self.family.name}-validation"
        kept = cache.read_arrays(name, description) if cache else None
        if kept is None:
            found = self.run(baseline, baseline.hypers)
            kept = found._asdict()
            if cache:
                cache.write_arrays(name, description, kept)
        return best_of_grid(Losses(kept["train"], kept["valid"]))

    def _description(self, baseline: Baseline) -> dict[str, Any]:
        """Everything that decides the reference's losses, as plain values."""
        return {
            "task": self.family.name,
            "data": arrays_sha(self.data),
            "optimizer": baseline.describe(),
            "hypers": arrays_sha(baseline.hypers),
            "horizon": self.horizon,
            "num_seeds": self.num_seeds,
            "seed": SEED,
            "split": SPLIT,
            "dtype": str(jnp.zeros(()).dtype),
            "platform": jax.default_backend(),
            "sequential": self.layout.sequential,
            "sources": sources([self, self.family, baseline]),
            "versions": {name: version for name, version in versions().items() if name != "lopt"},
        }
