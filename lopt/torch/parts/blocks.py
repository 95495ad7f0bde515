"""Passes over tensors in pieces that fit into a cache, on the part of them that this process holds."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch

from lopt.torch.parts.sums import as_part, local_part

BLOCK = 2**17  # most elements in a block on a CPU; other devices take a tensor at once

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
        return local_part(x).permute(axes)

    share = localize(whole).numel() / max(whole.numel(), 1)
    return Local(map_arrays(localize, arrays), axes, share)


def from_local(x: torch.Tensor, local: Local, whole: torch.Tensor) -> torch.Tensor:
    """A local result with its axes in their order, as part of a tensor that is placed as `whole` is."""
    x = x.permute(tuple(sorted(range(x.ndim), key=lambda axis: local.axes[axis])))
    return as_part(x, whole)


def cut(arrays: Tree, shape: torch.Size, axis: int, most: int = BLOCK) -> Iterator[tuple[Tree, slice]]:
    """The arrays in blocks along an axis, where those of length 1 stay as they are, and the place of each block.

    Args:
      arrays: a tree of arrays that broadcast to the shape.
      shape: of all elements.
      axis: is cut.
      most: elements in a block.
    """
    count = shape.numel()
    if count <= most or _first(arrays).device.type != "cpu":
        yield arrays, slice(0, shape[axis])
        return
    length = max(most * shape[axis] // count, 1)
    for start in range(0, shape[axis], length):
        stop = min(start + length, shape[axis])

        def own(x: torch.Tensor, start: int = start, stop: int = stop) -> torch.Tensor:
            return x.narrow(axis, start, stop - start) if x.shape[axis] == shape[axis] > 1 else x

        yield map_arrays(own, arrays), slice(start, stop)


def _first(arrays: Any) -> torch.Tensor:
    return arrays if isinstance(arrays, torch.Tensor) else _first(arrays[0])
