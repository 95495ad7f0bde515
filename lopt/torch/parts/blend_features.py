"""What `blend`'s network reads: numbers without a unit, for every tensor at every step.

The same numbers as in `lopt/optimizers/parts/blend_features.py`, function by function.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from lopt.torch.parts.progress import loss_features
from lopt.torch.parts.sums import total
from lopt.torch.types import State

NUM_FEATURES = 21
TINY = 1e-30


class Moments(NamedTuple):
    """Momenta and second moment of tensors, corrected for their start at zero.

    Attributes:
      fast: momentum, `[k, *shape]`.
      slow: momentum of longer memory, `[k, *shape]`.
      root: square root of the mean square plus Adam's epsilon, `[k, *shape]`.
    """

    fast: torch.Tensor
    slow: torch.Tensor
    root: torch.Tensor


class TensorSignals(NamedTuple):
    """What one step tells of tensors, `[k]` each.

    Attributes:
      agreement: cosine between the gradient and the fast momentum before it.
      persistence: cosine between the two momenta.
      adam_size: root mean square of Adam's direction: 1 for gradients that are always equal, near 0 for noise.
      param_size: root mean square of the parameters.
    """

    agreement: torch.Tensor
    persistence: torch.Tensor
    adam_size: torch.Tensor
    param_size: torch.Tensor


def agreement_of(grad: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Cosine between gradients and the fast momenta before them, `[k]`."""
    return _cosine(grad, before, total(grad.square()), total(before.square()))


def tensor_signals(param: torch.Tensor, agreement: torch.Tensor, moments: Moments) -> TensorSignals:
    """What one step tells of each tensor.

    Args:
      param: `[k, *shape]`.
      agreement: of `agreement_of`, which is computed before the momenta are overwritten, `[k]`.
      moments: those after the step's gradient.
    """
    fast, slow, root = moments
    persistence = _cosine(fast, slow, total(fast.square()), total(slow.square()))
    count = max(math.prod(param.shape[1:]), 1)
    sizes = (torch.sqrt(total(x.square()) / count + TINY) for x in (fast / root, param))
    return TensorSignals(agreement, persistence, *sizes)


def _cosine(x: torch.Tensor, y: torch.Tensor, xx: torch.Tensor, yy: torch.Tensor) -> torch.Tensor:
    return total(x * y) / (torch.sqrt(xx + TINY) * torch.sqrt(yy + TINY))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out: the last axis is the output, all others together are the input."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def features(
    shapes: Sequence[tuple[int, ...]],
    rates: Sequence[float],
    signals: TensorSignals,
    agreement: torch.Tensor,
    drift: torch.Tensor,
    shared: State,
    step: torch.Tensor,
    num_steps: int,
) -> torch.Tensor:
    """The inputs of the network, `[NUM_FEATURES, num_tensors]`, each about within [-1, 1].

    Args:
      shapes: of the tensors.
      rates: of the tensors: the size of an update at the start.
      signals: of the tensors, `[num_tensors]` each.
      agreement: their running means of agreement, `[num_tensors]`.
      drift: of their sizes so far, in units of its bound, `[num_tensors]`.
      shared: running means of the loss.
      step: number of updates done.
      num_steps: length of the training.
    """
    share = (step / num_steps).clamp(max=1.0)
    time = [
        torch.cos(math.pi * share),
        torch.cos(2 * math.pi * share),
        10 / (10 + step),
        torch.full_like(share, math.tanh((math.log(num_steps) - math.log(500)) / 2)),
    ]
    trend = list(loss_features(shared).reshape(3, 3).mean(dim=1))  # of short, middle and long means
    shape = [[(math.log(max(fan, 1)) - 3) / 3 for fan in column] for column in zip(*map(fans, shapes), strict=True)]
    rank = [[float(test(len(shape))) for shape in shapes] for test in ((2).__lt__, (0).__eq__)]
    number = [(math.log(len(shapes)) - 2) / 2] * len(shapes)
    adam_size = torch.tanh(1 + torch.log(signals.adam_size) / 2)
    param_size = (torch.log(signals.param_size / drift.new_tensor(rates) + 1e-8) / 4).clamp(-2, 2)
    own = [signals.agreement, agreement, signals.persistence, adam_size, param_size, drift]
    common = [x.mean() for x in (agreement, adam_size, signals.persistence)]
    by_shape = drift.new_tensor([*shape, *rank, number])
    begin, end = (torch.stack(x)[:, None].expand(-1, len(shapes)) for x in ([*time, *trend], common))
    return torch.cat([begin, by_shape, torch.stack(own), end])
