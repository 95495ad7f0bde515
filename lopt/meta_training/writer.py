"""The process that reads and writes the checkpoints of a run that is spread over several processes.

In a process that is one of several, orbax writes with all of them, into a folder that all must see. So the first
process of a run starts one more, which is no part of it, sends it whole states, and gets them back. It ends with the
one that started it; what it has not sealed then counts as absent.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lopt.meta_training.checkpoint import CheckpointError, Checkpoints
from lopt.names import InputError

POLL_SECONDS = 0.2  # after which the process notices that the one that started it is gone
# Signals are meant for the run, which has something to save.
_PROGRAM = f"""
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
from {__name__} import serve
serve()
"""
_ERRORS = {kind.__name__: kind for kind in (InputError, CheckpointError)}


class Plain(NamedTuple):
    """A leaf as it crosses between processes.

    Attributes:
      shape: of the leaf.
      dtype: of the leaf, or of the data of its keys.
      is_key: whether it holds keys.
      data: its values, or the data of its keys; None where only the others matter.
    """

    shape: tuple[int, ...]
    dtype: Any
    is_key: bool
    data: Any = None

    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and type, as JAX has them."""
        return jax.ShapeDtypeStruct(self.shape, jax.random.key(0).dtype if self.is_key else self.dtype)

    def array(self) -> Any:
        """The leaf."""
        return jax.random.wrap_key_data(self.data) if self.is_key else self.data


class Writer(contextlib.AbstractContextManager):
    """Has the checkpoints of a run written by another process; as `Checkpoints`, with leaves by their paths.

    Args:
      workdir: the run's folder.
      keep: how many of the latest are kept; 0 for all.
    """

    def __init__(self, workdir: Path, keep: int):
        self._ours, theirs = Pipe()
        root = str(Path(__file__).parents[2])  # where this very lopt is found
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(Path(workdir).absolute()), str(keep)],
            env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        self._lock = threading.Lock()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(CheckpointError):
            self.wait()
        self._thread.shutdown()
        self._ours.close()
        self._process.wait()

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Calls a method of `Checkpoints` there. Raises what it raises, and CheckpointError if the process is gone."""
        with self._lock:
            try:
                self._ours.send((name, arguments))
                kind, value = self._ours.recv()
            except (EOFError, OSError) as error:
                raise CheckpointError(f"the process that writes the checkpoints has ended ({error!r})") from error
        if kind:
            raise _ERRORS[kind](value)
        return value

    def save(self, step: int, leaves: Mapping[str, Plain], then: Callable[[], object]) -> None:
        """Starts to write a state; `then` is called when it is finished. The save before must be finished."""

        def write() -> None:
            self("save_leaves", step, dict(leaves))
            then()

        self._saving = self._thread.submit(write)

    def wait(self) -> None:
        """Returns when nothing is being written. Raises CheckpointError if the save in progress failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except OSError as error:  # of what was to be done after it
                raise CheckpointError(f"cannot write what belongs to a checkpoint: {error}") from error


def _serve(connection: Connection, checkpoints: Checkpoints) -> None:
    """Answers until the other side is closed."""

    def save_leaves(step: int, leaves: Mapping[str, Plain]) -> None:
        arrays = {path: jax.numpy.asarray(leaf.array()) for path, leaf in leaves.items()}
        checkpoints.save_leaves(step, arrays)
        checkpoints.wait()

    def restore_leaves(wanted: Mapping[str, Plain]) -> tuple[int, dict[str, np.ndarray]]:
        step, found = checkpoints.restore_leaves({path: leaf.struct() for path, leaf in wanted.items()})
        keys = {path: jax.random.key_data(found[path]) for path, leaf in wanted.items() if leaf.is_key}
        return step, {path: np.asarray(x) for path, x in {**found, **keys}.items()}

    methods = {"save_leaves": save_leaves, "restore_leaves": restore_leaves, "keep": checkpoints.keep}
    methods["latest_step"] = checkpoints.latest_step
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "", methods[name](*arguments)
        except (InputError, CheckpointError) as error:
            answer = type(error).__name__, str(error)
        connection.send(answer)


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone, also in the middle of a save."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def serve() -> None:
    """What the process does: a pipe, the run's folder and the number of checkpoints are on its command line."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    try:
        checkpoints = Checkpoints(sys.argv[2], keep=int(sys.argv[3]))
    except InputError as error:
        with contextlib.suppress(EOFError, OSError):
            connection.recv()
            connection.send((type(error).__name__, str(error)))
        return
    with checkpoints:
        _serve(connection, checkpoints)
