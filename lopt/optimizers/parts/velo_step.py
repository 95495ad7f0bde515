"""The per-parameter part of `velo` and `celo`: running statistics, 30 inputs, and a tiny MLP that computes the step.

Luke Metz et al., "VeLO: training versatile learned optimizers by scaling up", 2022 (arXiv 2211.09760).
"""

import itertools

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.accumulators import Decays, Statistics, init_statistics, update_statistics
from lopt.optimizers.parts.adafac_features import NUM_VELO_FEATURES, TensorStatistics, tensor_statistics, velo_features
from lopt.optimizers.parts.blocks import sums_along
from lopt.optimizers.parts.gradients import MAX_GRADIENT, clip_gradients
from lopt.optimizers.parts.networks import normalized_rule
from lopt.optimizers.parts.xla import after
from lopt.types import Params, PyTree, Theta

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))
STEP_SCALE = 1e-3
MAGNITUDE_SCALE = 1e-3
NUM_OUTPUTS = 3  # direction, magnitude, and one that the published networks have and nothing reads


def mlp_shapes(hidden_sizes: tuple[int, ...], *bank: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the MLP's theta, `{"kernel_i", "bias_i"}`, with the axes `bank` in front."""
    sizes = (NUM_VELO_FEATURES, *hidden_sizes, NUM_OUTPUTS)
    shapes = {}
    for i, (fan_in, size) in enumerate(itertools.pairwise(sizes)):
        shapes[f"kernel_{i}"] = (*bank, fan_in, size)
        shapes[f"bias_{i}"] = (*bank, size)
    return shapes


def init_velo_statistics(params: Params) -> PyTree:
    """A tree like `params` of `Statistics`, all zeros."""
    return jax.tree.map(lambda p: init_statistics(p, DECAYS), params)


def _features(s: TensorStatistics) -> list[jax.Array]:
    features = velo_features(s._replace(grad=clip_gradients(s.grad)))
    if s.grad.ndim < 2:
        # The published networks add nothing under the root here. The bound keeps its derivative at zero finite.
        pairs = zip(s.momenta, s.row, strict=True)
        features[-len(DECAYS.factored) :] = [m * jax.lax.rsqrt(jnp.maximum(v, 1e-24)) for m, v in pairs]
    return features


def velo_step(
    param: jax.Array,
    grad: jax.Array,
    statistics: Statistics,
    weights: Theta,
    scale: jax.Array,
    bound: jax.Array | float = MAX_GRADIENT,
) -> tuple[jax.Array, Statistics]:
    """The update of one tensor and its new statistics.

    update = -1e-3 scale d exp(1e-3 a) sqrt(mean(p^2) + 1e-9), (d, a) = MLP(normalized inputs).

    Args:
      param: the tensor.
      grad: its gradient.
      statistics: its statistics before this gradient.
      weights: weights of the MLP, `{"kernel_i", "bias_i"}`.
      scale: scalar.
      bound: the gradient's elements are limited to [-bound, bound].
    """
    (squares,) = sums_along(jnp.square, jnp.atleast_1d(param), [max(param.ndim, 1) - 1])
    mean_square = jnp.sum(squares) / max(param.size, 1)
    # The squares of the parameters are gone before those of the gradient are made, and share their memory.
    clipped = clip_gradients(grad, after(mean_square, bound))
    statistics = update_statistics(statistics, clipped, DECAYS)
    factor = -STEP_SCALE * scale * jnp.sqrt(mean_square + 1e-9)

    def rule(direction: jax.Array, magnitude: jax.Array, unused: jax.Array) -> jax.Array:
        del unused
        return factor * direction * jnp.exp(MAGNITUDE_SCALE * magnitude)

    return normalized_rule(_features, weights, rule, tensor_statistics(grad, param, *statistics)), statistics
