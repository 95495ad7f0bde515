"""The files of an evaluation: `curves.npz`, `scores.csv`, `summary.json` and the picture. Later stages read them."""

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt.files import write_atomic
from lopt.names import InputError
from lopt.scores import DEFAULT_RATE, MEASURES, Curves, TaskCurves, TaskScores, summary

CURVES, SCORES, PICTURE, SUMMARY = FILES = ("curves.npz", "scores.csv", "curves.png", "summary.json")


def check_folder(folder: Path, configuration: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Makes the folder of an evaluation. Raises InputError if it holds the files of another one, or cannot be made.

    Args:
      configuration: plain values that decide the numbers; an evaluation with equal ones may be replaced.
      overwrite: whether any other may be, too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in FILES if (folder / name).exists()]
        old = json.loads((folder / SUMMARY).read_bytes())["configuration"] if SUMMARY in there else None
    except (ValueError, KeyError, TypeError):
        old = None
    except OSError as error:
        raise InputError(f"cannot use {folder} for the results: {error}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot use {folder} for the results: it is not writable")
    if overwrite or not there or old == json.loads(json.dumps(configuration)):
        return
    now = json.loads(json.dumps(configuration))
    changed = [key for key in now if isinstance(old, dict) and old.get(key) != now[key]]
    reason = f"(other {', '.join(changed)})" if changed else f"({', '.join(there)})"
    raise InputError(f"{folder} holds another evaluation {reason}: choose another folder with --out, or --overwrite it")


def write_results(
    folder: Path,
    curves: Mapping[str, TaskCurves],
    scores: Mapping[str, TaskScores],
    picture: bytes,
    *,
    configuration: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Writes all files into a folder that `check_folder` has passed; each is replaced in one step.

    Args:
      curves, scores: by the task's name.
      picture: a PNG.
      about: more plain values for the summary, which do not decide the numbers.
    """
    text = io.StringIO()
    table = [row for task, task_curves in curves.items() for row in _rows(task, task_curves)]
    writer = csv.DictWriter(text, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    content = {
        "configuration": configuration,
        **about,
        "tasks": {task: summary(curves[task], scores[task]) for task in curves},
    }
    write_atomic(folder / CURVES, pack_curves(curves))
    write_atomic(folder / SCORES, text.getvalue())
    write_atomic(folder / PICTURE, picture)
    write_atomic(folder / SUMMARY, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def pack_curves(curves: Mapping[str, TaskCurves]) -> bytes:
    """The curves as an npz file: `tasks`, their names, and `INDEX.FIELD` or `INDEX.FIELD.ARRAY` for each array."""
    arrays: dict[str, Any] = {"tasks": np.array(list(curves))}
    for index, task_curves in enumerate(curves.values()):
        for field, value in task_curves._asdict().items():
            parts = value._asdict() if isinstance(value, Curves) else {"": value}
            arrays |= {f"{index}.{field}.{part}".rstrip("."): np.asarray(array) for part, array in parts.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def load_curves(path: str | os.PathLike) -> dict[str, TaskCurves]:
    """Reads `curves.npz` back: curves by the task's name. Raises InputError if it is damaged."""
    try:
        # Opened here, as numpy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = dict(members)
        return {str(task): _task_curves(arrays, index) for index, task in enumerate(arrays["tasks"])}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the curves of {os.fspath(path)}: {error}") from error


def _task_curves(arrays: Mapping[str, np.ndarray], index: int) -> TaskCurves:
    values: dict[str, Any] = {}
    for field, kind in TaskCurves.__annotations__.items():
        name = f"{index}.{field}"
        values[field] = (
            Curves(*(arrays[f"{name}.{part}"] for part in Curves._fields)) if kind is Curves else arrays[name]
        )
    return TaskCurves(**values)._replace(num_params=int(values["num_params"]))


def _rows(task: str, curves: TaskCurves) -> Iterator[dict[str, Any]]:
    """One row for each run of T steps; an infinite measure is a run that has diverged."""
    groups = [("learned", None, curves.learned), ("untrained", None, curves.untrained)]
    groups += [("adam_default", DEFAULT_RATE, curves.adam_default)]
    for index, rate in enumerate(curves.learning_rates.tolist()):
        tuning = Curves(*(array[index] for array in curves.adam_tuning))
        groups += [("adam", rate, curves.at_rate(index)), ("adam_tuning", rate, tuning)]
    for optimizer, rate, runs in groups:
        seeds = curves.tuning_seeds if optimizer == "adam_tuning" else curves.seeds
        measures = {measure: function(runs.loss) for measure, function in MEASURES.items()}
        columns = {**measures, "valid_loss": runs.valid_loss, "valid_accuracy": runs.valid_accuracy}
        for i, seed in enumerate(seeds.tolist()):
            yield {
                "task": task,
                "optimizer": optimizer,
                "learning_rate": rate,
                "seed": seed,
                **{name: float(column[i]) for name, column in columns.items()},
            }


def _plain(value: Any) -> Any:
    """JSON has neither infinity, which becomes "inf", nor NaN, which stands for what there is not: null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
