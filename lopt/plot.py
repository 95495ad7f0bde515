"""Meta-training runs in one picture: `python -m lopt.plot RUN [RUN...] [--out=FILE.png]`.

It draws what docs/meta_training.md explains, of runs that are finished, stopped or still running.
"""

from lopt import extras, interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # matplotlib and the others take seconds
    extras.end_without("plot", "matplotlib")

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lopt.figures import to_png
from lopt.files import write_atomic
from lopt.meta_training.metrics import read_columns
from lopt.meta_training.plots import History, plot_runs
from lopt.meta_training.workdir import CONFIG, METRICS
from lopt.names import InputError

MOST_RUNS = 56  # as many lines can be told apart


def read_runs(folders: Sequence[str]) -> dict[str, History]:
    """The columns of each run's metrics.jsonl, by a name: its folder's, as far up as it takes to tell the runs apart.

    Raises:
      InputError: a folder is none of a run, or its run has made no outer step yet.
    """
    if len(folders) > MOST_RUNS:
        raise InputError(f"at most {MOST_RUNS} runs can be told apart in one picture, not {len(folders)}")
    histories: dict[str, History] = {}
    for folder, name in zip(folders, _names(folders), strict=True):
        path = Path(folder)
        if not (path / CONFIG).is_file():
            kind = "is not the folder of a run" if path.is_dir() else "is no folder"
            raise InputError(f"{folder} {kind}: give what was --workdir of the meta-training")
        try:
            history = read_columns(path / METRICS)
        except FileNotFoundError:
            history = {}
        except ValueError as error:
            raise InputError(f"cannot read {path / METRICS}: {error}") from error
        if not {"step", "meta_loss"} <= history.keys():
            raise InputError(f"the run in {folder} has made no outer step yet")
        histories[name] = history
    return histories


def _names(folders: Sequence[str]) -> list[str]:
    parts = [Path(folder).resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError("a run is given twice")
    longest = max(map(len, parts))
    tails = ([os.sep.join(part[-n:]) for part in parts] for n in range(1, longest + 1))
    return next(names for names in tails if len(set(names)) == len(names))


def _output(out: str | None, folders: Sequence[str]) -> Path:
    """The file asked for; without one, plot.png in the folder that holds all of the runs, or in the only run's."""
    if out is None:
        return Path(os.path.commonpath([Path(folder).resolve() for folder in folders])) / "plot.png"
    path = Path(out)
    if path.suffix != ".png":
        raise InputError(f"--out={out}: the picture is a PNG file, so give a name that ends with .png")
    if not path.parent.is_dir():
        raise InputError(f"--out={out}: there is no folder {path.parent}")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lopt.plot",
        description="Draws meta-training runs: losses, validation, signal to noise, updates.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, --workdir of the meta-training")
    parser.add_argument("--out", help="the picture; default: plot.png in the run's folder, or in the one around all")
    args = parser.parse_args(arguments)
    try:
        out = _output(args.out, args.runs)
        write_atomic(out, to_png(plot_runs(read_runs(args.runs))))
    except (InputError, OSError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
