"""`nn_adam`: Adam whose hyperparameters a per-tensor LSTM edits at every step.

Luke Metz, Niru Maheswaranathan, C. Daniel Freeman, Ben Poole, Jascha Sohl-Dickstein, "Tasks, stability, architecture,
and compute: training more effective learned optimizers, and using them to train themselves", 2020 (arXiv 2009.11243);
in the form of NNAdam in google/learned_optimization.
"""

import dataclasses
import math
from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.gradients import clip_gradients
from lopt.optimizers.parts.recurrent import Carry, draw_kernels, first_carry, lstm_cell
from lopt.optimizers.parts.tensor_moments import clipped_log, means_and_variances
from lopt.optimizers.parts.tensors import map_tensors
from lopt.types import Params, PyTree, Theta

NUM_FEATURES = 18
HYPERPARAMETERS = ("learning_rate", "one_minus_b1", "one_minus_b2", "epsilon")  # each kept as ln(x) / 10
LOWEST = tuple(0.1 * math.log(x) for x in (1e-8, math.exp(-10), math.exp(-10), 1e-11))
HIGHEST = tuple(0.1 * math.log(x) for x in (1e3, 1.0, 1.0, 1e4))
EDIT_SCALE = 0.01


class NNAdamState(NamedTuple):
    """The state.

    Attributes:
      m: momenta, a tree like `params`.
      v: mean squares, a tree like `params`.
      hyperparameters: `[4, num_tensors]`, in the order of `HYPERPARAMETERS`.
      carry: states of the LSTMs, `[lstm_size, num_tensors]`.
    """

    m: PyTree
    v: PyTree
    hyperparameters: jax.Array
    carry: Carry


def _features(param: jax.Array, grad: jax.Array, m: jax.Array, v: jax.Array, hyperparameters: jax.Array) -> jax.Array:
    """The 18 inputs for one tensor: logs and signs of means, logs of variances, its rank, its hyperparameters."""
    means, variances = means_and_variances([[x] for x in (param, grad, m, v, jnp.abs(grad))])
    logs = 0.5 * clipped_log(jnp.concatenate([means[:4], variances[:4], means[4:]]))
    ranks = jnp.asarray([1.0 if param.ndim == rank else -1.0 for rank in (0, 1)], jnp.float32)
    return jnp.concatenate([logs, jnp.sign(means[:3]), ranks, 0.2 * hyperparameters])


def _update_tensor(
    kind: Hashable, param: jax.Array, grad: jax.Array, m: jax.Array, v: jax.Array, hyperparameters: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Update, m, v and the features of one tensor."""
    del kind
    lr, one_minus_b1, one_minus_b2, epsilon = jnp.exp(10 * hyperparameters)
    grad = clip_gradients(grad)
    m = m + one_minus_b1 * (grad - m)
    v = v + one_minus_b2 * (jnp.square(grad) - v)
    update = -lr * (1 + epsilon) * m / (epsilon + jnp.sqrt(v + 1e-10))
    return update, m, v, _features(param, grad, m, v, hyperparameters)


@dataclasses.dataclass(frozen=True)
class NNAdam:
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, update = -lr (1 + eps) m / (eps + sqrt(v + 1e-10)).

    Theta holds the first values of lr, 1 - b1, 1 - b2 and eps. After each update, a tensor's LSTM multiplies each of
    them by exp(0.1 output); the outputs of a fresh theta are zero. Thanks to the factor 1 + eps, a large eps turns the
    rule into momentum without a large learning rate.

    Attributes:
      lstm_size: width of the LSTM.
      learning_rate: value in a fresh theta.
      b1: value in a fresh theta.
      b2: value in a fresh theta.
      epsilon: value in a fresh theta.
    """

    lstm_size: int = 32
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.lstm_size < 1 or self.learning_rate <= 0 or self.epsilon <= 0:
            raise InputError("lstm_size must be at least 1, learning_rate and epsilon above 0")
        if not 0 < self.b1 < 1 or not 0 < self.b2 < 1:
            raise InputError("b1 and b2 must be between 0 and 1")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"})

    def init_theta(self, key: jax.Array) -> Theta:
        size = self.lstm_size
        shapes = {
            "initial_c": (size,),
            "initial_h": (size,),
            "kernel_lstm": (NUM_FEATURES + size, 4 * size),
            "bias_lstm": (4 * size,),
            "readout": (size, len(HYPERPARAMETERS)),
            "bias_readout": (len(HYPERPARAMETERS),),
        }
        start = (self.learning_rate, 1 - self.b1, 1 - self.b2, self.epsilon)
        hyperparameters = jnp.asarray([0.1 * math.log(x) for x in start], jnp.float32)
        return {"lstm": draw_kernels(key, shapes), "hyperparameters": hyperparameters}

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> NNAdamState:
        del num_steps
        num_tensors = len(jax.tree.leaves(params))
        start = jnp.broadcast_to(theta["hyperparameters"][:, None], (len(HYPERPARAMETERS), num_tensors))
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return NNAdamState(m, v, start, first_carry(theta["lstm"], num_tensors))

    def update(
        self, theta: Theta, grads: Params, state: NNAdamState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, NNAdamState]:
        del value
        structure = jax.tree.structure(params)
        if not structure.num_leaves:
            return params, state
        lowest, highest = (jnp.asarray(x, jnp.float32)[:, None] for x in (LOWEST, HIGHEST))
        old = jnp.clip(state.hyperparameters, lowest, highest)
        trees = (params, grads, state.m, state.v, structure.unflatten(list(old.T)))
        updates, m, v, features = map_tensors(_update_tensor, 4, *trees)
        x = jnp.stack(jax.tree.leaves(features), axis=1)
        lstm = theta["lstm"]
        carry = lstm_cell(lstm["kernel_lstm"], lstm["bias_lstm"], state.carry, x)
        edits = lstm["readout"].T @ carry.h + lstm["bias_readout"][:, None]
        return updates, NNAdamState(m, v, old + EDIT_SCALE * edits, carry)
