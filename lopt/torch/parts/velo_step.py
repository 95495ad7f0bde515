"""The per-parameter part of `celo`: 30 inputs and a tiny MLP that computes the step, as in VeLO.

The same numbers as in `lopt/optimizers/parts/velo_step.py`.
"""

import math
from collections.abc import Sequence

import torch

from lopt.torch.parts.accumulators import DECAYS, Statistics, read_statistics, update_statistics_
from lopt.torch.parts.adafac_features import NUM_VELO_FEATURES, velo_features
from lopt.torch.parts.networks import mlp_shapes, normalized_rule
from lopt.torch.parts.sums import per_tensor, total
from lopt.torch.types import Stack, Theta

STEP_SCALE = 1e-3
MAGNITUDE_SCALE = 1e-3
NUM_OUTPUTS = 3  # direction, magnitude, and one that the published networks have and nothing reads
MAX_GRADIENT = 1000.0


def velo_shapes(hidden_sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the MLP's theta."""
    return mlp_shapes(NUM_VELO_FEATURES, hidden_sizes, NUM_OUTPUTS)


def _features(s: Statistics) -> list[torch.Tensor]:
    features = velo_features(s)
    if s.grad.ndim < 3:  # the published networks add nothing under the root here; the first axis holds the tensors
        features[-len(s.row) :] = [m * torch.rsqrt(v.clamp(min=1e-24)) for m, v in zip(s.momenta, s.row, strict=True)]
    return features


def velo_step(stack: Stack, theta: Theta, scale: torch.Tensor | float) -> torch.Tensor:
    """The updates of tensors, `[k, *shape]`, whose statistics take in the gradient.

    update = -1e-3 scale d exp(1e-3 a) sqrt(mean(p^2) + 1e-9), (d, a) = MLP(normalized inputs).
    """
    grad = stack.grads.clamp(-MAX_GRADIENT, MAX_GRADIENT)
    update_statistics_(stack, grad, DECAYS)

    def rule(direction: torch.Tensor, magnitude: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        del unused
        return direction * torch.exp(MAGNITUDE_SCALE * magnitude)

    steps = normalized_rule(_features, theta, rule, read_statistics(stack, grad, DECAYS), prefix="mlp/")
    mean_square = total(stack.params.square()) / max(math.prod(stack.shape), 1)
    return per_tensor(-STEP_SCALE * scale * torch.sqrt(mean_square + 1e-9), len(stack.shape)) * steps
