"""Running statistics of gradients, and what a rule reads of them; see `lopt/optimizers/parts/accumulators.py`.

A tensor's state has `momentum_i`, `rms`, `row_i` and `column_i`, one per decay. Rows are means over the largest axis,
columns over the second largest; below two axes there are rows alone, with the whole second moment.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lopt.torch.parts.numbers import rounded
from lopt.torch.parts.sums import settled
from lopt.torch.types import Stack, State

Decay = float | torch.Tensor


class Decays(NamedTuple):
    """Decays of momenta, of the mean square and of the factored second moments; numbers are `rounded`, or learned."""

    momentum: Sequence[Decay]
    rms: Sequence[Decay]
    factored: Sequence[Decay]


DECAYS = Decays(rounded(0.9, 0.99, 0.999), rounded(0.999), rounded(0.9, 0.99, 0.999))


class Statistics(NamedTuple):
    """What the features of tensors are computed from; all arrays broadcast to `[k, *shape]`.

    Attributes:
      grad: `[k, *shape]`.
      param: `[k, *shape]`.
      momenta: one per decay, `[k, *shape]`.
      rms: `[k, *shape]`, running mean of g^2.
      row: factored second moments, one per decay; below two axes the full ones.
      column: likewise.
      row_factor: of `factored_scales`, one per decay.
      column_factor: likewise.
    """

    grad: torch.Tensor
    param: torch.Tensor
    momenta: Sequence[torch.Tensor]
    rms: torch.Tensor
    row: Sequence[torch.Tensor]
    column: Sequence[torch.Tensor]
    row_factor: Sequence[torch.Tensor]
    column_factor: Sequence[torch.Tensor]


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The second largest and the largest axis; of equal axes the later counts as larger. None below two axes."""
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return order[-2], order[-1]


def init_statistics(param: torch.Tensor, decays: Decays) -> State:
    """The statistics before the first gradient: zeros."""
    axes = factored_axes(param.shape)

    def zeros(without: int | None = None) -> torch.Tensor:
        x = torch.zeros_like(param, dtype=torch.float32)
        return x if without is None else settled(x.sum(dim=without, keepdim=True))

    state = {f"momentum_{i}": zeros() for i in range(len(decays.momentum))} | {"rms": zeros()}
    for i in range(len(decays.factored)):
        state[f"row_{i}"] = zeros(axes[1] if axes else None)
        if axes:
            state[f"column_{i}"] = zeros(axes[0])
    return state


def update_statistics_(stack: Stack, grad: torch.Tensor, decays: Decays) -> None:
    """Takes in one gradient, `[k, *shape]`, in place."""
    state, square = stack.state, grad.square()
    for i, b in enumerate(decays.momentum):
        _update_mean_(state[f"momentum_{i}"], grad, b)
    _update_mean_(state["rms"], square, decays.rms[0])
    if not decays.factored:
        return
    square = square.add_(1e-30)
    axes = factored_axes(stack.shape)
    row, column = square, None
    if axes:  # the mean of no elements is 0, as in JAX
        row, column = (
            settled(square.sum(dim=1 + axis, keepdim=True) / max(stack.shape[axis], 1)) for axis in (axes[1], axes[0])
        )
    for i, b in enumerate(decays.factored):
        _update_mean_(state[f"row_{i}"], row, b)
        if column is not None:
            _update_mean_(state[f"column_{i}"], column, b)


def _update_mean_(mean: torch.Tensor, x: torch.Tensor, decay: Decay) -> None:
    mean.mul_(decay)
    if isinstance(decay, torch.Tensor):
        mean.add_(x * (1 - decay))
    else:
        mean.add_(x, alpha=1 - decay)


def read_statistics(stack: Stack, grad: torch.Tensor, decays: Decays) -> Statistics:
    """The statistics of a stack as `update_statistics_` left them."""
    state = stack.state
    momenta = [state[f"momentum_{i}"] for i in range(len(decays.momentum))]
    row = [state[f"row_{i}"] for i in range(len(decays.factored))]
    axes = factored_axes(stack.shape)
    if axes is None:
        ones = torch.ones_like(grad[..., :1] if grad.ndim > 1 else grad)
        factors = [_bounded_rsqrt(x + 1e-9) for x in row], [ones] * len(row)
        return Statistics(grad, stack.params, momenta, state["rms"], row, row, *factors)
    column = [state[f"column_{i}"] for i in range(len(decays.factored))]
    count = max(stack.shape[axes[0]], 1)
    row_means = [settled(x.sum(dim=1 + axes[0], keepdim=True) / count) for x in row]
    row_factor = [_bounded_rsqrt(x / (mean + 1e-9)) for x, mean in zip(row, row_means, strict=True)]
    column_factor = [_bounded_rsqrt(x) for x in column]
    return Statistics(grad, stack.params, momenta, state["rms"], row, column, row_factor, column_factor)


def _bounded_rsqrt(x: torch.Tensor) -> torch.Tensor:
    return torch.rsqrt(x.clamp(min=1e-9))


def learned_decays(offsets: torch.Tensor, start: Sequence[float]) -> tuple[torch.Tensor, ...]:
    """sigmoid(logit(start) + offset), within (0, 1); offset 0 means `start`."""
    b = torch.tensor(start, dtype=torch.float64)
    logits = (torch.log(b) - torch.log1p(-b)).to(offsets)
    return torch.sigmoid(logits + offsets).unbind()
