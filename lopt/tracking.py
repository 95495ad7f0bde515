"""Weights & Biases, to which a run can send its rows and pictures. No error there stops a run."""

import contextlib
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lopt.extras import need
from lopt.files import write_atomic
from lopt.names import InputError

ID_FILE = "wandb_id"
WANDB_MODES = ("disabled", "offline", "online")


WANDB_SECONDS = 5  # for wandb to start, and again to finish


class Histogram(NamedTuple):
    """How often values are in each bin, `[bins]`, and where the bins end, `[bins + 1]`, as `numpy.histogram` has it."""

    counts: np.ndarray
    edges: np.ndarray


class Tracker(Protocol):
    """Where the rows go besides metrics.jsonl. Nothing that goes wrong there raises."""

    @property
    def active(self) -> bool:
        """Whether rows go anywhere; what is made for a tracker alone need not be made otherwise."""
        ...

    def log(self, row: Mapping[str, Any], step: int | None) -> None:
        """Sends the row of one outer step; a value may be a `Histogram`, or a path for the picture there.

        Without a step, the row comes after all that were sent before, also in an earlier process.
        """
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
    mode: str,
    *,
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    kind: str,
    group: str | None = None,
    lowest: Sequence[str] = (),
) -> Tracker:
    """Starts, or continues, the one wandb run of a workdir; its files are under `WORKDIR/wandb`.

    Where wandb cannot be used, this warns within seconds, and the run goes on without it.

    Args:
      mode: `disabled`, `offline` (no network: upload later with `wandb sync`) or `online`.
      config: shown with the run.
      workdir: the run's folder, whose name the run has; it remembers the run's id.
      kind: what wandb calls the type of the job.
      group: what the run is shown together with; None for the name of the folder.
      lowest: names of which the run's summary has the lowest value, not the last; `*` at the end stands for any.
    """
    check_mode(mode)
    if mode == "disabled":
        return _NoTracker()
    try:
        return _Wandb(mode, dict(config), Path(workdir).absolute(), kind, group, lowest)
    except Exception as error:
        logging.warning("going on without wandb: %s", " ".join(str(error).split()) or type(error).__name__)
        return _NoTracker()


def is_tracked(workdir: Path) -> bool:
    """Whether a run of this folder has been sent to wandb."""
    return (workdir / ID_FILE).exists()


class _NoTracker:
    active = False

    def log(self, row: Mapping[str, Any], step: int | None) -> None:
        del row, step

    def finish(self) -> None:
        pass


class _Wandb:
    def __init__(
        self, mode: str, config: dict[str, Any], workdir: Path, kind: str, group: str | None, lowest: Sequence[str]
    ):
        # Its telemetry, unlike the run, has no time limit: at exit it waits 12 s for a server that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Silent, it raises where it would ask for a key at the terminal. `wandb.login(prompt=False)` answers the same
        # question, but then looks the account up, which is another 5 s without a server.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        workdir.mkdir(parents=True, exist_ok=True)
        id_file = workdir / ID_FILE
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
            name=workdir.name,
            group=group or workdir.name,
            job_type=kind,
            id=id_file.read_text().strip(),
            resume="allow" if mode == "online" else None,
            config=config,
            dir=str(workdir),
            settings=settings,
        )
        for name in lowest:
            self._run.define_metric(name, summary="min")

    @property
    def active(self) -> bool:
        return self._run is not None

    def log(self, row: Mapping[str, Any], step: int | None) -> None:
        with self._warning("logging to"):
            if self._run is not None:
                self._run.log({name: _sent(x) for name, x in row.items()}, step=step)

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


def _sent(value: Any) -> Any:
    """A value as wandb takes it."""
    import wandb

    if isinstance(value, Path):
        return wandb.Image(str(value))
    return wandb.Histogram(np_histogram=(value.counts, value.edges)) if isinstance(value, Histogram) else value
