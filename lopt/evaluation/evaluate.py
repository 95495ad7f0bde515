"""The front door: one call compares a trained optimizer with tuned baselines. `meta_eval.py` is its command."""

import datetime
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.evaluation.affordable import check_affordable
from lopt.evaluation.baselines import DEFAULT, Baseline, parse_baselines
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.contestants import as_pretrained, contestants
from lopt.evaluation.folder import check_folder, keep_so_far
from lopt.evaluation.plan import make_plan
from lopt.evaluation.protocol import Evaluation
from lopt.evaluation.report import Report
from lopt.evaluation.results import TaskResult
from lopt.evaluation.runs import forget_programs
from lopt.evaluation.scores import score_task
from lopt.evaluation.summary import summarize
from lopt.evaluation.sweeps import Point, horizon_points, run_sweep
from lopt.extras import need
from lopt.names import InputError, check_known, split_list
from lopt.own import foreign
from lopt.pool import read_mixture, sweep_axes, task_variants
from lopt.trained.pretrained import Pretrained, beyond_horizon
from lopt.types import TaskFamily, TaskMixture
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
      learned: other learned optimizers to compare with: a comma list, or items as for `trained`.
      sweep: axes along which every task is varied too: `horizon` and those of `lopt.pool.sweep_axes`.
      cache: folder that runs are kept in and reused from; None for none.
      devices: number of devices that share the runs; None for all.
      data_dir: folder of the data sets; None for the default.
      out: folder that `Report.write` will be given: it is checked before the first training, and after every task the
        runs so far are kept in it.
      overwrite: whether that folder may hold the results of another evaluation.
      about: what the report says about its origin, such as `command`.
      say: is told of the progress, line by line; None for silence.

    Returns:
      The results, with everything that is said about them: prints and draws itself, and writes its files.

    Raises:
      InputError: something that was given cannot be used; the message says what, and what to do.
    """
    need("lopt.evaluate", "scipy")
    say = say or (lambda line: None)
    pretrained = as_pretrained(trained)
    others = [as_pretrained(other) for other in (split_list(learned) if isinstance(learned, str) else learned)]
    evaluation = Evaluation(
        _horizon(pretrained, horizon),
        num_seeds,
        seed,
        split=split,
        baselines=parse_baselines(baselines),
        layout=_layout(devices),
        cache=EvaluationCache(Path(cache)) if cache else None,
    )
    families = read_mixture(_tasks(trained, pretrained, tasks), data_dir).families
    axes = split_list(sweep) if isinstance(sweep, str) else list(sweep)
    stops = _stops(axes, evaluation, families, data_dir)
    taking_part = contestants(pretrained, evaluation.baselines, others)
    configuration = _configuration(pretrained, families, evaluation, others, axes)
    points = [evaluation for stop in stops.values() for evaluation, _ in stop.values()]
    folders = [Path(folder) for folder in (out, cache) if folder]
    check_affordable(evaluation, taking_part, len(families), points, folders)
    if evaluation.cache is not None:
        evaluation.cache.check()
    data = {family: jax.tree.map(jnp.asarray, family.load()) for family in families}
    for family in families:
        evaluation.check_split(family, data[family])
    if out is not None:
        check_folder(Path(out), configuration, overwrite=overwrite)  # last, as it makes the folder

    warnings = [text for each in (pretrained, *others) if (text := beyond_horizon(each, evaluation.horizon))]
    for warning in warnings:
        say(f"warning: {warning}")
    plan = make_plan(evaluation, taking_part, data)
    say(plan.describe())
    if stops:
        say(f"and {sum(map(len, stops.values()))} points of sweeps, each about as long as a task")
    results = plan.run(say, warnings, _keeper(out, say))
    scores = {name: score_task(result) for name, result in results.items()}
    sweeps = [run_sweep(axis, family.name, stop, taking_part, say) for (axis, family), stop in stops.items()]
    origin = _origin(pretrained, configuration, evaluation.layout) | dict(about or {})
    return Report(results, scores, summarize(results, scores, origin, sweeps), configuration)


def _horizon(pretrained: Pretrained, horizon: int | None) -> int:
    if horizon is None and "horizon" not in pretrained.card:
        raise InputError(f"{pretrained.name} does not say how long it was trained for: give a horizon")
    return pretrained.card["horizon"][1] if horizon is None else horizon


def _tasks(trained: Any, pretrained: Pretrained, given: Any) -> Any:
    """The tasks that were given, or those that a run has at hand, or those that the card names."""
    given = getattr(trained, "tasks", None) if given is None else given
    if given is not None:
        return given
    tasks = pretrained.card.get("tasks")
    if tasks is None:
        raise InputError(f"{pretrained.path} does not say what it was trained on: give tasks, or --tasks")
    if foreign.names_code(tasks):
        raise InputError(
            f"{pretrained.name} was trained on {tasks}, which is not all part of lopt, and no code is run because "
            "a file names it: give the tasks yourself, as objects or --tasks=FILE.py:CLASS"
        )
    return tasks


def _keeper(out: str | os.PathLike | None, say: Callable[[str], None]) -> Callable[[Mapping[str, TaskResult]], None]:
    """What is done after every task: the runs so far are written, and programs that are done with are dropped."""

    def keep(results: Mapping[str, TaskResult]) -> None:
        forget_programs()
        if out is not None:
            try:
                keep_so_far(Path(out), results)
            except OSError as error:
                say(f"warning: the runs so far cannot be kept: {error}")

    return keep


def _layout(devices: int | None) -> PairLayout:
    available = jax.device_count()
    devices = available if devices is None else devices
    if not 1 <= devices <= available:
        raise InputError(f"{devices} devices asked for, {available} there")
    return PairLayout(devices, sequential=jax.default_backend() == "cpu")


def _stops(
    axes: Iterable[str], evaluation: Evaluation, families: Iterable[TaskFamily], data_dir: str | None
) -> dict[tuple[str, TaskFamily], dict[str, Point]]:
    """Where the sweep of each task along each axis stops."""
    stops = {}
    for axis in axes:
        check_known("axis of a sweep", axis, ["horizon", *sweep_axes()])
        for family in families:
            if axis == "horizon":
                stops[axis, family] = horizon_points(evaluation, family)
            else:
                found = task_variants(family, axis, data_dir)
                stops[axis, family] = {label: (evaluation, variant) for label, variant in found.items()}
    return stops


def _configuration(
    pretrained: Pretrained,
    families: Iterable[TaskFamily],
    evaluation: Evaluation,
    others: Iterable[Pretrained],
    axes: list[str],
) -> dict[str, Any]:
    """Everything that decides the numbers, as plain values: results with an equal one may be replaced."""
    return {
        "optimizer": str(pretrained.optimizer),
        "theta_sha256": pretrained.card["theta_sha256"],
        "tasks": [family.name for family in families],
        "horizon": evaluation.horizon,
        "num_seeds": evaluation.num_seeds,
        "seed": evaluation.seed,
        "split": evaluation.split,
        "baselines": {baseline.name: baseline.rates for baseline in evaluation.baselines},
        "learned": {other.name: other.card["theta_sha256"] for other in others},
        "sweep": axes,
    }


def _origin(pretrained: Pretrained, configuration: Mapping[str, Any], layout: PairLayout) -> dict[str, Any]:
    """Where the numbers come from, for the report."""
    return {
        "title": f"{pretrained.name} after {configuration['horizon']:,} steps",
        "optimizer": configuration["optimizer"],
        "checkpoint": str(pretrained.path),
        "theta_sha256": configuration["theta_sha256"],
        "created": datetime.date.today().isoformat(),
        "versions": versions(),
        "hardware": f"{layout.num_devices} x {jax.devices()[0].device_kind}",
        "setting": {name: configuration[name] for name in ("horizon", "num_seeds", "seed", "split")},
    }
