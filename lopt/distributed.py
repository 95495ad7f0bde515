"""Which device runs which antithetic pair, and what the machine has."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lopt import processes
from lopt.names import InputError
from lopt.types import Data, PyTree, TaskFamily

AXIS = "pairs"


@dataclasses.dataclass(frozen=True)
class PairLayout:
    """Splits the pair axis over devices; only sums over pairs cross them.

    Attributes:
      num_devices: how many devices; must divide the number of pairs.
      sequential: whether each device takes its particles one after another (best on a CPU core, whose cache then holds
        the particle) rather than all at once by vmap (best on an accelerator).
    """

    num_devices: int = 1
    sequential: bool = True

    @property
    def mesh(self) -> Mesh:
        # As many of each process: a process without a device in it could not take part.
        each = self.num_devices // jax.process_count()
        devices = [x for i in range(jax.process_count()) for x in jax.local_devices(process_index=i)[:each]]
        return jax.make_mesh((self.num_devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device holds in full."""
        return NamedSharding(self.mesh, PartitionSpec())

    def for_all(self, tree: PyTree) -> PyTree:
        """Within jit: values that every process can read. One process can read all there is."""
        return tree if jax.process_count() == 1 else jax.lax.with_sharding_constraint(tree, self.replicated)

    def load(self, family: TaskFamily) -> Data:
        """The data of a family, where every device of this layout has all of it."""
        data = family.load()
        if jax.process_count() == 1:
            return jax.tree.map(jnp.asarray, data)
        return processes.put(data, self.replicated)

    @property
    def split(self) -> NamedSharding:
        """The sharding of arrays with a leading pair axis."""
        # On one device jit itself describes a split axis as not split; the same description keeps one program.
        return NamedSharding(self.mesh, PartitionSpec(AXIS) if self.num_devices > 1 else PartitionSpec())

    def map(self, function: Callable[..., PyTree], xs: PyTree) -> PyTree:
        """Maps `function` over the leading axis of `xs`, within one device."""
        return jax.lax.map(function, xs) if self.sequential else jax.vmap(function)(xs)

    def map_pairs(self, function: Callable[[Any], PyTree], pairs: PyTree) -> PyTree:
        """Maps `function` over pairs, across devices; arguments and results have a leading pair axis."""
        return self.sum_pairs(lambda pair: ((), function(pair)), pairs)[1]

    def sum_pairs(self, function: Callable[[Any], tuple[PyTree, PyTree]], pairs: PyTree) -> tuple[PyTree, PyTree]:
        """Maps `function: pair -> (terms, kept)`; returns the sum of `terms` over all pairs, and each pair's `kept`."""
        if self.sequential and self.num_devices > 1:
            return self._sum_on_each_device(function, pairs)
        terms, kept = self.map(function, pairs)
        if self.num_devices > 1:
            kept = jax.lax.with_sharding_constraint(kept, self.split)  # the compiler splits a vmapped axis by itself
        return jax.tree.map(lambda x: x.sum(0), terms), kept

    def _sum_on_each_device(self, function: Callable[[Any], tuple[PyTree, PyTree]], pairs: PyTree) -> Any:
        """The sum by `shard_map`: without it, every device would run a loop over all pairs."""
        one_pair = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), pairs)
        explicit, captured = _capture(function, one_pair)

        def on_one_device(captured, local_pairs):
            terms, kept = self.map(functools.partial(explicit, captured), local_pairs)
            sums = jax.tree.map(lambda x: jax.lax.psum(x.sum(0), AXIS), terms)
            return sums, kept

        return jax.shard_map(
            on_one_device,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            check_vma=False,  # the function is the problem's, which need not know about the axis
        )(captured, pairs)


def _capture(function: Callable[[Any], PyTree], example: PyTree) -> tuple[Callable[[list, Any], PyTree], list]:
    """Makes the arrays that a function closes over an argument.

    Theta and the problem's data reach a pair's function by closure; `shard_map` wants them as arguments.

    Returns:
      `(explicit, captured)`, with `explicit(captured, x)` equal to `function(x)`.
    """
    # jit makes it one equation, which is traced again inside of shard_map; other equations would keep theta's mesh.
    closed, result = jax.make_jaxpr(jax.jit(function), return_shape=True)(example)
    structure = jax.tree.structure(result)

    def explicit(captured: list, x: Any) -> PyTree:
        return jax.tree.unflatten(structure, eval_jaxpr(closed.jaxpr, captured, *jax.tree.leaves(x)))

    return explicit, closed.consts


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def machine_memory() -> int:
    """Bytes of main memory; no bound where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**63


def default_layout(num_pairs: int, num_devices: int | None = None) -> PairLayout:
    """The layout for the machines of this run.

    Args:
      num_pairs: number of pairs to share.
      num_devices: how many devices of each process; None: the largest number with which all divide `num_pairs`.

    Raises:
      InputError: a process has fewer devices than `num_devices`, or together they do not divide `num_pairs`.
    """
    processes, available = jax.process_count(), devices_per_process()
    sequential = jax.default_backend() == "cpu"
    if sequential and num_devices is not None and num_devices > num_cores():
        raise InputError(f"{num_devices} devices asked for, and this machine has {num_cores()} CPU cores, one for each")
    if num_pairs % processes:
        raise InputError(f"{processes} processes cannot share {num_pairs} pairs equally: choose a divisor")
    if num_devices is None:
        num_devices = max(n for n in range(1, available + 1) if num_pairs % (n * processes) == 0)
    if not 1 <= num_devices <= available:
        raise InputError(f"cannot use {num_devices} devices: this machine has {available}")
    if num_pairs % (num_devices * processes):
        each = f"{processes} processes with {num_devices}" if processes > 1 else f"{num_devices}"
        raise InputError(f"{each} devices cannot share {num_pairs} pairs equally: choose a divisor")
    return PairLayout(num_devices * processes, sequential)


def devices_per_process() -> int:
    """Number of devices that every process of this run has, of which some may have more."""
    return min(len(jax.local_devices(process_index=i)) for i in range(jax.process_count()))


def check_one_process(what: str) -> None:
    """Raises InputError where this process is one of several, for what runs in one only."""
    if jax.process_count() > 1:
        raise InputError(f"{what} runs in one process, and this is one of {jax.process_count()}: start it by itself")
