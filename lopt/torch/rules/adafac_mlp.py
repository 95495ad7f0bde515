"""`adafac_mlp`: a small per-parameter MLP; the rule of `lopt/optimizers/adafac_mlp.py`."""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.accumulators import Statistics, init_statistics
from lopt.torch.parts.adafac import DECAYS, adafac_shapes, map_statistics
from lopt.torch.parts.adafac_features import adafac_features
from lopt.torch.parts.networks import normalized_rule
from lopt.torch.parts.progress import time_features
from lopt.torch.types import Stack, State, Theta


@dataclasses.dataclass(frozen=True)
class AdafacMLP:
    """Per-parameter MLP: (d, a) = MLP(normalize(28 features), time), update = -step_scale d exp(magnitude_scale a).

    Attributes:
      hidden_sizes: widths of the hidden layers.
      step_scale: size of an update when the network's outputs are (1, 0).
      magnitude_scale: how strongly the second output changes the size of the step.
      mup_keys: parts of the paths (`layer/kernel`) of hidden matrices, whose updates are divided by fan_in.
    """

    hidden_sizes: tuple[int, ...] = (4, 4)
    step_scale: float = 1e-3
    magnitude_scale: float = 1e-3
    mup_keys: tuple[str, ...] = ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        return adafac_shapes(self.hidden_sizes, num_outputs=2)

    def kind(self, path: str, shape: tuple[int, ...]) -> Hashable:
        """What the update is divided by."""
        hidden = len(shape) >= 2 and any(key in path for key in self.mup_keys)
        return max(math.prod(shape[:-1]), 1) if hidden else 1

    def init(self, param: torch.Tensor, kind: Hashable) -> State:
        del kind
        return init_statistics(param, DECAYS)

    def init_shared(self, theta: Theta, num_steps: Any) -> State:
        del num_steps
        return {"step": torch.zeros((), device=theta["mlp/bias_0"].device)}

    def update(
        self, theta: Theta, stacks: list[Stack], shared: State, *, value: torch.Tensor | None, num_steps: Any
    ) -> list[torch.Tensor]:
        del value, num_steps
        times = time_features(shared["step"])

        def update_stack(stack: Stack, statistics: Statistics) -> torch.Tensor:
            fan_in: Any = stack.kind

            def rule(direction: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
                return -self.step_scale / fan_in * direction * torch.exp(self.magnitude_scale * magnitude)

            return normalized_rule(adafac_features, theta, rule, statistics, prefix="mlp/", constants=times)

        updates = map_statistics(update_stack, theta, stacks)
        shared["step"] += 1
        return updates
