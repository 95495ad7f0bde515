"""Passes over tensors in pieces that fit into a cache, on the part of them that this process holds."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch

from lopt.torch.parts.sums import is_sharded

BLOCK = 2**15  # most elements in a block on a CPU; other devices take a tensor at once

Tree = TypeVar("Tree")


def map_arrays(function: Any, tree: Tree) -> Tree:
    """`function` of every tensor in nested named tuples and sequences."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    parts = [map_arrays(function, part) for part in tree]  # type: ignore[attr-defined]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)  # type: ignore[call-arg]


class Local(NamedTuple):
    """Arrays as they lie in this process's memory.

    Attributes:
      arrays: a tree of plain tensors; axes are in the order in which memory has them.
      axes: where each axis of the arrays was before.
      share: the part of all elements that this process has.
    """

    arrays: Any
    axes: tuple[int, ...]
    share: float


def to_local(arrays: Any, whole: torch.Tensor) -> Local:
    """The local part of a tree of arrays that broadcast to `whole`, `[k, *shape]`."""
    axes = (0, *sorted(range(1, whole.ndim), key=lambda axis: -whole.stride(axis)))

    def localize(x: torch.Tensor) -> torch.Tensor:
        return (x.to_local() if is_sharded(x) else x).permute(axes)  # type: ignore[attr-defined]

    share = localize(whole).numel() / max(whole.numel(), 1)
    return Local(map_arrays(localize, arrays), axes, share)


def from_local(x: torch.Tensor, local: Local, whole: torch.Tensor) -> torch.Tensor:
    """A local result with its axes in their order, as part of a tensor that is placed as `whole` is."""
    x = x.permute(tuple(sorted(range(x.ndim), key=lambda axis: local.axes[axis])))
    if not is_sharded(whole):
        return x
    from torch.distributed.tensor import DTensor

    mesh, placements = whole.device_mesh, whole.placements  # type: ignore[attr-defined]
    return DTensor.from_local(x, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())


def added_up(numbers: list[torch.Tensor], whole: torch.Tensor) -> list[torch.Tensor]:
    """The sums over processes of what each has found in its own part of `whole`, by one message for all."""
    if not is_sharded(whole):
        return numbers
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = whole.device_mesh  # type: ignore[attr-defined]
    placements = [Partial() if p.is_shard() else Replicate() for p in whole.placements]  # type: ignore[attr-defined]
    joined = torch.cat([x.flatten() for x in numbers])
    parts = DTensor.from_local(joined, mesh, placements, run_check=False).full_tensor()
    return [part.reshape(x.shape) for part, x in zip(parts.split([x.numel() for x in numbers]), numbers, strict=True)]


def cut(arrays: Tree, shape: torch.Size, axis: int) -> Iterator[tuple[Tree, slice]]:
    """The arrays in blocks along an axis, where those of length 1 stay as they are, and the place of each block."""
    count = shape.numel()
    if count <= BLOCK or _first(arrays).device.type != "cpu":
        yield arrays, slice(0, shape[axis])
        return
    length = max(BLOCK * shape[axis] // count, 1)
    for start in range(0, shape[axis], length):
        stop = min(start + length, shape[axis])

        def own(x: torch.Tensor, start: int = start, stop: int = stop) -> torch.Tensor:
            return x.narrow(axis, start, stop - start) if x.shape[axis] == shape[axis] > 1 else x

        yield map_arrays(own, arrays), slice(start, stop)


def _first(arrays: Any) -> torch.Tensor:
    return arrays if isinstance(arrays, torch.Tensor) else _first(arrays[0])
