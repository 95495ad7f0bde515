"""The runs of an evaluation: which are in the cache, about how long the others take, and making them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lopt.evaluation.baselines import REFERENCE
from lopt.evaluation.contestants import Contestant
from lopt.evaluation.measures import LONG, MEASURES
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.results import Entry, TaskResult
from lopt.evaluation.runs import flops_per_step
from lopt.types import Data, TaskFamily

# Rough figures: seconds to compile a program; seconds per step of one run, and operations per second, on a CPU core;
# seconds per step on an accelerator, which makes that step for all runs at once.
COMPILE_SECONDS, STEP_SECONDS, CORE_FLOPS, DEVICE_STEP_SECONDS = 3.0, 2e-5, 1.5e10, 1e-3


class Plan(NamedTuple):
    """What there is to run.

    Attributes:
      evaluation: the protocol.
      contestants: who takes part.
      data: what `load` returned, by family.
      cached: entries that need no runs, by (name of the task, name of the contestant).
      flops: operations per step of the entries that are to be made, by the same.
    """

    evaluation: Evaluation
    contestants: Sequence[Contestant]
    data: Mapping[TaskFamily, Data]
    cached: dict[tuple[str, str], Entry]
    flops: dict[tuple[str, str], float]

    def describe(self) -> str:
        """How much there is to do, and about how long it takes."""
        devices = self.evaluation.layout.num_devices
        steps = sum(num_steps(self.evaluation, x) for x in self._to_run())
        text = f"tasks: {len(self.data)}; optimizers: {len(self.contestants)}; devices: {devices}; "
        if self.cached:
            text += f"of {len(self.cached) + len(self.flops)} entries {len(self.cached)} are in the cache; "
        return text + f"training steps to make: {steps:,}, about {duration(self.estimated_seconds())}"

    def estimated_seconds(self) -> float:
        """About how long the runs will take."""
        names = {contestant.name: contestant for contestant in self.contestants}
        return sum(_seconds(self.evaluation, names[name], flops) for (_, name), flops in self.flops.items())

    def run(
        self,
        say: Callable[[str], None],
        warnings: Sequence[str] = (),
        keep: Callable[[Mapping[str, TaskResult]], None] = lambda results: None,
    ) -> dict[str, TaskResult]:
        """Makes the runs, task by task. Returns the results by the task's name.

        Args:
          say: is told of every entry.
          warnings: what was known before the runs; every task's result gets them.
          keep: is given the results so far after every task.
        """
        results = {}
        for family, data in self.data.items():
            entries = {}
            for contestant in self.contestants:
                key, began = (family.name, contestant.name), time.monotonic()
                entry = self.cached.get(key)
                took = "from the cache"
                if entry is None:
                    entry = self.evaluation.run(contestant, family, data, self.flops[key])
                    took = duration(time.monotonic() - began)
                entries[contestant.name] = entry
                say(f"  {family.name}, {contestant.label}: {took}")
            results[family.name] = self.evaluation.result(family, entries, warnings)
            keep(results)
        return results

    def _to_run(self) -> list[Contestant]:
        names = {contestant.name: contestant for contestant in self.contestants}
        return [names[name] for _, name in self.flops]


def make_plan(evaluation: Evaluation, contestants: Sequence[Contestant], data: Mapping[TaskFamily, Data]) -> Plan:
    """Looks up which entries are in the cache, and counts the operations of the others."""
    cached, flops = {}, {}
    for family, arrays in data.items():
        known = {}  # by rule, which contestants may share
        for contestant in contestants:
            key = family.name, contestant.name
            entry = evaluation.cached(contestant, family, arrays)
            if entry is not None:
                cached[key] = entry
                continue
            if contestant.rule not in known:
                known[contestant.rule] = flops_per_step(contestant.rule, contestant.hypers, family, arrays)
            flops[key] = known[contestant.rule]
    return Plan(evaluation, contestants, data, cached, flops)


def num_steps(evaluation: Evaluation, contestant: Contestant) -> int:
    """Training steps of one contestant on one task, at most."""
    return _lengths(contestant) * evaluation.num_seeds * evaluation.horizon


def duration(seconds: float) -> str:
    """A time as people write it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _lengths(contestant: Contestant) -> int:
    """Horizons per seed, at most: one per trial, one for the best by each measure, and four more for the long run."""
    trials = len(contestant.rates)
    best = min(trials, len(MEASURES))
    return (trials + best if trials > 1 else 1) + (LONG if contestant.name == REFERENCE else 0)


def _seconds(evaluation: Evaluation, contestant: Contestant, flops: float) -> float:
    if not evaluation.layout.sequential:
        calls = (2 if len(contestant.rates) > 1 else 1) + (LONG if contestant.name == REFERENCE else 0)
        return COMPILE_SECONDS + calls * evaluation.horizon * DEVICE_STEP_SECONDS
    step = STEP_SECONDS + (flops if math.isfinite(flops) else 0) / CORE_FLOPS
    return COMPILE_SECONDS + num_steps(evaluation, contestant) * step / evaluation.layout.num_devices
