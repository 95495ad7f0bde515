"""Sums over tensors, which may be on several devices (DTensor)."""

import torch

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor, Partial, Replicate  # pyright: ignore[reportAssignmentType]
else:  # a PyTorch that was built without it has no such tensors

    class DTensor(torch.Tensor): ...


def is_sharded(x: torch.Tensor) -> bool:
    """Whether a tensor is a DTensor, of which each process may hold a part."""
    return isinstance(x, DTensor)


def local_part(x: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds, as a plain tensor."""
    return x.to_local() if isinstance(x, DTensor) else x  # type: ignore[attr-defined]


def whole(x: torch.Tensor) -> torch.Tensor:
    """A plain tensor with all elements, on every process; meant for small ones."""
    return x.full_tensor() if isinstance(x, DTensor) else x  # type: ignore[attr-defined]


def settled(x: torch.Tensor) -> torch.Tensor:
    """The result of a sum as numbers: a DTensor whose parts wait to be added has them added."""
    if not isinstance(x, DTensor):
        return x
    placements = [Replicate() if place.is_partial() else place for place in x.placements]  # type: ignore[attr-defined]
    return x.redistribute(placements=placements)  # type: ignore[attr-defined]


def like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A tensor placed as `other` is; a plain one is the same on all processes."""
    if not isinstance(other, DTensor):
        return x
    mesh = other.device_mesh  # type: ignore[attr-defined]
    if not isinstance(x, DTensor):
        x = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)  # type: ignore[attr-defined]
    return x.redistribute(placements=other.placements)  # type: ignore[attr-defined]


def as_part(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A plain tensor that is this process's part of a whole, which is placed as `other` is."""
    if not isinstance(other, DTensor):
        return x
    mesh, placements = other.device_mesh, other.placements  # type: ignore[attr-defined]
    shape = {"shape": other.shape, "stride": other.stride()}
    return DTensor.from_local(x, mesh, placements, run_check=False, **shape)  # type: ignore[attr-defined]


def added_up(numbers: list[torch.Tensor], other: torch.Tensor) -> list[torch.Tensor]:
    """The sums over processes of what each has found in its own part of `other`, by one message for all."""
    if not isinstance(other, DTensor):
        return numbers
    mesh = other.device_mesh  # type: ignore[attr-defined]
    placements = [Partial() if p.is_shard() else Replicate() for p in other.placements]  # type: ignore[attr-defined]
    joined = torch.cat([x.flatten() for x in numbers])
    sums = DTensor.from_local(joined, mesh, placements, run_check=False).full_tensor()  # type: ignore[attr-defined]
    return [part.reshape(x.shape) for part, x in zip(sums.split([x.numel() for x in numbers]), numbers, strict=True)]


def per_tensor(x: torch.Tensor, num_axes: int) -> torch.Tensor:
    """Numbers `[k]` as `[k, 1, ..., 1]`, which multiply tensors `[k, *shape]` of this number of axes."""
    return x.reshape(-1, *[1] * num_axes)


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over each of the tensors `[k, *shape]`: plain numbers `[k]`."""
    return whole(x.sum(dim=tuple(range(1, x.ndim))) if x.ndim > 1 else x)
