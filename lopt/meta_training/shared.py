"""The checkpoints of a run that is spread over several processes: states come together in the first, and spread again.

The files are those of a run of one process, so that either goes on from what the other has left.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt import processes
from lopt.distributed import PairLayout
from lopt.meta_training.checkpoint import Checkpoints, by_path
from lopt.meta_training.writer import Plain, Writer
from lopt.types import PyTree


class SharedCheckpoints(contextlib.AbstractContextManager):
    """As `Checkpoints`; every process makes one and calls the same methods, and the first one has the files.

    Args:
      workdir: the run's folder.
      keep: how many of the latest are kept; 0 for all.
      layout: how states are spread.
    """

    def __init__(self, workdir: Path, keep: int, layout: PairLayout):
        self._everywhere = layout.replicated
        made: list[Writer] = []
        processes.first_does(lambda: made.append(Writer(workdir, keep)))
        self._writer = made[0] if made else None

    def __exit__(self, *raised: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(*raised)

    def keep(self, step: int | None) -> None:
        """The checkpoint of this step is not deleted, however old it gets."""
        self._first(lambda writer: writer("keep", step))

    def latest_step(self) -> int | None:
        """The newest finished step, None if there is none."""
        return self._first(lambda writer: writer("latest_step"))

    def save(self, step: int, state: PyTree, then: Callable[[], object] = lambda: None) -> None:
        """Starts to write `state`, leaf by leaf brought together in the first process; arguments as in `Checkpoints`.

        Raises:
          CheckpointError: in the first process, if the save before this one failed.
          ToldElsewhere: in the others then.
        """
        self.wait()
        plain = {path: self._gathered(leaf) for path, leaf in by_path(state).items()}
        if self._writer is not None:
            self._writer.save(step, {path: leaf for path, leaf in plain.items() if leaf is not None}, then)

    def wait(self) -> None:
        """Returns when nothing is being written; raises as `save`."""
        self._first(lambda writer: writer.wait())

    def restore(self, template: PyTree) -> tuple[int, PyTree]:
        """Reads the newest step, `(step, state)`; raises as `Checkpoints`, in the first process."""
        leaves = by_path(template)
        found: dict[str, np.ndarray] = {}

        def read(writer: Writer) -> int:
            step, arrays = writer("restore_leaves", {path: _form(leaf) for path, leaf in leaves.items()})
            found.update(arrays)
            return step

        step = self._first(read)
        values = [_spread(found.get(path), leaf) for path, leaf in leaves.items()]
        return step, jax.tree.unflatten(jax.tree.structure(template), values)

    def _first(self, function: Callable[[Writer], Any]) -> Any:
        return processes.first_does(lambda: self._writer and function(self._writer))

    def _gathered(self, leaf: jax.Array) -> Plain | None:
        """All of a leaf in the first process."""
        form = _form(leaf)
        data = processes.whole(_key_data(leaf) if form.is_key else leaf, self._everywhere)
        return None if data is None else form._replace(data=data)


def open_checkpoints(workdir: str | os.PathLike, keep: int, layout: PairLayout) -> Checkpoints | SharedCheckpoints:
    """The checkpoints of a run, whatever the number of its processes."""
    if processes.number() == 1:
        return Checkpoints(workdir, keep=keep)
    return SharedCheckpoints(Path(workdir), keep, layout)


def _form(leaf: jax.Array | jax.ShapeDtypeStruct) -> Plain:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return Plain(leaf.shape, None if is_key else np.dtype(leaf.dtype), is_key)


@jax.jit
def _key_data(keys: jax.Array) -> jax.Array:
    return jax.random.key_data(keys)


def _spread(array: np.ndarray | None, like: jax.ShapeDtypeStruct) -> jax.Array:
    """An array of the first process where `like` says; None in the others."""
    shape = like
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        shape = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(like.shape, like.dtype))
    host = np.zeros(shape.shape, shape.dtype) if array is None else array
    placed = processes.put(processes.array_of_first(host), like.sharding)
    return placed if shape is like else _wrapped(placed)


@jax.jit
def _wrapped(data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data)
