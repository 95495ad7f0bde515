"""`star`: the network's step, a nominal step and weight decay; the rule of `lopt/optimizers/star.py`."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import torch

from lopt.torch.parts.accumulators import Statistics, init_statistics
from lopt.torch.parts.adafac import DECAYS, adafac_shapes, map_statistics
from lopt.torch.parts.adafac_features import adafac_features
from lopt.torch.parts.networks import normalized_rule
from lopt.torch.parts.progress import time_features
from lopt.torch.types import Stack, State, Theta


def _features(s: Statistics) -> list[torch.Tensor]:
    """The 28 inputs of the network, then three that the update reads directly: nominal step, 1 / sqrt(rms), p."""
    features = adafac_features(s)
    first, second, third, rsqrt = features[6:10]
    return [*features, (first + second + third) / 3, rsqrt, s.param]


@dataclasses.dataclass(frozen=True)
class Star:
    """MLP with a nominal term: (d, a, n, r) = MLP(normalize(28 features), time), c = magnitude_scale,

    update = -step_scale d exp(c a) - nominal_rate exp(c n) mean_b(m_b / sqrt(rms)) - weight_decay exp(c r) p.

    Attributes:
      hidden_sizes: widths of the hidden layers.
      step_scale: size of the network's step when d = 1 and a = 0.
      magnitude_scale: how strongly the last three outputs change the sizes of the three terms.
      nominal_rate: learning rate of the nominal term.
      weight_decay: share of the parameter that one step removes; no learning rate multiplies it.
      precondition: whether the network's step is divided by sqrt(rms + 1e-6) as well.
    """

    hidden_sizes: tuple[int, ...] = (4, 4)
    step_scale: float = 1e-3
    magnitude_scale: float = 1e-3
    nominal_rate: float = 1e-3
    weight_decay: float = 1e-5
    precondition: bool = False

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def theta_shapes(self) -> dict[str, tuple[int, ...]]:
        return adafac_shapes(self.hidden_sizes, num_outputs=4)

    def kind(self, path: str, shape: tuple[int, ...]) -> Hashable:
        del path, shape

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

        def rule(direction: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            *magnitudes, nominal, rsqrt, param = others
            size, nominal_size, decay_size = (torch.exp(self.magnitude_scale * x) for x in magnitudes)
            step = self.step_scale * direction * size
            if self.precondition:
                step = step * rsqrt
            return -(step + self.nominal_rate * nominal_size * nominal + self.weight_decay * decay_size * param)

        def update_stack(stack: Stack, statistics: Statistics) -> torch.Tensor:
            del stack
            return normalized_rule(_features, theta, rule, statistics, prefix="mlp/", constants=times, num_plain=3)

        updates = map_statistics(update_stack, theta, stacks)
        shared["step"] += 1
        return updates
