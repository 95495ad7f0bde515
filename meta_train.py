"""Meta-trains a learned optimizer.

python meta_train.py --workdir=runs/x
python meta_train.py --workdir=runs/lstm --optimizer=lstm --tasks=image_mlp/digits --horizon=100:500
python meta_train.py --workdir=runs/y --preset=mlp_digits --seed=1

Stopped by Ctrl-C, SIGTERM or --stop_after, it saves; the same command goes on where it stopped. In the workdir it
leaves metrics.jsonl, checkpoints/ and export/, which lopt.load and meta_eval.py read.
"""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from rich.console import Console
from rich.logging import RichHandler

from lopt.distributed import default_layout, num_cores
from lopt.meta_training.checkpoint import CheckpointError
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.loop import DivergedError, Run, train
from lopt.names import InputError, check_known
from lopt.optimizers import OPTIMIZERS
from presets import PRESETS
from tasks import parse_mixture

_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
for _field in dataclasses.fields(MetaTrainConfig):
    _DEFINE[type(_field.default)](_field.name, _field.default, _field.metadata["doc"])

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; made if absent, resumed if it holds this run")
_PRESET = flags.DEFINE_string(
    "preset", None, f"a complete setting by name, which other flags override; names: {', '.join(sorted(PRESETS))}"
)
_CHECKPOINT_EVERY = flags.DEFINE_integer("checkpoint_every", 100, "outer steps between checkpoints", lower_bound=1)
_STOP_AFTER = flags.DEFINE_integer("stop_after", None, "stop after this many outer steps of this call", lower_bound=1)
_DEVICES = flags.DEFINE_integer("devices", None, "devices that share the pairs; default: all that can", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where data sets are; default: TFDS_DATA_DIR, or TFDS's own")
_WANDB = flags.DEFINE_enum("wandb", "disabled", ["disabled", "offline", "online"], "log to Weights & Biases too")


def read_config() -> MetaTrainConfig:
    """The preset, or the defaults, with the flags that were given."""
    names = [field.name for field in dataclasses.fields(MetaTrainConfig)]
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].present}
    if _PRESET.value is None:
        return MetaTrainConfig(**given)
    check_known("preset", _PRESET.value, PRESETS)
    return dataclasses.replace(PRESETS[_PRESET.value], **given)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    if not _WORKDIR.value:
        raise InputError("give a folder for the run: --workdir=runs/NAME")
    config = read_config()
    tasks = parse_mixture(config.tasks, data_dir=_DATA_DIR.value, optimizers=OPTIMIZERS)

    jax.config.update("jax_num_cpu_devices", _DEVICES.value or num_cores())
    layout = default_layout(config.num_pairs, _DEVICES.value)
    training = config.build(tasks, layout)
    run = Run(
        workdir=Path(_WORKDIR.value),
        checkpoint_every=_CHECKPOINT_EVERY.value,
        stop_after=_STOP_AFTER.value,
        wandb=_WANDB.value,
        command=("python", *sys.argv),
    )
    outcome = train(training, config, run)

    done = f"step {outcome.step} of {config.outer_steps}"
    if outcome.finished:
        print(f"finished, {done}. The trained optimizer: {outcome.export}")
        print(f"compare it with Adam: python meta_eval.py --checkpoint={run.workdir}")
    else:
        print(f"stopped at {done}, saved. The same command goes on from there.")
    return 0 if outcome.signal is None else 128 + outcome.signal


def _main(argv: list[str]) -> int:
    terminal = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler = terminal if sys.stderr.isatty() else logging.StreamHandler()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells at length which accelerators are not there
    try:
        return main(argv)
    except InputError as error:
        print(f"meta_train: {error}", file=sys.stderr)
        return 2
    except (CheckpointError, DivergedError) as error:
        print(f"meta_train: {error}", file=sys.stderr)
        return 1


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"meta_train: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    app.run(_main, flags_parser=_parse_flags)
