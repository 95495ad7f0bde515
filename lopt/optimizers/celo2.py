"""`celo2`: a small MLP gives the direction of a matrix's update only; its size is set by a learning rate.

Abhinav Moudgil, Boris Knyazev, Eugene Belilovsky, "Celo2: towards learned optimization free lunch", 2026. The
orthogonalization: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

import dataclasses

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.accumulators import (
    init_factored,
    init_momenta,
    init_rms,
    update_factored,
    update_momenta,
    update_rms,
)
from lopt.optimizers.adafac_features import NUM_VELO_FEATURES, TensorStatistics, tensor_statistics, velo_features
from lopt.optimizers.adafac_mlp import AdafacState, check_hidden_sizes, check_keys, path_name
from lopt.optimizers.features import ParameterMLP
from lopt.optimizers.networks import MAX_UNROLLED, apply_mlp, mean_squares, normalized_rule, scale_in_place
from lopt.types import Params, Theta

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)  # Adam uses the first
RMS_DECAY = 0.95
FACTORED_DECAYS = (0.9, 0.99, 0.999)
MAX_GRADIENT = 1000.0  # elements of the gradient beyond it count as it
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_OUTPUTS = 3  # the direction, and two that the published networks have and nothing reads


def orthogonalize(x: jax.Array, num_steps: int = 5) -> jax.Array:
    """Brings the singular values of matrices near 1: Newton-Schulz steps X <- a X + (b X X^T + c (X X^T)^2) X.

    Args:
      x: `[..., rows, columns]`.
      num_steps: number of steps, after a division by the Frobenius norm.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True) + 1e-16)
    a, b, c = NEWTON_SCHULZ
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _features(s: TensorStatistics) -> list[jax.Array]:
    return velo_features(s, epsilon=1e-8)


@dataclasses.dataclass(frozen=True)
class Celo2:
    """update = -learning_rate D / sqrt(mean(D^2)), D = MLP(normalize(30 features))[0] or its orthogonalization.

    Means of squares are over the last two axes: an array of more is a batch of matrices. Vectors, scalars, and what
    `adam_keys` names are updated by Adam (0.9, 0.95). Weight decay and schedules are left to the chain around it.

    Attributes:
      hidden_sizes: widths of the hidden layers; up to 8 they run as one loop over the parameters.
      learning_rate: root mean square of a matrix's update.
      orthogonalize: whether directions pass through five Newton-Schulz steps.
      adam_keys: parts of the paths (`layer/kernel`) of the other tensors that are left to Adam.
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
        return network.init(key, jnp.zeros((NUM_VELO_FEATURES, 1)), jnp.zeros((0,)))["params"]

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> AdafacState:
        """Tensors left to Adam have one momentum and no factored moments."""
        del theta, num_steps
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        adam = [self._by_adam(path_name(path), leaf) for path, leaf in leaves]
        pairs = [(leaf, by_adam) for (_, leaf), by_adam in zip(leaves, adam, strict=True)]
        return AdafacState(
            jnp.zeros((), jnp.int32),
            treedef.unflatten([init_momenta(p, 1 if by_adam else len(MOMENTUM_DECAYS)) for p, by_adam in pairs]),
            treedef.unflatten([init_rms(p, 1) for p, _ in pairs]),
            treedef.unflatten([None if by_adam else init_factored(p, len(FACTORED_DECAYS)) for p, by_adam in pairs]),
        )

    def update(
        self, theta: Theta, grads: Params, state: AdafacState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, AdafacState]:
        del value
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        trees = [treedef.flatten_up_to(tree) for tree in (grads, state.momenta, state.rms, state.factored)]
        momentum_decays, rms_decays, factored_decays = (
            jnp.asarray(decays, jnp.float32) for decays in (MOMENTUM_DECAYS, (RMS_DECAY,), FACTORED_DECAYS)
        )
        step = state.step + 1
        outputs = []
        for (path, param), grad, momenta, rms, factored in zip(leaves, *trees, strict=True):
            by_adam = self._by_adam(path_name(path), param)
            grad = jnp.clip(grad, -MAX_GRADIENT, MAX_GRADIENT)
            momenta = update_momenta(momenta, grad, momentum_decays[: len(momenta)])
            rms = update_rms(rms, grad, rms_decays)
            if by_adam:
                update = -self.adam_factor * self.learning_rate * _adam(momenta[0], rms[0], step)
            else:
                factored = update_factored(factored, grad, factored_decays)
                update = self._update_matrix(theta, tensor_statistics(grad, param, momenta, rms, factored))
            outputs.append((update, momenta, rms, factored))
        updates, *new_trees = zip(*outputs, strict=True) if outputs else ([], [], [], [])
        return treedef.unflatten(updates), AdafacState(step, *(treedef.unflatten(tree) for tree in new_trees))

    def _by_adam(self, path: str, param: jax.Array) -> bool:
        return param.ndim < 2 or any(key in path for key in self.adam_keys)

    def _update_matrix(self, theta: Theta, statistics: TensorStatistics) -> jax.Array:
        wide = max(self.hidden_sizes) > MAX_UNROLLED
        direction = normalized_rule(
            _features, lambda x: apply_mlp(theta, x)[0], statistics, num_axes=2, epsilon=1e-9, in_blocks=wide
        )
        if self.orthogonalize:
            direction = orthogonalize(direction)
        # Without the barrier XLA would run the network twice: for the mean square, and for the update.
        direction = jax.lax.optimization_barrier(direction)
        (mean_square,) = mean_squares([direction], direction.shape, direction.ndim - 2)
        return scale_in_place(direction, -self.learning_rate * jax.lax.rsqrt(mean_square + 1e-9))


def _adam(momentum: jax.Array, rms: jax.Array, step: jax.Array) -> jax.Array:
    """Adam's direction after `step` updates, with bias correction."""
    corrected = [x / (1 - decay**step) for x, decay in ((momentum, MOMENTUM_DECAYS[0]), (rms, RMS_DECAY))]
    return corrected[0] / (jnp.sqrt(corrected[1]) + 1e-8)
