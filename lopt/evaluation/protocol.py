"""The protocol of an evaluation: the same tasks, seeds, batches and budget of tuning for every optimizer."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.distributed import PairLayout
from lopt.evaluation import tuning
from lopt.evaluation.baselines import BASELINES, REFERENCE, Baseline
from lopt.evaluation.cache import EvaluationCache, arrays_sha, sources
from lopt.evaluation.contestants import Contestant
from lopt.evaluation.measures import LONG
from lopt.evaluation.results import Entry, TaskResult
from lopt.evaluation.runs import Runner
from lopt.evaluation.tuning import capacity, make_entry
from lopt.names import InputError
from lopt.types import SPLITS, Data, TaskFamily
from lopt.version import versions

MIN_HORIZON = 20  # 5 % of it is one step


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How every optimizer is trained, tuned and judged on every task.

    Attributes:
      horizon: T, the steps of a training.
      num_seeds: S, the number of evaluation seeds, and of tuning seeds.
      seed: a run with the run seed i has the key fold_in(key(seed), i).
      split: the split that the trained parameters are judged on.
      baselines: the baselines that are tuned; the reference is among them.
      layout: how the runs are spread over devices.
      cache: where entries are kept; None for nowhere.
    """

    horizon: int
    num_seeds: int = 5
    seed: int = 0
    split: str = "valid"
    baselines: tuple[Baseline, ...] = (BASELINES[REFERENCE],)
    layout: PairLayout = PairLayout()
    cache: EvaluationCache | None = None

    def __post_init__(self):
        for name in ("horizon", "num_seeds", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise InputError(f"{name} must be a whole number, not {value!r}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")
        if self.horizon < MIN_HORIZON:
            raise InputError(f"the horizon must be at least {MIN_HORIZON} steps, not {self.horizon}")
        if self.num_seeds < 1:
            raise InputError(f"num_seeds must be at least 1, not {self.num_seeds}")
        if self.split not in SPLITS[1:]:
            raise InputError(f"the split must be one of {', '.join(SPLITS[1:])}, not {self.split!r}")
        for baseline in self.baselines:
            if len(baseline.rates) < (2 if baseline.name == REFERENCE else 1):
                least = "at least two learning rates" if baseline.name == REFERENCE else "a learning rate"
                raise InputError(f"{baseline.name} must have {least} to choose from")
            if not all(0 < rate < math.inf for rate in baseline.rates):
                raise InputError(f"the learning rates of {baseline.name} must be finite and above 0: {baseline.rates}")
        if REFERENCE not in (baseline.name for baseline in self.baselines):
            raise InputError(f"{REFERENCE!r} must be among the baselines: scores and speed-ups refer to it")

    def check_split(self, family: TaskFamily, data: Data) -> None:
        """Raises InputError unless the task has the split that trained parameters are judged on."""
        try:
            jax.eval_shape(
                lambda data, key: family.sample_batch(data, key, family.sample(key), self.split),
                data,
                jax.random.key(0),
            )
        except KeyError:
            there = ", ".join(split for split in SPLITS if split in data)
            raise InputError(f"{family.name} has no split {self.split!r}: it has {there}") from None
        arrays = jax.tree.leaves(data[self.split]) if isinstance(data, Mapping) and self.split in data else []
        if any(array.size == 0 for array in arrays):
            raise InputError(f"the split {self.split!r} of {family.name} is empty")

    def result(self, family: TaskFamily, entries: dict[str, Entry], warnings: Iterable[str] = ()) -> TaskResult:
        """All entries of one task, put together."""
        shapes = jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0))
        return TaskResult(
            num_params=sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)),
            horizon=self.horizon,
            seeds=np.arange(self.num_seeds),
            tuning_seeds=self.num_seeds + np.arange(self.num_seeds),
            warnings=tuple(warnings),
            entries=entries,
        )

    def cached(self, contestant: Contestant, family: TaskFamily, data: Data) -> Entry | None:
        """The entry from the cache, if it is there, with today's label and kind."""
        if self.cache is None:
            return None
        entry = self.cache.read(_file_name(contestant, family), self._description(contestant, family, data))
        return entry and entry._replace(label=contestant.label, kind=contestant.kind)

    def run(self, contestant: Contestant, family: TaskFamily, data: Data, flops: float | None = None) -> Entry:
        """Tunes and runs one optimizer on one task, and keeps the entry in the cache.

        Args:
          contestant: the optimizer.
          family: the task.
          data: what `family.load` returned.
          flops: `flops_per_step`, where it is known already.
        """
        is_adam = contestant.rule == contestant.reference  # Adam at 1e-3 shares the program of the long run
        entry = make_entry(
            contestant.rule,
            contestant.hypers,
            contestant.rates,
            self._clock(contestant, family, data),
            family,
            data,
            horizon=self.horizon,
            num_seeds=self.num_seeds,
            seed=self.seed,
            split=self.split,
            layout=self.layout,
            long=contestant.name == REFERENCE,
            max_steps=self.horizon * (LONG if is_adam else 1),
            settings=contestant.settings,
            flops=flops,
            label=contestant.label,
            kind=contestant.kind,
        )
        if self.cache is not None:
            self.cache.write(_file_name(contestant, family), self._description(contestant, family, data), entry)
        return entry

    def _clock(self, contestant: Contestant, family: TaskFamily, data: Data) -> Runner:
        """Adam, in turn with which the contestant is timed, by the program of tuned Adam."""
        (hypers,) = (baseline.hypers for baseline in self.baselines if baseline.name == REFERENCE)
        # On an accelerator all runs of a program step together: there, both must have room for as many.
        like = hypers if self.layout.sequential else contestant.hypers
        return Runner(
            rule=contestant.reference,
            hypers=hypers,
            family=family,
            data=data,
            seed=self.seed,
            split=self.split,
            layout=self.layout,
            max_steps=self.horizon * LONG,
            capacity=capacity(like, self.num_seeds),
        )

    def _description(self, contestant: Contestant, family: TaskFamily, data: Data) -> dict[str, Any]:
        """Everything that decides an entry, as plain values."""
        return {
            "task": family.name,
            "data": arrays_sha(data),
            "optimizer": contestant.rule.describe(),
            "hypers": arrays_sha(contestant.hypers),
            "rates": [str(rate) for rate in contestant.rates],
            "settings": contestant.settings,
            "long": contestant.name == REFERENCE,
            "horizon": self.horizon,
            "num_seeds": self.num_seeds,
            "seed": self.seed,
            "split": self.split,
            "dtype": str(jnp.zeros(()).dtype),
            "platform": jax.default_backend(),
            "sequential": self.layout.sequential,
            "sources": sources([family, contestant.rule, contestant.reference, tuning]),
            "versions": {name: version for name, version in versions().items() if name != "lopt"},
        }


def _file_name(contestant: Contestant, family: TaskFamily) -> str:
    return f"{family.name}-{re.split('[:(]', contestant.rule.describe())[0]}"
