"""A run's folder: who uses it, which config it belongs to, and whether everything that it should hold is there."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopt.files import SEAL, write_atomic
from lopt.locks import FolderLock
from lopt.names import InputError

CONFIG, METRICS, RECORD, CHECKPOINTS = "config.json", "metrics.jsonl", "run.json", "checkpoints"
EXPORT, EXPORT_EMA, EXPORT_BEST, CACHE = "export", "export-ema", "export-best", "cache"
SPARE_BYTES = 2**20  # for metrics, card and theta, beside the checkpoints


@contextlib.contextmanager
def open_workdir(
    workdir: Path,
    config: Mapping[str, Any],
    *,
    may_change: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    needed_bytes: int = 0,
) -> Iterator[None]:
    """Makes or checks the folder of a run, and keeps other runs out of it until the block ends.

    Args:
      workdir: the folder; made if absent.
      config: of the run: JSON-able scalars, lists and None.
      may_change: keys of the config that a continued run may change.
      defaults: values of keys that the config file of an older version does not have yet.
      needed_bytes: what the run is going to write there.

    Raises:
      InputError: the folder cannot be used, is in use, belongs to another run, or lacks what a run leaves behind.
        Nothing has been changed then.
    """
    with contextlib.ExitStack() as stack:
        with _explained(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            # Two runs in one workdir would overwrite each other's checkpoints.
            stack.enter_context(FolderLock(workdir, "take another workdir")).take()
            _check_writable(workdir, needed_bytes)
        check_config(workdir, config, may_change, defaults)
        yield


def check_config(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    may_change: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Ties a folder to one config: writes `config.json` into a new folder, compares with the one that is there.

    Args:
      workdir: the run's folder; made if absent.
      config: JSON-able scalars, lists and None.
      may_change: keys that a continued run may change; the file then takes the new values.
      defaults: values of keys that a file of an older version does not have yet.

    Raises:
      InputError: the folder belongs to a run with another config, its config cannot be read, or something that a run
        leaves behind is missing. Nothing is changed.
    """
    path = Path(workdir) / CONFIG
    asked = json.loads(json.dumps(config))  # tuples become the lists that they are read back as
    there = _read_config(path)
    if there is not None:
        there = {**{key: value for key, value in (defaults or {}).items() if key in asked}, **there}
        _check_complete(path.parent)
    if there == asked:
        return
    if there is not None:
        absent = object()
        differing = {k: (there.get(k, absent), asked.get(k, absent)) for k in sorted({*there, *asked})}
        differing = {k: pair for k, pair in differing.items() if pair[0] != pair[1]}
        if refused := [k for k in differing if k not in may_change]:
            shown = {k: ["nothing" if v is absent else json.dumps(v) for v in differing[k]] for k in refused}
            lines = "".join(f"\n  {k}: there {old}, asked {new}" for k, (old, new) in shown.items())
            raise InputError(
                f"{path} is the config of another run:{lines}\n"
                "To continue that run, ask for its values; to start another run, choose another workdir."
            )
    write_atomic(path, json.dumps(asked, indent=2, sort_keys=True) + "\n")


def finished_steps(directory: Path) -> list[int]:
    """The steps in a folder of checkpoints: orbax gives a written folder its bare number, and then it is sealed."""
    folders = directory.iterdir() if directory.is_dir() else ()
    return [int(folder.name) for folder in folders if folder.name.isdecimal() and (folder / SEAL).is_file()]


def _read_config(path: Path) -> dict[str, Any] | None:
    """The config in a folder, None for a new one; makes the folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        config = json.loads(path.read_text())
    except FileNotFoundError:
        left = [name for name in (CHECKPOINTS, METRICS, EXPORT) if (path.parent / name).exists()]
        if left:
            raise InputError(
                f"{path.parent} holds {' and '.join(left)} but no {CONFIG}, so it cannot be told which run that is of: "
                "put the file back or choose another workdir."
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}. Repair the file or choose another workdir.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not the config of a run. Choose another workdir.")
    return config


def _check_complete(workdir: Path) -> None:
    """An export is written after a checkpoint: where there is one, a run that starts anew would replace it."""
    if (workdir / EXPORT).exists() and not finished_steps(workdir / CHECKPOINTS):
        raise InputError(
            f"{workdir} holds the trained optimizer of a run, {EXPORT}/, but none of its checkpoints: the run cannot "
            f"go on, and a new start would replace what it trained. Put {CHECKPOINTS}/ back, choose another workdir, "
            f"or delete {workdir / EXPORT} to start anew here."
        )


def _check_writable(workdir: Path, needed_bytes: int) -> None:
    for folder in (
        workdir,
        *(workdir / name for name in (CHECKPOINTS, EXPORT, EXPORT_EMA, EXPORT_BEST) if (workdir / name).exists()),
    ):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: remove it, or choose another workdir")
        probe = folder / f".probe-{os.getpid()}"  # os.access does not know of read-only file systems of all kinds
        probe.touch()
        probe.unlink()
    free, needed = shutil.disk_usage(workdir).free, needed_bytes + SPARE_BYTES
    if free < needed:
        raise InputError(
            f"{workdir} has {free / 2**20:,.1f} MiB free, and this run's checkpoints take {needed / 2**20:,.1f} MiB: "
            "free some space, or choose a workdir on another disk"
        )


@contextlib.contextmanager
def _explained(workdir: Path) -> Iterator[None]:
    """What the operating system refuses, in one line."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", os.fspath(workdir)):
        raise InputError(f"the workdir must be a folder on this machine, not {workdir}: copy it elsewhere afterwards")
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot use the workdir {workdir}: {reason}. Choose a folder that you may write to."
        ) from error
