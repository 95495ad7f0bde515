"""`adafac_mlp`: a small per-parameter MLP maps momenta, mean squares and factored second moments to a step.

Luke Metz, C. Daniel Freeman, James Harrison, Niru Maheswaranathan, Jascha Sohl-Dickstein, "Practical tradeoffs between
memory, compute, and performance in learned optimizers", 2022 (arXiv 2203.11860). The division by fan_in: Benjamin
Thérien, Charles-Étienne Joseph, Boris Knyazev, Edouard Oyallon, Irina Rish, Eugene Belilovsky, "muLO: compute-efficient
meta-generalization of learned optimizers", 2024 (arXiv 2406.00153).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.adafac import AdafacState, init_adafac_state, init_adafac_theta, map_statistics
from lopt.optimizers.parts.adafac_features import TensorStatistics, adafac_features
from lopt.optimizers.parts.checks import check_hidden_sizes, check_keys
from lopt.optimizers.parts.networks import normalized_rule
from lopt.optimizers.parts.progress import time_features
from lopt.types import Params, Theta


@dataclasses.dataclass(frozen=True)
class AdafacMLP:
    """Per-parameter MLP: (d, a) = MLP(normalize(28 features), time), update = -step_scale d exp(magnitude_scale a).

    Attributes:
      hidden_sizes: widths of the hidden layers; if none is above 8, the rule runs as one loop over the parameters.
      step_scale: size of an update when the network's outputs are (1, 0).
      magnitude_scale: how strongly the second output changes the size of the step.
      mup_keys: parts of the paths (`layer/kernel`) of hidden matrices. Their updates are divided by fan_in, the product
        of all axes but the last, so that a theta trained on narrow networks suits wide ones in muP. Leave out input and
        output layers.
    """

    hidden_sizes: tuple[int, ...] = (4, 4)
    step_scale: float = 1e-3
    magnitude_scale: float = 1e-3
    mup_keys: tuple[str, ...] = ()

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.step_scale <= 0:
            raise InputError(f"step_scale must be above 0, not {self.step_scale}")
        check_keys("mup_keys", self.mup_keys)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"})

    def init_theta(self, key: jax.Array) -> Theta:
        return init_adafac_theta(key, self.hidden_sizes, num_outputs=2)

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> AdafacState:
        del theta, num_steps
        return init_adafac_state(params)

    def update(
        self, theta: Theta, grads: Params, state: AdafacState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, AdafacState]:
        del value
        times = time_features(state.step)

        def fan_in(path: str, param: jax.Array) -> int:
            hidden = param.ndim >= 2 and any(key in path for key in self.mup_keys)
            return max(math.prod(param.shape[:-1]), 1) if hidden else 1

        def update_tensor(fan_in: Any, statistics: TensorStatistics) -> jax.Array:
            def rule(direction: jax.Array, magnitude: jax.Array) -> jax.Array:
                return -self.step_scale / fan_in * direction * jnp.exp(self.magnitude_scale * magnitude)

            return normalized_rule(adafac_features, theta["mlp"], rule, statistics, constants=times)

        return map_statistics(update_tensor, theta, grads, state, params, kind=fan_in)
