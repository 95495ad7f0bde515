"""Meta-trains a learned optimizer.

python meta_train.py --workdir=runs/x
python meta_train.py --workdir=runs/lstm --optimizer=lstm --tasks=image_mlp/digits --horizon=100:500
python meta_train.py --workdir=runs/y --preset=mlp_digits --seed=1
python meta_train.py --workdir=runs/sweep --sweep=outer_learning_rate=1e-3,3e-3 --sweep=seed=0,1

Stopped by Ctrl-C, SIGTERM or --stop_after, it saves; the same command goes on where it stopped. The workdir then holds
metrics.jsonl, checkpoints/ and export/, which lopt.load and meta_eval.py read; with --valid_tasks=pool_valid also the
best theta, in export-best/. In Python: lopt.meta_train.
"""

from lopt import extras, interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds
    extras.end_without("meta_train", "absl", "filelock", "orbax", "platformdirs", "rich")

import dataclasses
import importlib
import logging
import os
import shlex
import sys
from typing import Any

import jax
from absl import app, flags
from rich.console import Console
from rich.logging import RichHandler

from lopt import cluster, processes
from lopt.checkout import module_name
from lopt.compile_cache import HELP, keep_programs
from lopt.distributed import num_cores
from lopt.meta_training.checkpoint import KEEP, CheckpointError
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.health import StuckError
from lopt.meta_training.run import Run, meta_train
from lopt.meta_training.sweep import Member, members, read_axes, run_sweep, table
from lopt.names import InputError, check_known
from lopt.own import foreign
from lopt.tracking import WANDB_MODES

PRESETS = importlib.import_module(module_name("lopt.presets")).PRESETS
_COMMAND = ("python", "-m", "lopt", "train")  # as it can be typed in a checkout and where lopt is installed
_FIELDS = dataclasses.fields(MetaTrainConfig)
_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
for _field in _FIELDS:
    _DEFINE[type(_field.default)](_field.name, _field.default, _field.metadata["doc"])

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; made if absent, resumed if it holds this run")
_PRESET = flags.DEFINE_string(
    "preset", None, f"a complete setting by name, which other flags override; names: {', '.join(sorted(PRESETS))}"
)
_CHECKPOINT_EVERY = flags.DEFINE_integer("checkpoint_every", 100, "outer steps between checkpoints", lower_bound=1)
_KEEP_CHECKPOINTS = flags.DEFINE_integer(
    "keep_checkpoints", KEEP, "how many of the latest checkpoints are kept; 0: all", lower_bound=0
)
_STOP_AFTER = flags.DEFINE_integer("stop_after", None, "stop after this many outer steps of this call", lower_bound=1)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "devices of a process that share the pairs; default: all that can", lower_bound=1
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where data sets are; default: TFDS_DATA_DIR, or TFDS's own")
_CACHE = flags.DEFINE_string(
    "cache", "runs/cache/evaluations", "folder in which the reference runs of a validation are kept; empty: none"
)
_COMPILE_CACHE = flags.DEFINE_string("compile_cache", None, HELP)
_SWEEP = flags.DEFINE_multi_string(
    "sweep", [], "NAME=VALUE,VALUE: a run for each value of a setting, in folders below workdir; several: all their "
    "combinations. Of a name given several times, each is one value, which may have commas"
)  # fmt: skip
_DISTRIBUTED = flags.DEFINE_flag(
    flags.Flag(flags.ArgumentParser(), flags.ArgumentSerializer(), "distributed", None, cluster.HELP, boolean=True)
)
_PEER_TIMEOUT = flags.DEFINE_integer("peer_timeout", cluster.TIMEOUT, cluster.TIMEOUT_HELP, lower_bound=1)
_WANDB = flags.DEFINE_enum("wandb", "disabled", WANDB_MODES, "log to Weights & Biases too")


def read_settings() -> dict[str, Any]:
    """Fields of `MetaTrainConfig`: the preset's, if there is one, and above them the flags that were given."""
    settings: dict[str, Any] = {}
    if _PRESET.value is not None:
        check_known("preset", _PRESET.value, PRESETS)
        settings = {field.name: getattr(PRESETS[_PRESET.value], field.name) for field in _FIELDS}
    return settings | {f.name: flags.FLAGS[f.name].value for f in _FIELDS if flags.FLAGS[f.name].present}


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    if not _WORKDIR.value:
        raise InputError("give a folder for the run: --workdir=runs/NAME")
    return (_sweep if _SWEEP.value else _train)(_WORKDIR.value)


def _set_up_jax() -> None:
    keep_programs(_COMPILE_CACHE.value)
    try:
        jax.config.update("jax_num_cpu_devices", _DEVICES.value or num_cores())
    except RuntimeError as error:
        raise InputError(
            "the code of your rule or estimator computes with JAX when it is imported, before the number of devices is "
            f"set: compute in functions, or with numpy ({error})"
        ) from error
    cluster.connect(_DISTRIBUTED.value, _PEER_TIMEOUT.value, "meta_train")


def _start(settings: dict[str, Any], workdir: str | os.PathLike, command: tuple[str, ...]) -> Run:
    return meta_train(
        **settings,
        workdir=workdir,
        checkpoint_every=_CHECKPOINT_EVERY.value,
        keep_checkpoints=_KEEP_CHECKPOINTS.value,
        stop_after=_STOP_AFTER.value,
        devices=_DEVICES.value,
        data_dir=_DATA_DIR.value,
        cache=_CACHE.value,
        wandb=_WANDB.value,
        command=command,
    )


def _train(workdir: str) -> int:
    settings = read_settings()
    MetaTrainConfig(**settings)  # refuses bad settings before JAX is set up
    _set_up_jax()
    run = _start(settings, workdir, (*_COMMAND, *sys.argv[1:]))
    done = f"step {run.step} of {run.outer_steps}"
    if not processes.is_first():
        pass
    elif run.finished:
        print(f"finished, {done}. The trained optimizer: {run.export}")
        print(f"compare it with Adam: {evaluation_command(run.workdir, settings)}")
    else:
        print(f"stopped at {done}, saved. The same command goes on from there.")
    cluster.part()
    return 0 if run.signal is None else 128 + run.signal


def evaluation_command(workdir: str | os.PathLike, settings: dict[str, Any]) -> str:
    """The command that evaluates a run. A person's own rule and tasks are named again: no card has code run."""
    texts = {name: str(settings.get(name, "")) for name in ("optimizer", "tasks")}
    own = [f"--{name}={text}" for name, text in texts.items() if foreign.names_code(text)]
    data_dir = [f"--data_dir={_DATA_DIR.value}"] if _DATA_DIR.value else []
    return shlex.join(["python", "-m", "lopt", "eval", f"--checkpoint={os.fspath(workdir)}", *own, *data_dir])


def _sweep(root: str) -> int:
    axes = read_axes(_SWEEP.value)
    for name in axes:
        if flags.FLAGS[name].present:
            raise InputError(f"{name} is given both as --{name} and in --sweep: leave one of them out")
    if _DISTRIBUTED.value not in (None, cluster.ALONE):
        raise InputError("a sweep runs in one process: start a command for each of its runs, with --distributed")
    sweep = members(root, axes, read_settings())
    _set_up_jax()

    def start(member: Member) -> Run:
        flags_of_run = {**member.settings, "workdir": member.folder}
        command = (*_COMMAND, *(f"--{name}={value}" for name, value in flags_of_run.items()))
        return _start(member.settings, member.folder, command)

    results, number = run_sweep(sweep, start)
    print(table(results))
    if number is not None:
        print(f"stopped at run {len(results)} of {len(sweep)}, saved. The same command goes on from there.")
        return 128 + number
    return 4 if any(result.failed for result in results) else 0


def _main(argv: list[str]) -> int:
    terminal = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler = terminal if sys.stderr.isatty() else logging.StreamHandler()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells at length which accelerators are not there
    status = _status(argv)
    return cluster.leave(status) if status else 0


def _status(argv: list[str]) -> int:
    try:
        return main(argv)
    except processes.ToldElsewhere:
        return 1
    except InputError as error:
        print(f"meta_train: {error}", file=sys.stderr)
        return 2
    except processes.PeerError as error:
        print(f"meta_train: {error}", file=sys.stderr)
        return cluster.LOST
    except (CheckpointError, OSError) as error:
        print(f"meta_train: {error}", file=sys.stderr)
        return 1
    except StuckError as error:
        print(f"meta_train: {error}. What {_WORKDIR.value} had saved before is intact.", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(
            "meta_train: stopped. What was saved before is intact; the same command goes on from there.",
            file=sys.stderr,
        )
        return 130


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:  # ValueError: --noNAME=VALUE
        print(f"meta_train: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    sys.exit(interrupts.run(lambda: app.run(_main, flags_parser=_parse_flags)))
