"""What `blend`'s network reads: numbers without a unit, for every tensor at every step.

The same numbers as in `lopt/optimizers/parts/blend_features.py`, function by function.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from lopt.torch.parts.progress import loss_drop, loss_features
from lopt.torch.parts.sums import total, whole
from lopt.torch.types import State

TINY = 1e-30
NUM_TENSOR_FEATURES = 7  # of which every variant has all
NUM_HORIZON_FEATURES = 4  # of the variants that know the length of the training and the loss
USUAL_GAINS = (0.1, 2.0)


class Moments(NamedTuple):
    """Momentum and second moment of tensors, corrected for their start at zero.

    Attributes:
      momentum: `[k, *shape]`.
      root: square root of the mean square plus Adam's epsilon, `[k, *shape]`.
    """

    momentum: torch.Tensor
    root: torch.Tensor


class TensorSignals(NamedTuple):
    """What one step tells of tensors, `[k]` each.

    Attributes:
      agreement: cosine between the gradient and the momentum before it.
      adam_size: root mean square of Adam's direction: 1 for gradients that are always equal, near 0 for noise.
      param_size: root mean square of the parameters.
    """

    agreement: torch.Tensor
    adam_size: torch.Tensor
    param_size: torch.Tensor


def agreement_of(grad: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Cosine between gradients and the momenta before them, `[k]`."""
    gg, bb = total(grad.square()), total(before.square())
    return total(grad * before) / (torch.sqrt(gg + TINY) * torch.sqrt(bb + TINY))


def tensor_signals(param: torch.Tensor, agreement: torch.Tensor, adam: torch.Tensor) -> TensorSignals:
    """What one step tells of each tensor.

    Args:
      param: `[k, *shape]`.
      agreement: of `agreement_of`, which is computed before the momenta are overwritten, `[k]`.
      adam: Adam's direction, momentum over root, `[k, *shape]`.
    """
    count = max(math.prod(param.shape[1:]), 1)
    sizes = (torch.sqrt(total(x.square()) / count + TINY) for x in (adam, param))
    return TensorSignals(agreement, *sizes)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out: the last axis is the output, all others together are the input."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def is_kernel(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the kernel of a convolution over images; one of three axes may be that of an attention."""
    return len(shape) > 3


def gain(param: torch.Tensor, fan_in: int) -> torch.Tensor:
    """Root mean square times sqrt(fan_in): about 1 after the usual initialisation of a matrix."""
    return torch.sqrt(whole(param.float().square().sum()) / max(param.numel(), 1) * fan_in)


def units(gains: torch.Tensor, matrices: Sequence[bool]) -> torch.Tensor:
    """How many times larger or smaller than usual the numbers of each tensor are, `[num_tensors]`.

    A gain between USUAL_GAINS counts as 1, as initialisations differ; beyond them, by how much it is beyond. A tensor
    that starts at 0 gets the geometric mean of those of the matrices, or 1.
    """
    logs, known = torch.log(gains.clamp(min=TINY)), gains > 0
    own = logs - logs.clamp(*map(math.log, USUAL_GAINS))
    counted = known & torch.tensor(matrices, device=gains.device)
    mean = torch.where(counted, own, 0).sum() / counted.sum().clamp(min=1)
    return torch.exp(torch.where(known, own, mean))


def tensor_features(
    shapes: Sequence[tuple[int, ...]],
    rates: torch.Tensor,
    signals: TensorSignals,
    agreement: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """What is known without the length of the training and the loss, `[NUM_TENSOR_FEATURES, num_tensors]`.

    Args:
      shapes: of the tensors.
      rates: of the tensors: the size of an update at the start, `[num_tensors]`.
      signals: of the tensors, `[num_tensors]` each.
      agreement: their running means of agreement, `[num_tensors]`.
      step: number of updates done.
    """
    shape = [[math.log(max(fan, 1)) for fan in column] for column in zip(*map(fans, shapes), strict=True)]
    kernel = [float(is_kernel(shape)) for shape in shapes]
    over_rate = torch.log(signals.param_size / rates + 1e-8)
    own = torch.stack([agreement, torch.log(signals.adam_size), over_rate])
    return torch.cat([(10 / (10 + step)).expand(1, len(shapes)), agreement.new_tensor([*shape, kernel]), own])


def horizon_features(shared: State, step: torch.Tensor, num_steps: int) -> torch.Tensor:
    """The share of the training that is done, its length, trend and drop of the loss, `[NUM_HORIZON_FEATURES]`."""
    share = torch.cos(math.pi * (step / num_steps).clamp(max=1.0))
    length = torch.full_like(share, math.log(num_steps))
    return torch.stack([share, length, loss_features(shared).mean(), loss_drop(shared)])
