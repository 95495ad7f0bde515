"""Tensors of one shape are updated side by side, so that a step of many small tensors is few operations.

What a rule gets is in Flax's layout: views of the tensors, or of copies of them that stand side by side.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from lopt.torch.layouts import flax_axes, torch_axes
from lopt.torch.parts.sums import is_sharded
from lopt.torch.types import SHARED, Stack, State

# Up to this number of elements, tensors are copied to stand side by side. Above it, a copy costs more than the calls.
MOST_COPIED = {"cpu": 2**14}
MOST_COPIED_ELSEWHERE = 2**20

_copy: Any = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]


class Tensor(NamedTuple):
    """One parameter at one step.

    Attributes:
      param: the parameter.
      grad: its gradient, float32, all elements finite.
      state: its own state.
      layout: name of its layout.
      kind: what the rule said of it.
    """

    param: torch.Tensor
    grad: torch.Tensor
    state: State
    layout: str
    kind: Hashable


def neighbours(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The indices of those that are stacked: of one kind, layout and shape."""
    groups: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        param = tensor.param
        alone = is_sharded(param) or param.numel() > MOST_COPIED.get(param.device.type, MOST_COPIED_ELSEWHERE)
        key = i if alone else (tensor.kind, tensor.layout, param.shape)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def stack(tensors: Sequence[Tensor]) -> Stack:
    """Tensors of one kind, layout and shape as a rule gets them."""
    first = tensors[0]
    num_axes = first.param.ndim
    axes = flax_axes(first.layout, num_axes)
    names = [name for name in first.state if not name.startswith(SHARED)]

    def side_by_side(parts: list[torch.Tensor]) -> torch.Tensor:
        x = torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)
        return x.permute(0, *(1 + axis for axis in axes)) if parts[0].ndim == num_axes else x

    state = {name: side_by_side([tensor.state[name] for tensor in tensors]) for name in names}
    params = side_by_side([tensor.param.detach() for tensor in tensors]).float()
    return Stack(first.kind, params, side_by_side([tensor.grad for tensor in tensors]), state)


def unstack(stacked: torch.Tensor, layout: str, num_axes: int) -> list[torch.Tensor]:
    """The parts of a stacked tensor, in PyTorch's layout."""
    if stacked.ndim == num_axes + 1:
        back = torch_axes(flax_axes(layout, num_axes))
        stacked = stacked.permute(0, *(1 + axis for axis in back))
    return list(stacked.unbind(0))


def store(stacked: Stack, tensors: Sequence[Tensor]) -> None:
    """Puts the state of a stack that was made of copies back; that of a tensor alone was overwritten in place."""
    if len(tensors) == 1:
        return
    first = tensors[0]
    for name, x in stacked.state.items():
        parts = unstack(x, first.layout, first.param.ndim)
        _copy([tensor.state[name] for tensor in tensors], parts)


def flax_state(param: torch.Tensor, layout: str, init: Any) -> State:
    """`init(param)`, which sees Flax's layout, in PyTorch's."""
    axes = flax_axes(layout, param.ndim)
    back = torch_axes(axes)
    state = init(param.detach().permute(axes))
    return {name: x.permute(back) if x.ndim == param.ndim else x for name, x in state.items()}
