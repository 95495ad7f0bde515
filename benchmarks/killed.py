"""The commands that `benchmarks.soak` kills: small work, what it leaves, and how a write that was cut shows."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.evaluation.folder import CURVES, SCORES, load_results
from lopt.evaluation.results import entry_arrays
from lopt.files import SEAL
from lopt.meta_training.stopwatch import KEYS
from lopt.meta_training.workdir import CHECKPOINTS, EXPORT, EXPORT_BEST, EXPORT_EMA, METRICS, finished_steps
from lopt.names import InputError
from lopt.trained.card import CHECKSUM
from lopt.trained.folders import CARD_FILE, THETA_FILE, find_export
from lopt.trained.pretrained import load_pretrained
from tasks import datasets

# The names that files and folders have while they are written, by what is written.
_WRITTEN = {
    "checkpoint": re.compile(r"\d+\.orbax-checkpoint-tmp.*"),
    "export": re.compile(r"\.export.*\.(tmp|previous)"),
    "file": re.compile(r"\..+\.\d+\.tmp"),
    "data set": re.compile(r"\.preparing-\w{8}"),
}
_STEPS = 40  # outer steps of the run
# Of each kind, and quick to read out of their packages: a kill while a set is read cuts nothing.
_SETS = ("autompg", "digits", "python_docs", "wine")


class Command(NamedTuple):
    """A command with a folder.

    Attributes:
      arguments: of `python -m lopt`, to work in this folder.
      result: what the command has left in a folder at its end, by name; equal for equal work.
      problems: what readers of the folder cannot read, while the work is not at its end.
    """

    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, Any]]
    problems: Callable[[Path], list[str]]


def begun_writes(place: Path) -> set[str]:
    """What is being written in a folder now, by name; `metrics.jsonl` is another thing after each row."""
    found = {path for path, _ in _unfinished(place)}
    with contextlib.suppress(OSError):
        found.add(f"{METRICS} {(place / METRICS).stat().st_size}")
    return found


def cut_writes(place: Path) -> set[str]:
    """The kinds of writes that a command which is dead now has not finished.

    These are "checkpoint", "export", "file", "data set", and "metrics": a row that is not complete, or rows after the
    newest checkpoint.
    """
    found = {kind for _, kind in _unfinished(place)}
    metrics = place / METRICS
    if metrics.exists():
        text = metrics.read_text()
        newest = max(finished_steps(place / CHECKPOINTS), default=0)
        if text and (not text.endswith("\n") or json.loads(text.splitlines()[-1])["step"] > newest):
            found.add("metrics")
    return found


def _unfinished(place: Path) -> Iterator[tuple[str, str]]:
    """Name and kind of what is not complete in a folder and in the folders in it."""
    for folder in (place, *_folders(place)):
        for name in _names(folder):
            kind = next((kind for kind, pattern in _WRITTEN.items() if pattern.fullmatch(name)), None)
            if folder.name == CHECKPOINTS and name.isdecimal() and not (folder / name / SEAL).exists():
                kind = "checkpoint"
            if kind is not None:
                yield f"{folder.name}/{name}", kind


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it is gone
        return []


def _folders(place: Path) -> list[Path]:
    return [place / name for name in _names(place) if (place / name).is_dir()]


def _train(place: Path) -> list[str]:
    settings = (
        "--optimizer=learnable_adam --tasks=test_function --num_pairs=2 --truncation=5 --horizon=20 --devices=2 "
        "--checkpoint_every=2 --theta_ema=0.9 --valid_tasks=quadratic --valid_horizon=20 --valid_every=8"
    )
    folders = {"workdir": place, "cache": place / "cache"}
    return ["train", f"--outer_steps={_STEPS}", *settings.split(), *(f"--{k}={v}" for k, v in folders.items())]


def _trained(place: Path) -> dict[str, Any]:
    """Theta bit for bit, cards and rows, and that nothing unfinished is left."""
    rows = [json.loads(line) for line in (place / METRICS).read_text().splitlines()]
    found: dict[str, Any] = {"metrics": [{key: row[key] for key in row if key not in KEYS} for row in rows]}
    found["each step once"] = [row["step"] for row in rows] == list(range(1, _STEPS + 1))
    for name in (EXPORT, EXPORT_EMA, EXPORT_BEST):
        card = json.loads((place / name / CARD_FILE).read_text())
        found[f"{name}, card"] = {key: card[key] for key in card if key not in ("command", CHECKSUM)}
        found[f"{name}, theta"] = (place / name / THETA_FILE).read_bytes()
    return found | {"nothing half written": not any(_unfinished(place))}


def _unreadable_exports(place: Path) -> list[str]:
    """From the first complete export on, one can be loaded at every moment."""
    problems = []
    for name in (EXPORT, EXPORT_EMA, EXPORT_BEST):
        try:
            find_export(place / name)
        except InputError:
            continue  # none yet
        try:
            load_pretrained(place / name)
        except InputError as error:
            problems.append(f"{name}: {error}")
    return problems


def _eval(place: Path) -> list[str]:
    folders = {"out": place, "cache": place / "cache"}
    settings = "--checkpoint=learnable_adam_digits --tasks=test_function,quadratic --horizon=20 --num_seeds=2"
    return ["eval", *settings.split(), "--devices=2", *(f"--{name}={value}" for name, value in folders.items())]


def _evaluated(place: Path) -> dict[str, Any]:
    """All numbers but the step times, and the names of all files."""
    found: dict[str, Any] = {"files": sorted(path.name for path in place.iterdir())}
    found["scores"] = (place / SCORES).read_bytes()
    for task, result in load_results(place / CURVES).items():
        for name, entry in result.entries.items():
            arrays = entry_arrays(entry).items()
            found[f"{task}, {name}"] = {key: _digest(array) for key, array in arrays if key != "step_seconds"}
    return found | {"nothing half written": not any(_unfinished(place))}


def _prepare(place: Path) -> list[str]:
    return ["tasks", "prepare", *_SETS, f"--data_dir={place}"]


def _prepared(place: Path) -> dict[str, Any]:
    """Every array."""
    found: dict[str, Any] = {"files": sorted(path.name for path in place.iterdir())}
    for name in _SETS:
        found[name] = _read_set(name, place)
    return found


def _read_set(name: str, place: Path) -> dict[str, str]:
    kind = datasets.describe(name).kind
    load = {"image": datasets.load_images, "table": datasets.load_table, "text": datasets.load_text}[kind]
    splits: dict[str, Any] = {**load(name, place)}
    flat = {split: {"text": data} if kind == "text" else data for split, data in splits.items()}
    return {f"{split}, {key}": _digest(array) for split, data in flat.items() for key, array in data.items()}


def _half_prepared(place: Path) -> list[str]:
    """A set that is there under its name is all there."""
    problems = []
    for name in _SETS:
        if (place / datasets.BUILTIN[name].folder).is_dir():  # else reading it would prepare it
            try:
                _read_set(name, place)
            except InputError as error:
                problems.append(str(error))
    return problems


def _digest(array: np.ndarray) -> str:
    array = np.ascontiguousarray(array)
    return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


COMMANDS = {
    "train": Command(_train, _trained, _unreadable_exports),
    "eval": Command(_eval, _evaluated, lambda place: []),
    "data": Command(_prepare, _prepared, _half_prepared),
}
