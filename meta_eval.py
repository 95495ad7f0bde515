"""Compares a trained optimizer with tuned baselines, with Adam untuned, and with itself before its meta-training.

python meta_eval.py --checkpoint=runs/x
python meta_eval.py --checkpoint=runs/x --tasks=image_mlp/digits --horizon=2000 --num_seeds=10
python meta_eval.py --checkpoint=demo_mlp --baselines=all --learned=demo_lstm --out=runs/demo

Trains every task with each of them, prints a table, and leaves curves.npz, scores.csv, summary.json, pictures and a
report. Baselines are tuned over 15 learning rates on seeds of their own. Runs are kept in --cache and reused while what
decides them is the same. What the numbers mean: docs/evaluation.md.
"""

import datetime
import functools
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from lopt.distributed import PairLayout, num_cores
from lopt.evaluation.baselines import BASELINES, DEFAULT, parse_baselines
from lopt.evaluation.cache import EvaluationCache
from lopt.evaluation.contestants import horizon_warnings, other_contestants
from lopt.evaluation.curve_plots import draw
from lopt.evaluation.evaluation import MIN_HORIZON, Evaluation
from lopt.evaluation.folder import AGGREGATE, PICTURE, check_folder, track_results, write_results
from lopt.evaluation.plan import make_plan
from lopt.evaluation.score_plots import draw_aggregate, draw_sweep
from lopt.evaluation.scores import score_task
from lopt.evaluation.summary import summarize, table
from lopt.evaluation.sweeps import Point, horizon_points, run_sweep
from lopt.figures import to_png
from lopt.names import InputError, check_known, split_list
from lopt.optimizers import OPTIMIZERS
from lopt.seeds import initial_theta
from lopt.tracking import WANDB_MODES
from lopt.trained.pretrained import Pretrained, load_pretrained
from lopt.types import TaskFamily
from lopt.version import versions
from tasks import parse_tasks
from tasks.sweeps import AXES, variants

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "what to evaluate: a run's folder, an export, or an optimizer that ships with lopt, by name"
)
_TASKS = flags.DEFINE_string(
    "tasks", None, "comma list of FAMILY/DATASET[:setting=value]...; default: the tasks it was trained on"
)
_BASELINES = flags.DEFINE_string(
    "baselines", DEFAULT, f"comma list of {', '.join(BASELINES)}; or all. Adam at a constant rate is always there"
)
_LEARNED = flags.DEFINE_string("learned", "", "comma list of other learned optimizers, as for --checkpoint")
_SWEEP = flags.DEFINE_string(
    "sweep", "", f"comma list of axes along which every task is varied too: horizon, {', '.join(AXES)}"
)
_HORIZON = flags.DEFINE_integer(
    "horizon", None, f"steps of a training, at least {MIN_HORIZON}; default: the longest of the meta-training"
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "seeds to evaluate on, and as many others to tune on")
_SEED = flags.DEFINE_integer("seed", 0, "of everything random", lower_bound=0, upper_bound=2**32 - 1)
_SPLIT = flags.DEFINE_enum("split", "valid", ("valid", "test"), "what trained parameters are judged on")
_OUT = flags.DEFINE_string(
    "out", None, "folder for the results; default: eval-HORIZON in the run's folder, or runs/eval-NAME"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results of another evaluation in that folder")
_CACHE = flags.DEFINE_string("cache", "runs/cache/evaluations", "folder that runs are kept in; empty: none")
_WANDB = flags.DEFINE_enum("wandb", "disabled", WANDB_MODES, "send scores and pictures to Weights & Biases too")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where data sets are; default: TFDS_DATA_DIR, or TFDS's own")
_DEVICES = flags.DEFINE_integer("devices", None, "devices that share the runs; default: all", lower_bound=1)


def default_folder(pretrained: Pretrained, checkpoint: str, horizon: int) -> Path:
    """In the run's own folder if that was named, else in ./runs."""
    if Path(checkpoint).resolve() == pretrained.path.parent:
        return Path(checkpoint, f"eval-{horizon}")
    return Path("runs", f"eval-{pretrained.name}")


def layout() -> PairLayout:
    """All devices, or the asked number of them."""
    available = jax.device_count()
    if (_DEVICES.value or 1) > available:
        raise InputError(f"{_DEVICES.value} devices asked for, {available} there")
    return PairLayout(_DEVICES.value or available, sequential=jax.default_backend() == "cpu")


def points(axis: str, evaluation: Evaluation, family: TaskFamily) -> dict[str, Point]:
    """Where a sweep of one task stops."""
    if axis == "horizon":
        return horizon_points(evaluation, family)
    return {label: (evaluation, found) for label, found in variants(family, axis, data_dir=_DATA_DIR.value).items()}


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    if not _CHECKPOINT.value:
        raise InputError("say what to evaluate: --checkpoint=runs/NAME")
    jax.config.update("jax_num_cpu_devices", _DEVICES.value or num_cores())

    pretrained = load_pretrained(_CHECKPOINT.value)
    others = [load_pretrained(path) for path in split_list(_LEARNED.value)]
    card = pretrained.card
    horizon = card["horizon"][1] if _HORIZON.value is None else _HORIZON.value
    evaluation = Evaluation(
        horizon,
        _NUM_SEEDS.value,
        _SEED.value,
        split=_SPLIT.value,
        baselines=parse_baselines(_BASELINES.value),
        layout=layout(),
        cache=EvaluationCache(Path(_CACHE.value)) if _CACHE.value else None,
    )
    tasks = card.get("tasks") if _TASKS.value is None else _TASKS.value
    if not isinstance(tasks, str):
        raise InputError(f"{pretrained.path} does not say what it was trained on: give --tasks")
    families = parse_tasks(tasks, data_dir=_DATA_DIR.value, optimizers=OPTIMIZERS)
    axes = split_list(_SWEEP.value)
    for axis in axes:
        check_known("axis of a sweep", axis, ["horizon", *AXES])
    stops = {(axis, family): points(axis, evaluation, family) for axis in axes for family in families}
    untrained = initial_theta(pretrained.optimizer, card.get("seed") or 0)
    contestants = evaluation.contestants(pretrained.optimizer, pretrained.theta, untrained, other_contestants(others))
    named = {"the learned optimizer": pretrained, **{other.name: other for other in others}}
    warnings = horizon_warnings(named, horizon)
    configuration = {
        "optimizer": str(pretrained.optimizer),
        "theta_sha256": card["theta_sha256"],
        "tasks": [family.name for family in families],
        "horizon": horizon,
        "num_seeds": evaluation.num_seeds,
        "seed": evaluation.seed,
        "split": evaluation.split,
        "baselines": {baseline.name: baseline.rates for baseline in evaluation.baselines},
        "learned": {other.name: other.card["theta_sha256"] for other in others},
        "sweep": axes,
    }
    out = Path(_OUT.value) if _OUT.value else default_folder(pretrained, _CHECKPOINT.value, horizon)
    check_folder(out, configuration, overwrite=_OVERWRITE.value)
    data = {family: jax.tree.map(jnp.asarray, family.load()) for family in families}
    for family in families:
        evaluation.check_split(family, data[family])

    for warning in warnings:
        print(f"warning: {warning}", flush=True)
    plan = make_plan(evaluation, contestants, data)
    print(plan.describe(), flush=True)
    if stops:
        print(f"and {sum(map(len, stops.values()))} points of sweeps, each about as long as a task", flush=True)
    say = functools.partial(print, flush=True)
    results = plan.run(say, warnings)
    scores = {name: score_task(result) for name, result in results.items()}
    sweeps = [run_sweep(axis, family.name, stop, contestants, say) for (axis, family), stop in stops.items()]
    about = {
        "title": f"{pretrained.name} after {horizon:,} steps",
        "optimizer": str(pretrained.optimizer),
        "checkpoint": _CHECKPOINT.value,
        "theta_sha256": card["theta_sha256"],
        "command": shlex.join(["python", *sys.argv]),
        "created": datetime.date.today().isoformat(),
        "versions": versions(),
        "hardware": f"{evaluation.layout.num_devices} x {jax.devices()[0].device_kind}",
        "setting": {name: configuration[name] for name in ("horizon", "num_seeds", "seed", "split")},
    }
    content = summarize(results, scores, about, sweeps)
    pictures = {PICTURE: to_png(draw(results))}
    if content["aggregate"]:
        pictures[AGGREGATE] = to_png(draw_aggregate(content))
    for i, sweep in enumerate(content["sweeps"]):
        pictures[f"sweep_{i}_{sweep['axis']}.png"] = to_png(draw_sweep(sweep, content["optimizers"]))
    files = write_results(out, results, content, configuration=configuration, pictures=pictures)
    track_results(out, content, _WANDB.value)

    for name, result in results.items():
        print(f"\n{table(name, result, scores[name])}")
    print(f"\n{content['headline']}\n{', '.join(files)} in {out}")
    return 0


def _main(argv: list[str]) -> int:
    try:
        return main(argv)
    except InputError as error:
        print(f"meta_eval: {error}", file=sys.stderr)
        return 2


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"meta_eval: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(_main, flags_parser=_parse_flags)
