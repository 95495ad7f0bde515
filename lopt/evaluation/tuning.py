"""All runs of one optimizer on one task: it is tuned on tuning seeds, and its best trials run on the evaluation seeds.

Which trial is best is decided here, once; the entry keeps the decision.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lopt.distributed import PairLayout
from lopt.evaluation.measures import LONG, MEASURES, VALID_POINTS, best_trial
from lopt.evaluation.results import Curves, Entry
from lopt.evaluation.runs import Rule, Runner, flops_per_step
from lopt.types import Data, PyTree, TaskFamily


def make_entry(
    rule: Rule,
    hypers: PyTree,
    rates: Sequence[float],
    clock: Runner,
    family: TaskFamily,
    data: Data,
    *,
    horizon: int,
    num_seeds: int,
    seed: int,
    split: str,
    layout: PairLayout,
    long: bool,
    max_steps: int,
    settings: Sequence[str] | None = None,
    flops: float | None = None,
    label: str = "",
    kind: str = "untuned",
) -> Entry:
    """Tunes an optimizer on `num_seeds` seeds, and runs the trial that is best by each measure on as many others.

    Args:
      rule: the optimizer of the runs.
      hypers: what the runs may differ in, stacked: learning rates `[G]`, a dict of settings `[G]` each, or theta with a
        leading axis of 1.
      rates: the learning rates of the trials, `[G]`; a single one for what is not tuned: all runs use `hypers[0]`.
      clock: makes runs of Adam; its steps are timed in turn with those of this optimizer.
      family: the task.
      data: what `family.load` returned.
      horizon: T, the steps of a training.
      num_seeds: S; seeds 0 to S - 1 evaluate, and seeds S to 2 S - 1 tune.
      seed: a run with the run seed i has the key fold_in(key(seed), i).
      split: the split that the trained parameters are judged on.
      layout: how the runs are spread over devices.
      long: whether the trial of the lowest final loss also runs for `LONG` horizons.
      max_steps: steps that the compiled program has room for, at least those of the longest run.
      settings: what else differs between the trials, in words, `[G]`.
      flops: `flops_per_step`, where it is known already.
      label: the name that people read.
      kind: one of `results.KINDS`.
    """
    num_rates = len(rates)
    runner = Runner(
        rule=rule,
        hypers=hypers,
        family=family,
        data=data,
        seed=seed,
        split=split,
        layout=layout,
        max_steps=max_steps,
        capacity=capacity(hypers, num_seeds),
    )
    seeds = np.arange(num_seeds)
    if num_rates > 1:
        runs = runner(_product(range(num_rates), num_seeds + seeds), horizon)
        tuning = Curves(*(x.reshape(num_rates, num_seeds, *x.shape[1:]) for x in runs))
        best = {measure: best_trial(tuning, measure) for measure in MEASURES}
    else:
        tuning, best = None, dict.fromkeys(MEASURES, 0)
    indices = sorted(set(best.values()))
    runs = runner(_product(indices, seeds), horizon, num_points=VALID_POINTS)
    groups = {index: Curves(*(x[i * num_seeds :][:num_seeds] for x in runs)) for i, index in enumerate(indices)}
    return Entry(
        label=label,
        kind=kind,
        rates=np.asarray(rates),
        settings=np.array(settings or [""] * num_rates),
        tuning=Curves(*(x[None][:0] for x in groups[0])) if tuning is None else tuning,
        best=best,
        chosen={measure: groups[index] for measure, index in best.items()},
        long=runner(_product([best["final_loss"]], seeds), LONG * horizon) if long else None,
        flops_per_step=flops or flops_per_step(rule, hypers, family, data),
        step_seconds=runner.step_seconds(clock),
    )


def capacity(hypers: PyTree, num_seeds: int) -> int:
    """The most runs that an entry makes at a time."""
    number = len(jax.tree.leaves(hypers)[0])
    return num_seeds * (1 if number == 1 else max(number, len(MEASURES)))


def _product(hypers: Any, seeds: np.ndarray) -> np.ndarray:
    """All (hyper, seed), the seeds running fastest: `[2, num_hypers * num_seeds]`."""
    return np.stack([x.ravel() for x in np.meshgrid(hypers, seeds, indexing="ij")])
