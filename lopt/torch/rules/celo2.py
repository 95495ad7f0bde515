"""`celo2`: a small MLP computes the direction of a matrix's update; the rule of `lopt/optimizers/celo2.py`."""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.accumulators import Decays, Statistics, init_statistics, read_statistics, update_statistics_
from lopt.torch.parts.adafac_features import NUM_VELO_FEATURES, velo_features
from lopt.torch.parts.networks import mlp_shapes, normalized_rule
from lopt.torch.parts.numbers import rounded, weight_seen
from lopt.torch.parts.orthogonal import orthogonalize
from lopt.torch.parts.sums import per_tensor, settled
from lopt.torch.types import Stack, State, Theta

DECAYS = Decays(momentum=rounded(0.9, 0.99, 0.999), rms=rounded(0.95), factored=rounded(0.9, 0.99, 0.999))
B1, B2 = rounded(0.9, 0.95)  # Adam's
ADAM_DECAYS = Decays(momentum=(B1,), rms=(B2,), factored=())
NUM_OUTPUTS = 3  # the direction, and two that the published networks have and nothing reads
MAX_GRADIENT = 1000.0
ADAM, MATRIX = "adam", "matrix"


def _features(s: Statistics) -> list[torch.Tensor]:
    return velo_features(s, epsilon=1e-8)


@dataclasses.dataclass(frozen=True)
class Celo2:
    """update = -learning_rate D / sqrt(mean(D^2)), D = MLP(normalize(30 features))[0] or its orthogonalization.

    Means of squares are over the last two axes of Flax's layout: a kernel of a convolution is a batch of matrices.
    Vectors, scalars and the tensors that `adam_keys` names are updated by Adam.

    Attributes:
      hidden_sizes: widths of the hidden layers.
      learning_rate: root mean square of a matrix's update.
      orthogonalize: whether directions pass through five Newton-Schulz steps.
      adam_keys: parts of the paths (`layer/kernel`) of other tensors that are left to Adam.
      adam_factor: Adam's learning rate as a multiple of `learning_rate`.
    """

    hidden_sizes: tuple[int, ...] = (8, 8)
    learning_rate: float = 1e-3
    orthogonalize: bool = False
    adam_keys: tuple[str, ...] = ("embedding",)
    adam_factor: float = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        return mlp_shapes(NUM_VELO_FEATURES, self.hidden_sizes, NUM_OUTPUTS)

    def kind(self, path: str, shape: tuple[int, ...]) -> str:
        return ADAM if len(shape) < 2 or any(key in path for key in self.adam_keys) else MATRIX

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        state = init_statistics(param, ADAM_DECAYS if kind == ADAM else DECAYS)
        return state | ({"step": torch.zeros((), device=param.device)} if kind == ADAM else {})

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        del theta, num_steps
        return {}

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        del shared, value, num_steps
        return [self._adam(stack) if stack.kind == ADAM else self._matrix(stack, theta) for stack in stacks]

    def _adam(self, stack: Stack) -> torch.Tensor:
        """Adam's update with bias correction."""
        update_statistics_(stack, stack.grads.clamp(-MAX_GRADIENT, MAX_GRADIENT), ADAM_DECAYS)
        state, count = stack.state, stack.state["step"].add_(1)
        b1, b2 = (per_tensor(weight_seen(b, count), len(stack.shape)) for b in (B1, B2))
        direction = state["momentum_0"] / b1 / (torch.sqrt(state["rms"] / b2) + 1e-8)
        return -self.adam_factor * self.learning_rate * direction

    def _matrix(self, stack: Stack, theta: Theta) -> torch.Tensor:
        grad = stack.grads.clamp(-MAX_GRADIENT, MAX_GRADIENT)
        update_statistics_(stack, grad, DECAYS)
        statistics = read_statistics(stack, grad, DECAYS)
        direction = normalized_rule(
            _features, theta, lambda direction, *unused: direction, statistics, num_axes=2, epsilon=1e-9
        )
        if self.orthogonalize:
            direction = orthogonalize(direction)
        count = max(math.prod(stack.shape[-2:]), 1)
        mean_square = settled(direction.square().sum(dim=(-2, -1), keepdim=True)) / count
        return direction * (-self.learning_rate * torch.rsqrt(mean_square + 1e-9))
