"""The files of an evaluation: curves.npz with its runs, scores.csv, summary.json, pictures, report.html."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt.evaluation.deciding import end_losses, references
from lopt.evaluation.measures import MEASURES
from lopt.evaluation.ratios import log_ratios
from lopt.evaluation.results import Curves, TaskResult, entry_arrays, entry_of
from lopt.files import check_writable, write_atomic
from lopt.locks import FolderLock
from lopt.names import InputError
from lopt.npz import pack, unpack

CURVES, SCORES, SUMMARY, PICTURE, RATIOS, AGGREGATE, TRIALS, TARGETS, REPORT = FILES = (
    "curves.npz",
    "scores.csv",
    "summary.json",
    "curves.png",
    "ratios.png",
    "aggregate.png",
    "trials.png",
    "targets.png",
    "report.html",
)
SO_FAR = "curves.so_far.npz"
PLAIN = ("num_params", "horizon", "seeds", "tuning_seeds", "warnings")


def folder_lock(folder: str | os.PathLike) -> FolderLock:
    """What keeps other evaluations out of the folder of one: they would overwrite each other's files."""
    return FolderLock(folder, "choose another folder with --out")


@contextlib.contextmanager
def open_folder(
    folder: str | os.PathLike, configuration: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[None]:
    """Makes the folder of an evaluation, refuses one that holds the files of another, and keeps others out of it.

    Args:
      folder: the folder, which others are kept out of until the block ends; or its `FolderLock`, until that ends.
      configuration: plain values that decide the numbers; an evaluation with equal ones may be replaced.
      overwrite: whether any other evaluation may be replaced, too.

    Raises:
      InputError: the folder holds another evaluation, is in use, or cannot be made or written.
    """
    with contextlib.nullcontext(folder) if isinstance(folder, FolderLock) else folder_lock(folder) as lock:
        _check_folder(lock, configuration, overwrite)
        yield


def _check_folder(lock: FolderLock, configuration: Mapping[str, Any], overwrite: bool) -> None:
    folder = Path(lock)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        there = [name for name in FILES if (folder / name).exists()]
        check_writable(folder)
        old = _configuration(folder)
    except OSError as error:
        raise InputError(f"cannot use {folder} for the results: {error}") from error
    now = json.loads(json.dumps(configuration))
    # A setting that an older version did not write down had the value that is the default now.
    old = old if isinstance(old, dict) else {}
    changed = [key for key in now if key in old and old[key] != now[key]]
    if overwrite or not there or (old.keys() & now.keys() and not changed):
        return
    reason = f"(other {', '.join(changed)})" if changed else f"({', '.join(there)})"
    raise InputError(f"{folder} holds another evaluation {reason}: choose another folder with --out, or --overwrite it")


def _configuration(folder: Path) -> Any:
    """That of the evaluation whose files are there; None where it cannot be told."""
    try:
        return json.loads((folder / SUMMARY).read_bytes())["configuration"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_results(
    folder: Path,
    results: Mapping[str, TaskResult],
    content: Mapping[str, Any],
    *,
    configuration: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> list[str]:
    """Writes all files into a folder that `open_folder` has passed; each is replaced in one step.

    Args:
      folder: the folder.
      results: the runs, by the task's name.
      content: what `summary.summarize` returned.
      configuration: plain values that decide the numbers.
      pictures: PNG files, by file name.

    Returns:
      The names of the files.

    Raises:
      OSError: a file could not be written; all that could are there.
    """
    text = io.StringIO()
    table = [row for task, result in results.items() for row in _rows(task, result)]
    writer = csv.DictWriter(text, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    from lopt.evaluation.page import render  # here, as those who only read results need no page

    summary = json.dumps({"configuration": configuration, **content}, indent=1, allow_nan=False) + "\n"
    files = {CURVES: pack_results(results), SCORES: text.getvalue(), SUMMARY: summary, **pictures}
    files[REPORT] = render(dict(content), pictures)
    failed: dict[str, OSError] = {}
    # The summary first: it says whose files these are, so that the same command may go on where this one was killed.
    for name in sorted(files, key=lambda name: name != SUMMARY):
        try:
            write_atomic(folder / name, files[name])
        except OSError as error:
            failed[name] = error
    if failed:
        names = ", ".join(name for name in files if name in failed)
        raise OSError(f"cannot write {names} to {folder}: {next(iter(failed.values()))}")
    (folder / SO_FAR).unlink(missing_ok=True)
    return list(files)


def keep_so_far(folder: Path, results: Mapping[str, TaskResult]) -> None:
    """Writes the runs of the tasks that are done, for the case that an evaluation does not get to its end.

    `load_results` reads them; `write_results` removes the file. Raises OSError.
    """
    write_atomic(folder / SO_FAR, pack_results(results))


def track_results(folder: Path, content: Mapping[str, Any], mode: str) -> None:
    """Sends scores and pictures to wandb, if `mode` says so.

    Args:
      folder: the folder, which `write_results` has filled.
      content: what `summary.summarize` returned.
      mode: one of `tracking.WANDB_MODES`.
    """
    from lopt.tracking import is_tracked, open_tracker

    about = {key: value for key, value in content.items() if isinstance(value, str)} | dict(content.get("setting", {}))
    # Beside the meta-training, if that is tracked too.
    group = folder.absolute().parent.name if is_tracked(folder.absolute().parent) else None
    tracker = open_tracker(mode, config=about, workdir=folder, kind="eval", group=group)
    row: dict[str, Any] = {path.stem: path for path in sorted(folder.glob("*.png"))}
    for task in content["tasks"]:
        for found in task["rows"]:
            place = f"{task['name']}/{found['optimizer']}"
            row |= {
                f"{place}/{measure}": found[measure] for measure in (*MEASURES, "score", "train_ratio", "valid_ratio")
            }
    tracker.log(row, step=None)  # an evaluation that is made again comes after the one before
    tracker.finish()


def pack_results(results: Mapping[str, TaskResult]) -> bytes:
    """The runs as an npz file.

    `tasks` holds the names of the tasks; for the task of each index, `INDEX.FIELD` holds its values, `INDEX.entries`
    the names of its entries, and `INDEX.NAME.ARRAY` their arrays, as `results.entry_arrays` names them.
    """
    arrays: dict[str, Any] = {"tasks": np.array(list(results))}
    for index, result in enumerate(results.values()):
        arrays |= {f"{index}.{name}": np.asarray(getattr(result, name)) for name in PLAIN}
        arrays[f"{index}.entries"] = np.array(list(result.entries))
        for name, entry in result.entries.items():
            arrays |= {f"{index}.{name}.{key}": array for key, array in entry_arrays(entry).items()}
    return pack(arrays)


def load_results(path: str | os.PathLike) -> dict[str, TaskResult]:
    """Reads `curves.npz` back: results by the task's name. Raises InputError if it is damaged."""
    arrays = unpack(path)
    try:
        return {str(task): _result(arrays, index) for index, task in enumerate(arrays["tasks"])}
    except (KeyError, ValueError) as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error}") from error


def _result(arrays: Mapping[str, np.ndarray], index: int) -> TaskResult:
    entries = {}
    for name in arrays[f"{index}.entries"].tolist():
        prefix = f"{index}.{name}."
        entries[name] = entry_of({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
    values = {name: arrays[f"{index}.{name}"] for name in PLAIN}
    return TaskResult(
        num_params=int(values["num_params"]),
        horizon=int(values["horizon"]),
        seeds=values["seeds"],
        tuning_seeds=values["tuning_seeds"],
        warnings=tuple(str(warning) for warning in values["warnings"]),
        entries=entries,
    )


def _rows(task: str, result: TaskResult) -> Iterator[dict[str, Any]]:
    """One row per run of T steps; a run that diverged has infinite measures."""
    reference = references(result.entries)
    for name, entry in result.entries.items():
        groups = [
            ("tuning", index, result.tuning_seeds, Curves(*(array[index] for array in entry.tuning)))
            for index in range(len(entry.rates) if entry.tuned else 0)
        ]
        # By trial, so that runs of one that is best by several measures are there once.
        chosen = {index: entry.chosen[measure] for measure, index in entry.best.items()}
        groups += [("evaluation", index, result.seeds, runs) for index, runs in chosen.items()]
        for purpose, index, seeds, runs in groups:
            measures = {measure: function(runs) for measure, function in MEASURES.items()}
            columns = {**measures, "valid_loss": runs.valid_loss, "valid_accuracy": runs.valid_accuracy}
            ratios = dict.fromkeys(("train_ratio", "valid_ratio"), np.full(len(seeds), np.nan))
            if reference and purpose == "evaluation":
                pairs = zip(end_losses(runs, runs), reference, strict=True)
                ratios = {key: np.exp(log_ratios(*pair)) for key, pair in zip(ratios, pairs, strict=True)}
            rate = float(entry.rates[index])
            for i, seed in enumerate(seeds.tolist()):
                yield {
                    "task": task,
                    "optimizer": name,
                    "purpose": purpose,
                    "learning_rate": None if np.isnan(rate) else rate,
                    "settings": str(entry.settings[index]),
                    "seed": seed,
                    **{column: float(values[i]) for column, values in columns.items()},
                    **{column: None if np.isnan(x[i]) else float(x[i]) for column, x in ratios.items()},
                }
