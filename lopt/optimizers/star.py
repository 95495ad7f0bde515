"""`star`: the network's step, a stable nominal step and weight decay; the network scales the last two as well.

James Harrison, Luke Metz, Jascha Sohl-Dickstein, "A closer look at learned optimization: stability, robustness, and
inductive biases", 2022 (arXiv 2209.11208).
"""

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.adafac import AdafacState, init_adafac_state, init_adafac_theta, map_statistics
from lopt.optimizers.parts.adafac_features import TensorStatistics, adafac_features
from lopt.optimizers.parts.checks import check_hidden_sizes
from lopt.optimizers.parts.networks import normalized_rule
from lopt.optimizers.parts.progress import time_features
from lopt.types import Params, Theta


def _features(s: TensorStatistics) -> list[jax.Array]:
    """The 28 inputs of the network, then three that the update reads directly: nominal step, 1 / sqrt(rms), p."""
    features = adafac_features(s)
    first, second, third, rsqrt = features[6:10]
    return [*features, (first + second + third) / 3, rsqrt, s.param]


@dataclasses.dataclass(frozen=True)
class Star:
    """MLP with a nominal term: (d, a, n, r) = MLP(normalize(28 features), time), c = magnitude_scale,

    update = -step_scale d exp(c a) - nominal_rate exp(c n) mean_b(m_b / sqrt(rms)) - weight_decay exp(c r) p.

    Attributes:
      hidden_sizes: widths of the hidden layers; if none is above 8, the rule runs as one loop over the parameters.
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

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.step_scale <= 0:
            raise InputError(f"step_scale must be above 0, not {self.step_scale}")
        if self.nominal_rate < 0 or not 0 <= self.weight_decay < 1:
            raise InputError("nominal_rate must be at least 0, weight_decay at least 0 and below 1")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"})

    def init_theta(self, key: jax.Array) -> Theta:
        return init_adafac_theta(key, self.hidden_sizes, num_outputs=4)

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> AdafacState:
        del theta, num_steps
        return init_adafac_state(params)

    def update(
        self, theta: Theta, grads: Params, state: AdafacState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, AdafacState]:
        del value
        times = time_features(state.step)

        def rule(direction: jax.Array, *others: jax.Array) -> jax.Array:
            *magnitudes, nominal, rsqrt, param = others
            size, nominal_size, decay_size = (jnp.exp(self.magnitude_scale * x) for x in magnitudes)
            step = self.step_scale * direction * size
            if self.precondition:
                step = step * rsqrt
            return -(step + self.nominal_rate * nominal_size * nominal + self.weight_decay * decay_size * param)

        def update_tensor(kind: Hashable, statistics: TensorStatistics) -> jax.Array:
            del kind
            return normalized_rule(_features, theta["mlp"], rule, statistics, constants=times, num_plain=3)

        return map_statistics(update_tensor, theta, grads, state, params)
