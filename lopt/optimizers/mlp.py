"""`mlp`: one small MLP, shared by all parameters, maps gradient, parameter, momenta and time to a step.

Luke Metz, Niru Maheswaranathan, Jeremy Nixon, C. Daniel Freeman, Jascha Sohl-Dickstein, "Understanding and correcting
pathologies in the training of learned optimizers", 2019 (arXiv 1810.10180); the inputs are those of MLPLOpt in
google/learned_optimization.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import init_momenta, update_momenta
from lopt.optimizers.parts.blocks import BLOCK, mean_squares, over_blocks
from lopt.optimizers.parts.checks import check_hidden_sizes
from lopt.optimizers.parts.networks import ParameterMLP
from lopt.optimizers.parts.progress import time_features
from lopt.types import Params, PyTree, Theta

DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
NUM_FEATURES = 2 + len(DECAYS)  # gradient, parameter, momenta
EPSILON = 1e-5  # added to the mean square that normalizes a feature


def _features(grad: jax.Array, param: jax.Array, momenta: jax.Array) -> jax.Array:
    """The inputs of one tensor of n parameters, each divided by its root mean square, `[8, n]`."""
    x = jnp.concatenate((grad.reshape(1, -1), param.reshape(1, -1), momenta.reshape(len(DECAYS), -1)))
    return x * jax.lax.rsqrt(EPSILON + jnp.mean(jnp.square(x), axis=1, keepdims=True))


class MLPState(NamedTuple):
    """The state.

    Attributes:
      step: int32, number of updates done.
      momenta: a tree like `params` of `[6, *shape]`.
    """

    step: jax.Array
    momenta: PyTree


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

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.step_scale <= 0:
            raise InputError(f"step_scale must be above 0, not {self.step_scale}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"})

    @property
    def _network(self) -> ParameterMLP:
        return ParameterMLP((*self.hidden_sizes, 2))

    def _step(self, theta: Theta, features: jax.Array, step: jax.Array) -> jax.Array:
        """The update of every parameter, `[n]`, from features `[8, n]`."""
        direction, magnitude = jnp.asarray(self._network.apply({"params": theta}, features, time_features(step)))
        return -self.step_scale * direction * jnp.exp(self.magnitude_scale * magnitude)

    def init_theta(self, key: jax.Array) -> Theta:
        features = jnp.zeros((NUM_FEATURES, 1), jnp.float32)
        return self._network.init(key, features, time_features(jnp.zeros((), jnp.int32)))["params"]

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> MLPState:
        del theta, num_steps
        return MLPState(jnp.zeros((), jnp.int32), jax.tree.map(lambda p: init_momenta(p, len(DECAYS)), params))

    def update(
        self, theta: Theta, grads: Params, state: MLPState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, MLPState]:
        del value
        decays = jnp.asarray(DECAYS, jnp.float32)
        momenta = jax.tree.map(lambda m, g: update_momenta(m, g, decays), state.momenta, grads)

        leaves, treedef = jax.tree.flatten(params)
        tensors = list(zip(jax.tree.leaves(grads), leaves, jax.tree.leaves(momenta), strict=True))
        updates = []
        for group in _groups([leaf.size for leaf in leaves]):
            if tensors[group[0]][1].size > BLOCK:
                updates.append(self._update_large(theta, *tensors[group[0]], state.step))
            else:
                updates += self._update_side_by_side(theta, [tensors[i] for i in group], state.step)
        return jax.tree.unflatten(treedef, updates), MLPState(state.step + 1, momenta)

    def _update_side_by_side(
        self, theta: Theta, tensors: list[tuple[jax.Array, jax.Array, jax.Array]], step: jax.Array
    ) -> list[jax.Array]:
        """The updates of several tensors (grad, param, momenta), by one wide product instead of one per tensor."""
        outputs = self._step(theta, jnp.concatenate([_features(*tensor) for tensor in tensors], axis=1), step)
        ends = [0]
        for grad, _, _ in tensors:
            ends.append(ends[-1] + grad.size)
        return [
            outputs[start:end].reshape(grad.shape)
            for start, end, (grad, _, _) in zip(ends, ends[1:], tensors, strict=False)
        ]

    def _update_large(
        self, theta: Theta, grad: jax.Array, param: jax.Array, momenta: jax.Array, step: jax.Array
    ) -> jax.Array:
        """The update of one tensor, block by block, so that its features are never in memory together."""
        means = mean_squares([grad, param, *momenta], grad.shape, 0)

        def update_block(grad: jax.Array, param: jax.Array, momenta: jax.Array, means: list[jax.Array]) -> jax.Array:
            rows = [x * jax.lax.rsqrt(EPSILON + mean) for x, mean in zip([grad, param, *momenta], means, strict=True)]
            return self._step(theta, jnp.stack(rows), step)

        return over_blocks(update_block, (grad, param, momenta, means), grad.shape)


def _groups(sizes: list[int]) -> list[list[int]]:
    """Indices of neighbouring tensors that have at most BLOCK parameters together; a larger tensor is alone."""
    groups, total = [], 0
    for i, size in enumerate(sizes):
        total += size
        if not groups or total > BLOCK:
            groups.append([])
            total = size
        groups[-1].append(i)
    return groups
