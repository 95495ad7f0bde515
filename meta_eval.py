"""Compares a trained optimizer with tuned baselines, with Adam untuned, and with itself before its meta-training.

python meta_eval.py --checkpoint=runs/x
python meta_eval.py --checkpoint=runs/x --tasks=image_mlp/digits --horizon=2000 --num_seeds=10
python meta_eval.py --checkpoint=demo_mlp --baselines=all --learned=demo_lstm --out=runs/demo

Trains every task with each of them, prints a table, and leaves curves.npz, scores.csv, summary.json, pictures and a
report. Baselines are tuned over 15 learning rates on seeds of their own. Runs are kept in --cache and reused while what
decides them is the same. What the numbers mean: docs/evaluation.md. In Python: lopt.evaluate.
"""

from lopt import extras, interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds
    extras.end_without("meta_eval", "absl", "filelock", "matplotlib", "platformdirs", "scipy")

import shlex
import signal
import sys
from pathlib import Path

import jax
from absl import app, flags, logging

from lopt import cluster, processes
from lopt.compile_cache import HELP, keep_programs
from lopt.distributed import num_cores
from lopt.evaluation.baselines import BASELINES, DEFAULT
from lopt.evaluation.evaluate import evaluate
from lopt.evaluation.folder import folder_lock, track_results
from lopt.evaluation.protocol import MIN_HORIZON
from lopt.evaluation.request import PROTOCOL
from lopt.evaluation.sweeps import axes
from lopt.evaluation.untuned import POOL
from lopt.names import InputError
from lopt.tracking import WANDB_MODES, check_mode
from lopt.trained.pretrained import Pretrained, load_pretrained

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "what to evaluate: a run's folder, an export, or an optimizer that ships with lopt, by name"
)
_OPTIMIZER = flags.DEFINE_string(
    "optimizer", None, "your own rule, if the checkpoint is of one: FILE.py:CLASS[:setting=value]..., whose code is run"
)
_TASKS = flags.DEFINE_string(
    "tasks",
    None,
    "comma list of tasks, as for meta_train.py; default: those it was trained on",
)
_BASELINES = flags.DEFINE_string(
    "baselines", DEFAULT, f"comma list of {', '.join(BASELINES)}; or all. Adam at a constant rate is always there"
)
_PROTOCOL = flags.DEFINE_string(
    "protocol",
    PROTOCOL,
    "tuned: baselines at their best settings on each task; both: also at one setting for all tasks, "
    f"chosen on {POOL}, or on others: both:TASKS",
)
_LEARNED = flags.DEFINE_string(
    "learned",
    "",
    "comma list of other learned optimizers, as for --checkpoint; one of your own rule is followed by it: "
    "FOLDER@FILE.py:CLASS[:setting=value]..., whose code is run",
)
_SWEEP = flags.DEFINE_string(
    "sweep", "", f"comma list of axes along which every task is varied too: {', '.join(axes())}"
)
_HORIZON = flags.DEFINE_integer(
    "horizon", None, f"steps of a training, at least {MIN_HORIZON}; default: the longest of the meta-training"
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "seeds to evaluate on, and as many others to tune on")
_SEED = flags.DEFINE_integer("seed", 0, "decides everything random", lower_bound=0, upper_bound=2**32 - 1)
_SPLIT = flags.DEFINE_enum("split", "valid", ("valid", "test"), "split that trained parameters are judged on")
_OUT = flags.DEFINE_string(
    "out", None, "folder for the results; default: eval-HORIZON in the run's folder, or runs/eval-NAME"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results of another evaluation in that folder")
_CACHE = flags.DEFINE_string("cache", "runs/cache/evaluations", "folder that runs are kept in; empty: none")
_COMPILE_CACHE = flags.DEFINE_string("compile_cache", None, HELP)
_WANDB = flags.DEFINE_enum("wandb", "disabled", WANDB_MODES, "send scores and pictures to Weights & Biases too")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the data sets; default: TFDS_DATA_DIR, or TFDS's own")
_DEVICES = flags.DEFINE_integer(
    "devices", None, "devices of a process that share the runs; default: all", lower_bound=1
)
_DISTRIBUTED = flags.DEFINE_flag(
    flags.Flag(flags.ArgumentParser(), flags.ArgumentSerializer(), "distributed", None, cluster.HELP, boolean=True)
)
_PEER_TIMEOUT = flags.DEFINE_integer("peer_timeout", cluster.TIMEOUT, cluster.TIMEOUT_HELP, lower_bound=1)


def default_folder(pretrained: Pretrained, checkpoint: str, horizon: int | None) -> Path:
    """In the run's own folder if that was named, else in ./runs."""
    if Path(checkpoint).resolve() == pretrained.path.parent:
        return Path(checkpoint, f"eval-{horizon or pretrained.card['horizon'][1]}")
    return Path("runs", f"eval-{pretrained.name}")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    if not _CHECKPOINT.value:
        raise InputError("say what to evaluate: --checkpoint=runs/NAME")
    keep_programs(_COMPILE_CACHE.value)
    check_mode(_WANDB.value)
    jax.config.update("jax_num_cpu_devices", min(_DEVICES.value or num_cores(), num_cores()))
    cluster.connect(_DISTRIBUTED.value, _PEER_TIMEOUT.value, "meta_eval")
    pretrained = load_pretrained(_CHECKPOINT.value, optimizer=_OPTIMIZER.value)
    out = Path(_OUT.value) if _OUT.value else default_folder(pretrained, _CHECKPOINT.value, _HORIZON.value)
    command = shlex.join(["python", "-m", "lopt", "eval", *sys.argv[1:]])
    with folder_lock(out) as lock:  # until everything is written
        report = evaluate(
            pretrained,
            _TASKS.value,
            horizon=_HORIZON.value,
            num_seeds=_NUM_SEEDS.value,
            seed=_SEED.value,
            split=_SPLIT.value,
            baselines=_BASELINES.value,
            protocol=_PROTOCOL.value,
            learned=_LEARNED.value,
            sweep=_SWEEP.value,
            cache=_CACHE.value,
            devices=_DEVICES.value,
            data_dir=_DATA_DIR.value,
            out=lock,
            overwrite=_OVERWRITE.value,
            about={"checkpoint": _CHECKPOINT.value, "command": command},
        )
        if processes.is_first():
            print(f"\n{report}", flush=True)
            files = report.write(lock, overwrite=_OVERWRITE.value)
            track_results(out, report.summary, _WANDB.value)
            print(f"{', '.join(files)} in {out}")
    cluster.part()
    return 0


def _main(argv: list[str]) -> int:
    status = _status(argv)
    return cluster.leave(status) if status else 0


def _status(argv: list[str]) -> int:
    try:
        with processes.noticing_lost_peers("With a cache, the same command goes on from here."):
            return main(argv)
    except processes.ToldElsewhere:
        return 1
    except processes.PeerError as error:
        print(f"meta_eval: {error}", file=sys.stderr)
        return cluster.LOST
    except (InputError, OSError) as error:
        print(f"meta_eval: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C need not hurry the end
        print("meta_eval: stopped. With a cache, the same command goes on from here.", file=sys.stderr)
        return 130


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:  # ValueError: --noNAME=VALUE
        print(f"meta_eval: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(interrupts.run(lambda: app.run(_main, flags_parser=_parse_flags)))
