"""`celo2`: a small MLP computes the direction of a matrix's update; a learning rate sets its size.

Abhinav Moudgil, Boris Knyazev, Eugene Belilovsky, "Celo2: towards learned optimization free lunch", 2026.
"""

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import Decays, Statistics, init_statistics, update_statistics
from lopt.optimizers.parts.adafac import AdafacState
from lopt.optimizers.parts.adafac_features import NUM_VELO_FEATURES, TensorStatistics, tensor_statistics, velo_features
from lopt.optimizers.parts.blocks import mean_squares, scale_in_place
from lopt.optimizers.parts.checks import check_hidden_sizes, check_keys
from lopt.optimizers.parts.gradients import clip_gradients
from lopt.optimizers.parts.networks import ParameterMLP, normalized_rule
from lopt.optimizers.parts.orthogonal import orthogonalize
from lopt.optimizers.parts.tensors import map_tensors
from lopt.optimizers.parts.xla import apart, once
from lopt.trees import map_with_name
from lopt.types import Params, Theta

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.95,), factored=(0.9, 0.99, 0.999))
ADAM_DECAYS = Decays(momentum=(0.9,), rms=(0.95,), factored=())
NUM_OUTPUTS = 3  # the direction, and two that the published networks have and nothing reads


def _features(s: TensorStatistics) -> list[jax.Array]:
    return velo_features(s._replace(grad=clip_gradients(s.grad)), epsilon=1e-8)


@dataclasses.dataclass(frozen=True)
class Celo2:
    """update = -learning_rate D / sqrt(mean(D^2)), D = MLP(normalize(30 features))[0] or its orthogonalization.

    Means of squares are over the last two axes: an array with more axes is a batch of matrices. Vectors, scalars and
    the tensors that `adam_keys` names are updated by Adam (0.9, 0.95). Weight decay and schedules belong to the chain
    around this rule.

    Attributes:
      hidden_sizes: widths of the hidden layers; if none is above 8, the rule runs as one loop over the parameters.
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

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        check_keys("adam_keys", self.adam_keys)
        if self.learning_rate <= 0 or self.adam_factor <= 0:
            raise InputError("learning_rate and adam_factor must be above 0")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"})

    def init_theta(self, key: jax.Array) -> Theta:
        network = ParameterMLP((*self.hidden_sizes, NUM_OUTPUTS))
        return network.init(key, jnp.zeros((NUM_VELO_FEATURES, 1), jnp.float32), jnp.zeros((0,), jnp.float32))["params"]

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> AdafacState:
        """The first state, all zeros; tensors left to Adam have one momentum and no factored moments."""
        del theta, num_steps

        def init_tensor(path: str, param: jax.Array) -> Statistics:
            return init_statistics(param, ADAM_DECAYS if self._by_adam(path, param) else DECAYS)

        return AdafacState(jnp.zeros((), jnp.int32), map_with_name(init_tensor, params))

    def update(
        self, theta: Theta, grads: Params, state: AdafacState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, AdafacState]:
        del value
        step = state.step + 1

        def update_tensor(
            by_adam: Hashable, param: jax.Array, grad: jax.Array, statistics: Statistics
        ) -> tuple[jax.Array, Statistics]:
            statistics = update_statistics(statistics, clip_gradients(grad), ADAM_DECAYS if by_adam else DECAYS)
            if by_adam:
                return -self.adam_factor * self.learning_rate * _adam(statistics, step), statistics
            return self._update_matrix(theta, tensor_statistics(grad, param, *statistics)), statistics

        updates, statistics = map_tensors(update_tensor, 2, params, grads, state.statistics, kind=self._by_adam)
        return updates, AdafacState(step, statistics)

    def _by_adam(self, path: str, param: jax.Array) -> bool:
        return param.ndim < 2 or any(key in path for key in self.adam_keys)

    def _update_matrix(self, theta: Theta, statistics: TensorStatistics) -> jax.Array:
        def rule(theta: Theta, statistics: TensorStatistics) -> jax.Array:
            return normalized_rule(
                _features, theta, lambda direction, *unused: direction, statistics, num_axes=2, epsilon=1e-9
            )

        direction = apart(rule)(theta, statistics)
        if self.orthogonalize:
            direction = orthogonalize(direction)
        direction = once(direction)  # on a GPU, where `rule` is not a call of its own, the network would run twice
        (mean_square,) = mean_squares([direction], direction.shape, direction.ndim - 2)
        return scale_in_place(direction, -self.learning_rate * jax.lax.rsqrt(mean_square + 1e-9))


def _adam(statistics: Statistics, step: jax.Array) -> jax.Array:
    """Adam's direction after `step` updates, with bias correction."""
    b1, b2 = jnp.float32(ADAM_DECAYS.momentum[0]), jnp.float32(ADAM_DECAYS.rms[0])
    momentum = statistics.momenta[0] / (1 - b1**step)
    return momentum / (jnp.sqrt(statistics.rms[0] / (1 - b2**step)) + 1e-8)
