"""Sums over tensors, which may be on several devices (DTensor)."""

import functools

import torch


@functools.cache
def _dtensor() -> type | None:
    """The class DTensor, if this PyTorch was built with it."""
    if not torch.distributed.is_available():
        return None
    from torch.distributed.tensor import DTensor

    return DTensor


def is_sharded(x: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor, of which each process may hold a part."""
    kind = _dtensor()
    return kind is not None and isinstance(x, kind)


def whole(x: torch.Tensor) -> torch.Tensor:
    """A plain tensor with all elements, on every process; meant for small ones."""
    return x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]


def settled(x: torch.Tensor) -> torch.Tensor:
    """The result of a sum as numbers: a DTensor whose parts wait to be added has them added."""
    if not is_sharded(x):
        return x
    from torch.distributed.tensor import Replicate

    placements = [Replicate() if place.is_partial() else place for place in x.placements]  # type: ignore[attr-defined]
    return x.redistribute(placements=placements)  # type: ignore[attr-defined]


def like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A plain tensor, the same on all processes, placed as `other` is."""
    if not is_sharded(other):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    mesh = other.device_mesh  # type: ignore[attr-defined]
    replicated = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=other.placements)  # type: ignore[attr-defined]


def per_tensor(x: torch.Tensor, num_axes: int) -> torch.Tensor:
    """Numbers `[k]` as `[k, 1, ..., 1]`, which multiply tensors `[k, *shape]` of this number of axes."""
    return x.reshape(-1, *[1] * num_axes)


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over each of the tensors `[k, *shape]`: plain numbers `[k]`."""
    return whole(x.sum(dim=tuple(range(1, x.ndim))) if x.ndim > 1 else x)
