"""The per-parameter part of `velo` and `celo`: running statistics, 30 inputs, and a tiny MLP that gives the step.

Luke Metz et al., "VeLO: training versatile learned optimizers by scaling up", 2022 (arXiv 2211.09760).
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.optimizers.accumulators import (
    FactoredMoments,
    init_factored,
    init_momenta,
    init_rms,
    update_factored,
    update_momenta,
    update_rms,
)
from lopt.optimizers.adafac_features import NUM_VELO_FEATURES, TensorStatistics, tensor_statistics, velo_features
from lopt.optimizers.networks import MAX_UNROLLED, apply_mlp, normalized_rule
from lopt.types import Params, PyTree, Theta

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
RMS_DECAYS = (0.999,)
FACTORED_DECAYS = (0.9, 0.99, 0.999)
MAX_GRADIENT = 1000.0  # elements of the gradient beyond it count as it
STEP_SCALE = 1e-3
MAGNITUDE_SCALE = 1e-3
NUM_OUTPUTS = 3  # direction, magnitude, and one that the published networks have and nothing reads


class VeloStatistics(NamedTuple):
    """Attributes: trees like params of momenta `[3, *shape]`, mean squares `[1, *shape]` and FactoredMoments."""

    momenta: PyTree
    rms: PyTree
    factored: PyTree


def mlp_shapes(hidden_sizes: tuple[int, ...], *bank: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the MLP's theta, `{"kernel_i", "bias_i"}`, with the axes `bank` in front."""
    sizes = (NUM_VELO_FEATURES, *hidden_sizes, NUM_OUTPUTS)
    shapes = {}
    for i, (fan_in, size) in enumerate(itertools.pairwise(sizes)):
        shapes[f"kernel_{i}"] = (*bank, fan_in, size)
        shapes[f"bias_{i}"] = (*bank, size)
    return shapes


def init_statistics(params: Params) -> VeloStatistics:
    """Zeros."""
    return VeloStatistics(
        jax.tree.map(lambda p: init_momenta(p, len(MOMENTUM_DECAYS)), params),
        jax.tree.map(lambda p: init_rms(p, len(RMS_DECAYS)), params),
        jax.tree.map(lambda p: init_factored(p, len(FACTORED_DECAYS)), params),
    )


def clip_gradients(grads: Params) -> Params:
    """Elements within +-1000."""
    return jax.tree.map(lambda g: jnp.clip(g, -MAX_GRADIENT, MAX_GRADIENT), grads)


def update_statistics(statistics: VeloStatistics, grads: Params) -> VeloStatistics:
    """Takes in one gradient, already clipped."""
    momentum, rms, factored = (jnp.asarray(d, jnp.float32) for d in (MOMENTUM_DECAYS, RMS_DECAYS, FACTORED_DECAYS))
    return VeloStatistics(
        jax.tree.map(lambda g, m: update_momenta(m, g, momentum), grads, statistics.momenta),
        jax.tree.map(lambda g, v: update_rms(v, g, rms), grads, statistics.rms),
        jax.tree.map(lambda g, v: update_factored(v, g, factored), grads, statistics.factored),
    )


def _features(s: TensorStatistics) -> list[jax.Array]:
    features = velo_features(s)
    if s.grad.ndim < 2:
        # The published networks add nothing below the root here. The bound keeps its derivative at zero finite.
        features[-len(FACTORED_DECAYS) :] = s.momenta * jax.lax.rsqrt(jnp.maximum(s.row, 1e-24))
    return features


def velo_step(
    weights: Theta,
    scale: jax.Array,
    grad: jax.Array,
    param: jax.Array,
    momenta: jax.Array,
    rms: jax.Array,
    factored: FactoredMoments,
) -> jax.Array:
    """The update of one tensor: -1e-3 scale d exp(1e-3 a) sqrt(mean(p^2) + 1e-9), (d, a) = MLP(normalized inputs).

    Args:
      weights: of the MLP, `{"kernel_i", "bias_i"}`.
      scale: scalar.
      grad, param, momenta, rms, factored: of the tensor, after `update_statistics`.
    """
    size = jnp.sqrt(jnp.mean(jnp.square(param)) + 1e-9) if param.size else jnp.float32(1)
    factor = -STEP_SCALE * scale * size

    def rule(features: list[jax.Array]) -> jax.Array:
        direction, magnitude, *_ = apply_mlp(weights, features)
        return factor * direction * jnp.exp(MAGNITUDE_SCALE * magnitude)

    wide = max(bias.size for name, bias in weights.items() if name.startswith("bias")) > MAX_UNROLLED
    statistics = tensor_statistics(grad, param, momenta, rms, factored)
    return normalized_rule(_features, rule, statistics, in_blocks=wide)


def map_tensors(function: Any, params: Params, *trees: PyTree) -> Params:
    """`function(index, param, *parts)` of every tensor, as a tree like params; `trees` may go deeper than params."""
    leaves, treedef = jax.tree.flatten(params)
    parts = (treedef.flatten_up_to(tree) for tree in trees)
    return treedef.unflatten([function(i, *tensor) for i, tensor in enumerate(zip(leaves, *parts, strict=True))])
