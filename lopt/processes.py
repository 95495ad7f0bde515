"""What the processes of one run tell each other, where a run is spread over several (`jax.distributed`).

Every process runs the same program, and computations that cross devices meet only if all processes begin them in the
same order. So whatever one process alone knows (its files, its clock, its signals) is told to all before they decide by
it. In a run of a single process, each of these functions is an ordinary call.
"""

import contextlib
import functools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from lopt.names import InputError
from lopt.types import PyTree

_T = TypeVar("_T")
_SIGNS_OF_A_LOST_PEER = ("Gloo", "NCCL", "Connection closed by peer", "coordination service", "heartbeat")


class PeerError(RuntimeError):
    """Another process of this run has ended: it says why itself, or was killed, or its machine is gone."""


class ToldElsewhere(PeerError):
    """Another process of this run cannot go on, and has raised an error that says why."""


def number() -> int:
    """Number of processes in this run. A single one does not start its devices for it, which takes a while."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's files, and talks."""
    return number() == 1 or jax.process_index() == 0


def of_first(value: _T) -> _T:
    """The value that the first process has given: plain values that JSON knows; tuples come back as lists."""
    if number() == 1:
        return value
    return json.loads(bytes_of_first(json.dumps(value if is_first() else None).encode()))


def bytes_of_first(data: bytes) -> bytes:
    """The bytes that the first process has given."""
    if number() == 1:
        return data
    size = int(gather(np.array([len(data)], np.int32))[0, 0])
    padded = np.zeros(max(64, 1 << (size - 1).bit_length()), np.uint8)  # few sizes, so that few programs are compiled
    if is_first():
        padded[:size] = np.frombuffer(data, np.uint8)
    return array_of_first(padded)[:size].tobytes()


def largest(value: float) -> float:
    """The largest of the values that the processes have given, to the precision of float32."""
    return value if number() == 1 else float(gather(np.array([value], np.float32)).max())


def gather(row: np.ndarray) -> np.ndarray:
    """The arrays that the processes have given, all of one shape: `[processes, ...]`."""
    return np.asarray(_on_all(_stacked(row), _mesh()))


def connect_devices() -> None:
    """Connects each device of this run with all others, which else happens at the first sum over all of them."""
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    sharding, shape = NamedSharding(mesh, PartitionSpec("devices")), (len(jax.devices()),)
    rows = jax.make_array_from_callback(shape, sharding, lambda index: np.zeros(1, np.int32))
    _on_all(rows, mesh).block_until_ready()


def array_of_first(array: np.ndarray) -> np.ndarray:
    """The array that the first process has given, to the last bit; the others give one of the same shape and type."""
    if number() == 1 or not array.size:
        return array
    # As bytes, to which the zeros of the others are added: a sum of numbers would lose the sign of a zero.
    own = np.frombuffer(array.tobytes(), np.uint8)
    data = np.asarray(_sum_on_all(_stacked(own if is_first() else np.zeros_like(own)), _mesh()))
    return np.frombuffer(data.tobytes(), array.dtype).reshape(array.shape)


def first_does(function: Callable[[], Any]) -> Any:
    """What `function` returns in the first process, which alone calls it: plain values that JSON knows.

    Raises:
      ToldElsewhere: in the other processes, where it raised in the first.
    """
    if number() == 1:
        return function()
    if not is_first():
        said: Any = of_first(None)
        if "error" in said:
            raise ToldElsewhere(said["error"])
        return said["value"]
    try:
        value = function()
    except BaseException as error:
        of_first({"error": str(error) or type(error).__name__})
        raise
    return of_first({"value": value})["value"]


def all_do(function: Callable[[], _T]) -> _T:
    """What `function` returns; it may not wait for other processes.

    Raises:
      ToldElsewhere: it raised in another process only.
    """
    if number() == 1:
        return function()
    failed: BaseException | None = None
    value: Any = None
    try:
        value = function()
    except Exception as error:
        failed = error
    bad = gather(np.array([failed is not None]).astype(np.int32))[:, 0]
    if failed is not None:
        raise failed
    if bad.any():
        raise ToldElsewhere(f"process {int(bad.argmax())} of this run cannot go on, and says why")
    return value


def check_same(things: Mapping[str, Any]) -> None:
    """Raises InputError unless all processes have the same things.

    Args:
      things: what is compared, by what it is called in the message: arrays in a pytree, or anything with a text.
    """
    if number() == 1:
        return
    sums = gather(np.array([_checksum(value) for value in things.values()], np.uint32))
    for name, column in zip(things, sums.T, strict=True):
        if (column != column[0]).any():
            other = int((column != column[0]).argmax())
            raise InputError(
                f"process {other} of this run has other {name} than process 0: all processes must be started with the "
                "same command, versions and data"
            )


def whole(array: jax.Array, everywhere: Sharding) -> np.ndarray | None:
    """All of an array that is spread over processes, in the first one; None in the others.

    Args:
      array: of any sharding, and no keys.
      everywhere: the sharding by which every device has all of it.
    """
    gathered = array if array.is_fully_replicated else _with_sharding(array, everywhere)
    return np.array(gathered.addressable_data(0)) if is_first() else None


def put(tree: PyTree, sharding: Any) -> PyTree:
    """Arrays that every process has in full, placed by a sharding over devices of all processes; no bytes cross."""
    if number() == 1:
        return jax.device_put(tree, sharding)

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


@contextlib.contextmanager
def noticing_lost_peers(state: str) -> Iterator[None]:
    """Raises PeerError where a computation fails because another process has ended.

    Args:
      state: what is left of the run, and what to do.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if number() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_A_LOST_PEER):
            raise
        raise PeerError(
            f"another process of this run has ended: what it says, or its machine, tells why. {state}"
        ) from error


@functools.cache
def _mesh() -> Mesh:
    """One device of each process."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    return Mesh(np.array([first[i] for i in range(number())]), ("processes",))


def _stacked(row: np.ndarray) -> jax.Array:
    """`[processes, ...]`, of which each process has its own row."""
    return jax.make_array_from_process_local_data(NamedSharding(_mesh(), PartitionSpec("processes")), row[None])


@functools.partial(jax.jit, static_argnums=1)
def _on_all(rows: jax.Array, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=1)
def _sum_on_all(rows: jax.Array, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(rows.sum(0, dtype=rows.dtype), NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=1)
def _with_sharding(array: jax.Array, sharding: Sharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, sharding)


def _checksum(value: Any) -> int:
    """CRC-32 of a text, or of the arrays of a pytree."""
    if isinstance(value, str):
        return zlib.crc32(value.encode())
    crc = 0
    for leaf in jax.tree.leaves(value):
        array = np.asarray(leaf)
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(f"{array.dtype}{array.shape}".encode(), crc))
    return crc
