"""Compares a trained optimizer with Adam, tuned and not, and with itself before its meta-training.

python meta_eval.py --checkpoint=runs/x
python meta_eval.py --checkpoint=runs/x --tasks=image_mlp/digits --horizon=2000 --num_seeds=10
python meta_eval.py --checkpoint=demo_mlp --out=runs/demo

Trains every task with each of them, prints a table, and leaves curves.npz, scores.csv, summary.json and curves.png.
Adam is tuned over 15 learning rates from 1e-5 to 1 on seeds of their own. What the numbers mean: lopt/scores.py.
"""

import shlex
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from lopt.distributed import PairLayout, num_cores
from lopt.evaluate import MIN_HORIZON, Evaluation
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.outer import initial_theta
from lopt.plots import draw, to_png
from lopt.pretrained import Pretrained, load_pretrained, versions
from lopt.results import FILES, check_folder, write_results
from lopt.scores import LONG, score_task, table
from tasks import parse_tasks

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "what to evaluate: a run's folder, an export, or an optimizer that ships with lopt, by name"
)
_TASKS = flags.DEFINE_string(
    "tasks", None, "comma list of FAMILY/DATASET[:setting=value]...; default: the tasks it was trained on"
)
_HORIZON = flags.DEFINE_integer(
    "horizon", None, f"steps of a training, at least {MIN_HORIZON}; default: the longest of the meta-training"
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "seeds to evaluate on, and as many others to tune Adam on")
_SEED = flags.DEFINE_integer("seed", 0, "of everything random", lower_bound=0, upper_bound=2**32 - 1)
_OUT = flags.DEFINE_string(
    "out", None, "folder for the results; default: eval-HORIZON in the run's folder, or runs/eval-NAME"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results of another evaluation in that folder")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where data sets are; default: TFDS_DATA_DIR, or TFDS's own")
_DEVICES = flags.DEFINE_integer("devices", None, "devices that share the runs; default: all", lower_bound=1)


def default_folder(pretrained: Pretrained, checkpoint: str, horizon: int) -> Path:
    """In the run's own folder if that was named, else in ./runs."""
    if Path(checkpoint).resolve() == pretrained.path.parent:
        return Path(checkpoint, f"eval-{horizon}")
    path = pretrained.path
    return Path("runs", f"eval-{path.parent.name if path.name == 'export' else path.name}")


def layout() -> PairLayout:
    """All devices, or the asked number of them."""
    available = jax.device_count()
    if (_DEVICES.value or 1) > available:
        raise InputError(f"{_DEVICES.value} devices asked for, {available} there")
    return PairLayout(_DEVICES.value or available, sequential=jax.default_backend() == "cpu")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    if not _CHECKPOINT.value:
        raise InputError("say what to evaluate: --checkpoint=runs/NAME")
    jax.config.update("jax_num_cpu_devices", _DEVICES.value or num_cores())

    pretrained = load_pretrained(_CHECKPOINT.value)
    card = pretrained.card
    horizon = card["horizon"][1] if _HORIZON.value is None else _HORIZON.value
    evaluation = Evaluation(horizon, _NUM_SEEDS.value, _SEED.value, layout=layout())
    tasks = _TASKS.value or card.get("tasks")
    if not isinstance(tasks, str):
        raise InputError(f"{pretrained.path} does not say what it was trained on: give --tasks")
    families = parse_tasks(tasks, data_dir=_DATA_DIR.value, optimizers=OPTIMIZERS)
    configuration = {
        "optimizer": str(pretrained.optimizer),
        "theta_sha256": card["theta_sha256"],
        "tasks": [family.name for family in families],
        "horizon": horizon,
        "num_seeds": evaluation.num_seeds,
        "seed": evaluation.seed,
        "learning_rates": evaluation.learning_rates,
    }
    out = Path(_OUT.value) if _OUT.value else default_folder(pretrained, _CHECKPOINT.value, horizon)
    check_folder(out, configuration, overwrite=_OVERWRITE.value)
    data = {family: jax.tree.map(jnp.asarray, family.load()) for family in families}

    steps = (evaluation.num_runs + LONG * evaluation.num_seeds) * horizon
    print(
        f"tasks: {len(families)}; for each, {evaluation.num_runs} runs of {horizon:,} steps and "
        f"{evaluation.num_seeds} of {LONG * horizon:,}; {len(families) * steps:,} steps in all; "
        f"devices: {evaluation.layout.num_devices}",
        flush=True,
    )
    untrained = initial_theta(pretrained.optimizer, card.get("seed") or 0)
    curves, scores = {}, {}
    for family in families:
        started = time.monotonic()
        print(f"{family.name} ...", end=" ", flush=True)
        curves[family.name] = evaluation.task_curves(
            pretrained.optimizer, pretrained.theta, untrained, family, data[family]
        )
        scores[family.name] = score_task(curves[family.name])
        print(f"{time.monotonic() - started:.1f} s", flush=True)
    about = {
        "checkpoint": str(pretrained.path),
        "command": shlex.join(["python", *sys.argv]),
        "versions": versions(),
    }
    write_results(out, curves, scores, to_png(draw(curves, scores)), configuration=configuration, about=about)

    for name in curves:
        print(f"\n{table(name, curves[name], scores[name])}")
    print(f"\n{', '.join(FILES)} in {out}")
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
