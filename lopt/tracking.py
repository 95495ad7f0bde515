"""Weights & Biases, to which a run can send its rows and pictures. No error there stops a run."""

import contextlib
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lopt.extras import need
from lopt.files import write_atomic
from lopt.names import InputError

WANDB_MODES = ("disabled", "offline", "online")


WANDB_SECONDS = 5  # for wandb to start, and again to finish


class Tracker(Protocol):
    """Where the rows go besides metrics.jsonl. Nothing that goes wrong there raises."""

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Sends the row of one outer step; a value that is a path stands for the picture there."""
        ...

    def finish(self) -> None:
        """Ends the tracking; waits for at most about `WANDB_SECONDS`."""
        ...


def check_mode(mode: str) -> None:
    """Raises InputError, at the beginning of what is tracked, unless the mode is known and wandb is there if needed."""
    if mode not in WANDB_MODES:
        raise InputError(f"unknown wandb mode {mode!r}. Known: {', '.join(WANDB_MODES)}.")
    if mode != "disabled":
        need(f"wandb={mode}", "wandb")


def open_tracker(
    mode: str, *, config: Mapping[str, Any], workdir: str | os.PathLike, run_name: str | None = None
) -> Tracker:
    """Starts, or continues, the one wandb run of a workdir; its files are under `WORKDIR/wandb`.

    Where wandb cannot be used, this warns within seconds, and the run goes on without it.

    Args:
      mode: `disabled`, `offline` (no network: upload later with `wandb sync`) or `online`.
      config: shown with the run.
      workdir: the run's folder; it remembers the run's id.
      run_name: the name of the folder if None.
    """
    check_mode(mode)
    if mode == "disabled":
        return _NoTracker()
    try:
        return _Wandb(mode, dict(config), Path(workdir).absolute(), run_name)
    except Exception as error:
        logging.warning("going on without wandb: %s", " ".join(str(error).split()) or type(error).__name__)
        return _NoTracker()


class _NoTracker:
    def log(self, row: Mapping[str, Any], step: int) -> None:
        del row, step

    def finish(self) -> None:
        pass


class _Wandb:
    def __init__(self, mode: str, config: dict[str, Any], workdir: Path, run_name: str | None):
        # Its telemetry, unlike the run, has no time limit: at exit it waits 12 s for a server that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Silent, it raises where it would ask for a key at the terminal. `wandb.login(prompt=False)` answers the same
        # question, but then looks the account up, which is another 5 s without a server.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        workdir.mkdir(parents=True, exist_ok=True)
        id_file = workdir / "wandb_id"
        if not id_file.exists():
            write_atomic(id_file, secrets.token_hex(4))
        settings = wandb.Settings(
            init_timeout=WANDB_SECONDS,
            finish_timeout=WANDB_SECONDS,
            finish_timeout_raises=True,
            console="off",
        )
        self._run = wandb.init(
            mode=mode,  # pyright: ignore[reportArgumentType]  # one of WANDB_MODES
            project="lopt",
            name=run_name or workdir.name,
            id=id_file.read_text().strip(),
            resume="allow" if mode == "online" else None,
            config=config,
            dir=str(workdir),
            settings=settings,
        )

    def log(self, row: Mapping[str, Any], step: int) -> None:
        with self._warning("logging to"):
            if self._run is not None:
                self._run.log({name: _picture(x) if isinstance(x, Path) else x for name, x in row.items()}, step=step)

    def finish(self) -> None:
        with self._warning("finishing"):
            if self._run is not None:
                self._run.finish()
        self._run = None

    @contextlib.contextmanager
    def _warning(self, doing: str):
        try:
            yield
        except Exception as error:
            self._run = None  # one warning, not one per step
            logging.warning("going on without wandb, because %s it failed: %s", doing, " ".join(str(error).split()))


def _picture(path: Path) -> Any:
    import wandb

    return wandb.Image(str(path))
