"""The front door: one call compares a trained optimizer with tuned baselines. `meta_eval.py` is its command."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopt import processes
from lopt.evaluation.affordable import check_affordable
from lopt.evaluation.baselines import DEFAULT, Baseline, parse_baselines
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.contestants import Contestant, as_pretrained
from lopt.evaluation.folder import keep_so_far, open_folder
from lopt.evaluation.plan import make_plan
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.report import Report
from lopt.evaluation.request import (
    PROTOCOL,
    Request,
    read_horizon,
    read_layout,
    read_protocol,
    read_stops,
    read_tasks,
)
from lopt.evaluation.results import TaskResult
from lopt.evaluation.runs import forget_programs
from lopt.evaluation.scores import score_task
from lopt.evaluation.summary import summarize
from lopt.evaluation.sweeps import run_sweep
from lopt.evaluation.untuned import untuned_contestants
from lopt.extras import need
from lopt.names import split_list
from lopt.trained.pretrained import beyond_horizon
from lopt.types import Data, TaskFamily, TaskMixture
from lopt.version import versions

_SAY = functools.partial(print, flush=True)


def evaluate(
    trained: Any,
    tasks: str | TaskFamily | TaskMixture | Sequence[str | TaskFamily] | None = None,
    *,
    horizon: int | None = None,
    num_seeds: int = 5,
    seed: int = 0,
    split: str = "valid",
    baselines: str | Iterable[str | Baseline] = DEFAULT,
    protocol: str = PROTOCOL,
    learned: str | Iterable[Any] = (),
    sweep: str | Iterable[str] = (),
    cache: str | os.PathLike | None = None,
    devices: int | None = None,
    data_dir: str | None = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = _SAY,
) -> Report:
    """Trains every task with a trained optimizer, with tuned baselines, with untuned Adam and with the untrained rule.

    All that can be refused is refused before the first training. What the numbers mean: docs/evaluation.md.

    Args:
      trained: a name or path as for `load_pretrained`, its result, that of a meta-training, or (optimizer, theta).
      tasks: text as for `--tasks`, a family, or a sequence of them; None for the tasks it was meta-trained on.
      horizon: steps of a training; None for the longest of the meta-training.
      num_seeds: number of seeds to evaluate on, and of others to tune on.
      seed: decides everything random.
      split: `valid` or `test`, the split that trained parameters are judged on.
      baselines: a comma list of names, `all`, or names and `Baseline`s. Adam at a constant rate is always there.
      protocol: `tuned`, each baseline at the best of its settings on each task; or `both`, which also has each at one
        setting for all tasks, the best on `pool_valid`; `both:TASKS` chooses it on other tasks.
      learned: other learned optimizers to compare with: a comma list, or items as for `trained`. One of your own rule
        is written with it, "runs/mine@my_rules.py:MyRule:width=8", whose code is run.
      sweep: axes along which every task is varied too: those of `sweeps.axes`.
      cache: folder that runs are kept in and reused from; None for none.
      devices: number of devices of a process that share the runs; None for all.
      data_dir: folder of the data sets; None for the default.
      out: folder that `Report.write` will be given: it is checked before the first training, and after every task the
        runs so far are kept in it. Other evaluations are kept out of it until this one ends; with the folder's
        `FolderLock`, until that ends.
      overwrite: whether that folder may hold the results of another evaluation.
      about: what the report says about its origin, such as `command`.
      say: is told of the progress, line by line; None for silence.

    Returns:
      The results, with everything that is said about them: prints and draws itself, and writes its files.

    Raises:
      InputError: something that was given cannot be used; the message says what, and what to do.
    """
    need("lopt.evaluate", "scipy")
    say = say if say and processes.is_first() else lambda line: None
    pretrained = as_pretrained(trained)
    evaluation = Evaluation(
        read_horizon(pretrained, horizon),
        num_seeds,
        seed,
        split=split,
        baselines=parse_baselines(baselines),
        layout=read_layout(devices),
        cache=EvaluationCache(Path(cache)) if cache else None,
    )
    families = read_tasks(trained, pretrained, tasks, data_dir)
    axes = split_list(sweep) if isinstance(sweep, str) else list(sweep)
    request = Request(
        pretrained,
        [as_pretrained(other) for other in (split_list(learned) if isinstance(learned, str) else learned)],
        evaluation,
        families,
        read_protocol(protocol, families, data_dir),
        axes,
        read_stops(axes, evaluation, families, data_dir),
    )
    data, pool_data = _checked_data(request, [Path(folder) for folder in (out, cache) if folder])
    with contextlib.ExitStack() as stack:
        if out is not None:
            opened = open_folder(out, request.configuration(), overwrite=overwrite)
            # Last, as it makes the folder.
            processes.first_does(lambda: stack.enter_context(opened))
        return _run(request, data, pool_data, out, say, dict(about or {}))


def _checked_data(
    request: Request, folders: Sequence[Path]
) -> tuple[Mapping[TaskFamily, Data], Mapping[TaskFamily, Data]]:
    """The data of the tasks and of the pool. Raises InputError where the evaluation cannot be done."""
    evaluation = request.evaluation
    # The pool keeps no runs of learned optimizers, so this is a little more than it takes.
    num_tasks = len(request.families) + len(request.pool)
    check_affordable(evaluation, request.contestants, num_tasks, request.points, folders)
    if evaluation.cache is not None:
        evaluation.cache.check()
    data = processes.all_do(request.load)
    if processes.number() > 1:
        settings = json.dumps(request.configuration(), default=str)
        arrays = [list(each.values()) for each in data]
        processes.check_same({"settings": settings, "versions": json.dumps(versions()), "data": arrays})
    return data


def _run(
    request: Request,
    data: Mapping[TaskFamily, Data],
    pool_data: Mapping[TaskFamily, Data],
    out: str | os.PathLike | None,
    say: Callable[[str], None],
    about: Mapping[str, Any],
) -> Report:
    """Makes all runs, and says what they show."""
    horizon = request.evaluation.horizon
    warnings = [text for each in (request.pretrained, *request.others) if (text := beyond_horizon(each, horizon))]
    for warning in warnings:
        say(f"warning: {warning}")
    taking_part = [*request.contestants, *_untuned(request, pool_data, say)]
    plan = make_plan(request.evaluation, taking_part, data)
    say(plan.describe())
    if request.stops:
        say(f"and {sum(map(len, request.stops.values()))} points of sweeps, each about as long as a task")
    results = plan.run(say, warnings, _keeper(out, say))
    scores = {name: score_task(result) for name, result in results.items()}
    sweeps = [
        run_sweep(axis, family.name, stop, request.contestants, say) for (axis, family), stop in request.stops.items()
    ]
    content = summarize(results, scores, request.origin() | dict(about), sweeps)
    return Report(results, scores, content, request.configuration())


def _untuned(request: Request, data: Mapping[TaskFamily, Data], say: Callable[[str], None]) -> list[Contestant]:
    """The baselines at the setting that is best on the pool; none where that was not asked for."""
    if not data:
        return []
    plan = make_plan(request.evaluation, request.tuned, data)
    say(f"to choose one setting per baseline: {plan.describe()}")
    found = untuned_contestants(request.evaluation.baselines, plan.run(say, keep=lambda results: forget_programs()))
    for contestant in found:
        say(f"  {contestant.label}")
    return found


def _keeper(out: str | os.PathLike | None, say: Callable[[str], None]) -> Callable[[Mapping[str, TaskResult]], None]:
    """What is done after every task: the runs so far are written, and programs that are done with are dropped."""

    def keep(results: Mapping[str, TaskResult]) -> None:
        forget_programs()
        if out is not None and processes.is_first():
            try:
                keep_so_far(Path(out), results)
            except OSError as error:
                say(f"warning: the runs so far cannot be kept: {error}")

    return keep
