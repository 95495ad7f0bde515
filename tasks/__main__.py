"""Lists, prepares and shows tasks and data sets.

python -m lopt tasks list                      families, augmentations, named pools, data sets
python -m lopt tasks prepare glyphs kjv        write built-in data sets into the data directory; without names, all
python -m lopt tasks prepare raw/squares       write a set of your own, of raw/squares/train.npz: docs/own_data.md
python -m lopt tasks show image_vit/glyphs     a page of samples, and how Adam trains it: runs/tasks/NAME.png
python -m lopt tasks show my_tasks.py:Spiral   the same of a family of your own
"""

from lopt import extras, interrupts

if __name__ == "__main__":
    interrupts.end_while_loading()  # JAX and the others take seconds
    extras.end_without("tasks", "absl", "rich")

import contextlib
import errno
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lopt.figures import to_png
from lopt.files import write_atomic
from lopt.names import InputError, Spec, check_known
from lopt.optimizers import OPTIMIZERS
from lopt.own import foreign

from . import AUGMENTATIONS, FAMILIES, POOLS, datasets, parse_tasks
from .naming import settings
from .page import draw_page

_DATA_DIR = flags.DEFINE_string("data_dir", None, "where data sets are; default: TFDS_DATA_DIR, or TFDS's own")
_OUT = flags.DEFINE_string("out", "runs/tasks", "folder for the pages of show")
_STEPS = flags.DEFINE_integer("steps", 200, "training steps that show draws", lower_bound=1, upper_bound=100_000)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the tasks and batches that show draws", 0, 2**31 - 1)


def show_lists(names: list[str]) -> None:
    if names:
        raise InputError(f"list takes no names, and got {' '.join(names)}: python -m lopt tasks show {names[0]}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    _print(
        console,
        "Task families: FAMILY[/DATASET][:setting=value]...",
        ("family", "data set", "what is trained", "settings and their defaults"),
        [(name, row.kind or "-", row.description, _defaults(row.constructor)) for name, row in FAMILIES.items()],
    )
    if others := foreign.registered("task family"):
        rows = [(name, entry.value) for name, entry in others.items()]
        _print(console, "Task families of other installed packages", ("family", "its class"), rows)
    _print(
        console,
        "Augmentations, behind a family: FAMILY...+AUGMENTATION[:setting=value]...",
        ("augmentation", "what it does", "settings and their defaults"),
        [(name, (known.__doc__ or "").splitlines()[0], _defaults(known)) for name, known in AUGMENTATIONS.items()],
    )
    _print(
        console,
        "Named pools, as [WEIGHT*]TASK",
        ("pool", "tasks"),
        [(name, "\n".join(items)) for name, items in POOLS.items()],
    )
    rows = [
        (
            entry.info.name,
            entry.info.kind,
            " x ".join(map(str, entry.info.shape)) or "-",
            ", ".join(f"{size:,}" for size in entry.info.split_sizes.values()),
            "prepared" if entry.prepared else "made when first used",
            entry.licence,
        )
        for entry in datasets.list_builtin(_DATA_DIR.value)
    ]
    for name in datasets.list_prepared(_DATA_DIR.value):
        rows.append((name, *_public_row(name)))
    title = f"Data sets in {datasets.resolve_data_dir(_DATA_DIR.value)}"
    _print(console, title, ("set", "kind", "shape", "train, meta, valid, test", "state", "licence"), rows)
    console.print(
        "Public sets of TensorFlow Datasets (mnist, cifar10, lm1b, ...) are read if they lie there as array_record: "
        "docs/tasks.md."
    )


def _defaults(constructor: Any) -> str:
    """The settings as they are typed."""
    return ", ".join(str(Spec("", {f.name: f.default}))[1:] for f in settings(constructor)) or "-"


def _public_row(name: str) -> tuple[str, str, str, str, str]:
    try:
        info = datasets.describe(name, _DATA_DIR.value)
    except InputError as error:
        return ("-", "-", "-", f"cannot be read: {error}", "-")
    sizes = ", ".join(f"{size:,}" for size in info.split_sizes.values())
    return (info.kind, " x ".join(map(str, info.shape)) or "-", sizes, "prepared", "see TFDS")


def _print(console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, show_lines=False, pad_edge=False
    )
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def prepare(names: list[str]) -> None:
    own = [name for name in names if Path(name).is_dir() and name not in datasets.BUILTIN]
    for name in names:  # all of them known before the first is written
        if name not in own:
            datasets.describe(name, _DATA_DIR.value)
    for name in names or datasets.BUILTIN:
        print(f"{name} ...", end=" ", flush=True)
        try:
            root = datasets.resolve_data_dir(_DATA_DIR.value)
            made = datasets.write_folder(Path(name), root) if name in own else datasets.prepare(name, _DATA_DIR.value)
            print(made, flush=True)
        except BaseException:
            print()  # so that the message has a line of its own
            raise


def show(names: list[str]) -> None:
    if not names:
        raise InputError("say what to show: python -m lopt tasks show image_mlp/digits")
    extras.need("a page", "matplotlib")
    families = parse_tasks(",".join(names), data_dir=_DATA_DIR.value, optimizers=OPTIMIZERS)
    folder = Path(_OUT.value)
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # before anything is trained
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    for family in families:
        page = to_png(draw_page(family, _STEPS.value, _SEED.value))
        path = folder / f"{_file_name(family.name)}.png"
        with _writable(folder):
            write_atomic(path, page)
        print(path, flush=True)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turns what the operating system refuses about the folder of the pages into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write pages to {folder}: {error.strerror or error}. Choose another --out.") from error


def _file_name(name: str) -> str:
    """The name of a task as that of a file; a long one is cut, and ends in its checksum."""
    text = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    if len(text.encode()) <= MOST_BYTES:
        return text
    return f"{text.encode()[:MOST_BYTES].decode(errors='ignore')}-{zlib.crc32(name.encode()):08x}"


MOST_BYTES = 200  # of a file's name, of the 255 that file systems allow

ACTIONS: dict[str, Callable[[list[str]], None]] = {"list": show_lists, "prepare": prepare, "show": show}


def main(argv: list[str]) -> int:
    try:
        action = argv[1] if len(argv) > 1 else "list"
        check_known("action", action, ACTIONS)
        ACTIONS[action](argv[2:])
    except InputError as error:
        print(f"tasks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would print a traceback
        print("tasks: interrupted; what was not finished has left no files", file=sys.stderr)
        return 130  # as shells have it
    except BrokenPipeError:  # whoever read the output has gone: python -m tasks list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:  # ValueError: --noNAME=VALUE
        print(f"tasks: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(interrupts.run(lambda: app.run(main, flags_parser=_parse_flags)))
