"""`mlp`: one small MLP maps gradient, parameter, momenta and time to a step; the rule of `lopt/optimizers/mlp.py`."""

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch

from lopt.torch.parts.networks import mlp_shapes, normalized_rule
from lopt.torch.parts.numbers import rounded, update_mean_
from lopt.torch.parts.progress import TIME_SCALES, time_features
from lopt.torch.types import Stack, State, Theta

DECAYS = rounded(0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
NUM_FEATURES = 2 + len(DECAYS)  # gradient, parameter, momenta


class _Inputs(NamedTuple):
    grad: torch.Tensor
    param: torch.Tensor
    momenta: list[torch.Tensor]


def _features(inputs: _Inputs) -> list[torch.Tensor]:
    return [inputs.grad, inputs.param, *inputs.momenta]


@dataclasses.dataclass(frozen=True)
class MLPOptimizer:
    """Per-parameter MLP: (d, a) = MLP(normalize(g, p, m_1..m_6), time), update = -step_scale d exp(magnitude_scale a).

    Attributes:
      hidden_sizes: widths of the hidden layers.
      step_scale: size of an update when the network's outputs are (1, 0).
      magnitude_scale: how strongly the second output changes the size of the step.
    """

    hidden_sizes: tuple[int, ...] = (32, 32)
    step_scale: float = 1e-3
    magnitude_scale: float = 1e-3

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        return mlp_shapes(NUM_FEATURES + len(TIME_SCALES), self.hidden_sizes, 2)

    def kind(self, path: str, shape: tuple[int, ...]) -> Hashable:
        del path, shape

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        del kind
        return {f"momentum_{i}": torch.zeros_like(param, dtype=torch.float32) for i in range(len(DECAYS))}

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        del num_steps
        return {"step": torch.zeros((), device=theta["bias_0"].device)}

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        del value, num_steps
        times = time_features(shared["step"])

        def rule(direction: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
            return -self.step_scale * direction * torch.exp(self.magnitude_scale * magnitude)

        updates = []
        for stack in stacks:
            momenta = [stack.state[f"momentum_{i}"] for i in range(len(DECAYS))]
            for momentum, b in zip(momenta, DECAYS, strict=True):
                update_mean_(momentum, stack.grads, b)
            inputs: Any = _Inputs(stack.grads, stack.params, momenta)
            updates.append(normalized_rule(_features, theta, rule, inputs, constants=times))
        shared["step"] += 1
        return updates
