"""The latest checkpoints of a run's whole state, and one more that is to be kept (orbax).

A checkpoint is one orbax step folder. The state's leaves are stored flat, each under its path in the tree, beside a
manifest of their shapes and types and the checksums of the files. Both are looked at before an array is read: orbax
casts to the type that is asked for, does not notice a changed byte, and answers a cut file with hundreds of lines. A
folder without its checksums was cut off between writing and sealing: it counts as absent.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from lopt.files import check_seal, seal
from lopt.meta_training.workdir import CHECKPOINTS, finished_steps
from lopt.names import InputError
from lopt.trees import describe, differences
from lopt.types import PyTree

KEEP = 2  # of the latest, where nothing else is asked for
_log = logging.getLogger("absl")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written. The message says why, and which earlier step a restart would continue from."""


class _LatestAndOne:
    """Which checkpoints orbax keeps: the latest ones, all of them if their number is 0, and that of one step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each of the checkpoints, which are in the order of their steps."""
        del context
        old = len(checkpoints) - (self.number or len(checkpoints))
        return [i >= old or checkpoint.step == self.step for i, checkpoint in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints in `WORKDIR/checkpoints`; use it as a context manager, so that the last save is finished.

    Args:
      workdir: the run's folder.
      keep: how many of the latest are kept; 0 for all.
    """

    def __init__(self, workdir: str | os.PathLike, *, keep: int = KEEP):
        self._kept = _LatestAndOne(keep)
        self._directory = Path(workdir).absolute() / CHECKPOINTS
        context = ocp.Context()
        # Made in the background, a folder that cannot be made leaves a thread waiting for it for five minutes.
        context.async_options.create_directories_asynchronously = False
        context.async_options.timeout_secs = 10**9  # by a clock that may be set meanwhile
        self._saving: int | None = None
        self._sealing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1)
        _log.addFilter(_not_from_orbax)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            finished = finished_steps(self._directory)
            for folder in self._directory.iterdir():  # cut off before it was sealed: nothing of it can be trusted
                if folder.is_dir() and folder.name.isdecimal() and int(folder.name) not in finished:
                    shutil.rmtree(folder)
            # Orbax looks for its files by patterns, in which brackets and stars of the path would mean something.
            self._place = Path(tempfile.mkdtemp(prefix="lopt-"))
            (self._place / CHECKPOINTS).symlink_to(self._directory, target_is_directory=True)
            self._checkpointer = ocp.training.Checkpointer(
                str(self._place / CHECKPOINTS),
                context=context,
                preservation_policy=self._kept,
                cleanup_tmp_directories=True,  # what a killed run was writing
            )
        except Exception as error:
            _log.removeFilter(_not_from_orbax)
            raise InputError(
                f"cannot use {self._directory}: {_reason(error)}. "
                "Remove what does not belong there or choose another workdir."
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except CheckpointError as error:
            if exc_type is None:
                raise
            _log.error("%s", error)  # must not hide the exception that ends the run
        finally:
            self._thread.shutdown()
            self._checkpointer.close()
            shutil.rmtree(self._place, ignore_errors=True)
            _log.removeFilter(_not_from_orbax)

    def keep(self, step: int | None) -> None:
        """The checkpoint of this step is not deleted, however old it gets; the one that was kept before may be."""
        self._kept.step = step

    def latest_step(self) -> int | None:
        """The newest finished step, None if there is none."""
        return max(finished_steps(self._directory), default=None)

    def save(self, step: int, state: PyTree, then: Callable[[], object] = lambda: None) -> None:
        """As `save_leaves`, of a whole state."""
        self.save_leaves(step, by_path(state), then)

    def save_leaves(self, step: int, leaves: Mapping[str, Any], then: Callable[[], object] = lambda: None) -> None:
        """Starts to write a state; returns once it is copied, so that the caller may donate or change its buffers.

        A step that is already there is left as it is: the same config has the same state at the same step.

        Args:
          step: outer steps done.
          leaves: the arrays of the run's whole state, by their paths in it.
          then: is called when the checkpoint is finished, by a thread; what it raises counts as a failed save.

        Raises:
          CheckpointError: this save could not be started, or the one before it failed.
        """
        self.wait()
        if step in finished_steps(self._directory):
            then()
            return
        metadata: dict[str, Any] = {"step": step, "leaves": {path: describe(leaf) for path, leaf in leaves.items()}}
        # On CPU orbax writes from a view of the array's own buffer. XLA does not reuse a buffer that has a view, but
        # that is its promise and not orbax's. And orbax refuses arrays without elements, of which the manifest is all.
        arrays = {path: jnp.copy(leaf) for path, leaf in leaves.items() if leaf.size}
        self._saving = step
        try:
            written = self._checkpointer.save_async(step, arrays, force=True, custom_metadata=metadata)
        except Exception as error:
            raise self._failure(error) from error
        self._sealing = self._thread.submit(self._finish, written, self._directory / str(step), then)

    def wait(self) -> None:
        """Returns when nothing is being written. Raises CheckpointError if the save in progress failed."""
        sealing, self._sealing = self._sealing, None
        try:
            self._checkpointer.wait()  # first: orbax raises a failure once in every thread that waits for it
            if sealing is not None:
                sealing.result()
        except Exception as error:
            raise self._failure(error) from error

    def restore(self, template: PyTree) -> tuple[int, PyTree]:
        """As `restore_leaves`, of a whole state: `(step, state)`."""
        step, leaves = self.restore_leaves(by_path(template))
        return step, jax.tree.unflatten(jax.tree.structure(template), list(leaves.values()))

    def restore_leaves(self, leaves: Mapping[str, Any]) -> tuple[int, dict[str, jax.Array]]:
        """Reads the newest step: `(step, arrays by their paths)`.

        Args:
          leaves: by their paths in the state, arrays or `jax.ShapeDtypeStruct`. A leaf comes back with the sharding
            that it has there; one that has none, or is not committed to it, comes back uncommitted.

        Raises:
          InputError: no checkpoint, a damaged one, or one of another state. The folder is left as it is.
        """
        self.wait()
        step = self.latest_step()
        if step is None:
            raise InputError(f"there is no checkpoint in {self._directory}.")
        folder = self._directory / str(step)
        targets = {path: _target(leaf) for path, leaf in leaves.items()}
        asked = {path: describe(leaf) for path, leaf in leaves.items()}
        arrays = {path: jnp.empty(t.shape, t.dtype, device=t.sharding) for path, t in targets.items() if not t.size}
        try:
            check_seal(folder)
            metadata = self._checkpointer.metadata(step).custom_metadata
            listed, number = (
                (metadata.get("leaves"), metadata.get("step", step)) if isinstance(metadata, dict) else (None, None)
            )
            if not isinstance(listed, dict):
                raise ValueError("it has no list of its arrays, so it is damaged or another program's")
            if number != step:
                raise ValueError(f"it is the checkpoint of step {number}, in a folder that was renamed")
            found = {path: str(description) for path, description in listed.items()}
            if found == asked:
                arrays |= self._checkpointer.load(step, {path: t for path, t in targets.items() if t.size})
        except Exception as error:
            earlier = max((s for s in finished_steps(self._directory) if s < step), default=None)
            back = "" if earlier is None else f"delete that folder to go back to step {earlier}, or "
            raise InputError(
                f"cannot restore step {step} from {folder}: {_reason(error)}. Nothing was changed; "
                f"{'there is no earlier step: ' if earlier is None else ''}{back}choose another workdir."
            ) from error
        if found != asked:
            raise InputError(
                f"{folder} holds the state of another run: {differences(found, asked)}. Nothing was changed; "
                "continue it with the settings and the version that wrote it, or choose another workdir."
            )
        return step, {
            path: arrays[path] if _sharding(leaf) else _uncommitted(arrays[path]) for path, leaf in leaves.items()
        }

    @staticmethod
    def _finish(written: Any, folder: Path, then: Callable[[], object]) -> None:
        if written.result():
            seal(folder)
            then()

    def _failure(self, error: Exception) -> CheckpointError:
        latest = self.latest_step()
        usable = "there is no earlier step" if latest is None else f"a restart continues from step {latest}"
        return CheckpointError(f"cannot write step {self._saving} to {self._directory}: {_reason(error)}; {usable}.")


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a state by their paths in it, in its order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _sharding(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.sharding.Sharding | None:
    """Where a leaf must live; None if it may live anywhere."""
    return leaf.sharding if getattr(leaf, "committed", True) else None


def _target(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    # orbax takes a sharding that it is not given from the file, and so needs the devices of the run that wrote it.
    sharding = _sharding(leaf) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _uncommitted(array: jax.Array) -> jax.Array:
    """A copy that jit may move to the devices of its other arguments; one that is committed it refuses to mix."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = jnp.array(np.asarray(jax.random.key_data(array)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    return jnp.array(np.asarray(array))


def _reason(error: BaseException) -> str:
    while isinstance(error.__cause__, Exception) and "handler" in str(error):  # orbax lists all its handlers first
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 300 else text[:300] + " ...").rstrip(".")


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Drops orbax's own lines: what matters in them is raised, and one failed write logs two thousand of them."""
    return "orbax" not in Path(record.pathname).parts
