"""`rnn_mlp`: a per-parameter MLP and a per-tensor LSTM that exchange messages.

Luke Metz, Niru Maheswaranathan, C. Daniel Freeman, Ben Poole, Jascha Sohl-Dickstein, "Tasks, stability, architecture,
and compute: training more effective learned optimizers, and using them to train themselves", 2020 (arXiv 2009.11243).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import init_momenta, init_rms
from lopt.optimizers.parts.checks import check_hidden_sizes
from lopt.optimizers.parts.progress import TIME_SCALES
from lopt.optimizers.parts.recurrent import Carry, draw_kernels, first_carry, lstm_cell
from lopt.optimizers.parts.rnn_mlp_step import DECAYS, NUM_FEATURES, TO_LSTM, read_tensor, step_tensor
from lopt.optimizers.parts.tensor_moments import root
from lopt.optimizers.parts.tensors import map_tensors
from lopt.types import Params, PyTree, Theta

NUM_STATISTICS = 18  # numbers about a tensor that its LSTM reads
FROM_LSTM, TO_MLP = 18, 17  # numbers from all LSTMs to each of them, and from an LSTM to the MLP of its tensor
NUM_CONSTANTS = len(TIME_SCALES) + 3 + TO_MLP  # inputs of an MLP that all parameters of the tensor share
CLIP_DECAY, CLIP_FACTOR = 0.99, 10.0
LOSS_DECAY, MAX_LOSS = 0.9, 1e18


class LossMoments(NamedTuple):
    """Running mean and variance of the loss, which start at zero.

    Attributes:
      mean: scalar.
      variance: scalar.
      count: int32, number of losses.
    """

    mean: jax.Array
    variance: jax.Array
    count: jax.Array


class RNNMLPState(NamedTuple):
    """The state.

    Attributes:
      step: int32, number of updates done.
      momenta: a tree like `params` of `[5, *shape]`.
      rms: mean squares, a tree like `params` of `[5, *shape]`.
      losses: moments of the training's losses.
      gradient_size: running root mean square of the gradient; it starts at 1 - 0.99 and is not corrected for that.
      carry: states of the LSTMs, `[lstm_size, num_tensors]`.
      to_lstm: mean message of each tensor's MLP, `[16, num_tensors]`.
      from_lstm: mean read-out of all LSTMs, `[18]`.
    """

    step: jax.Array
    momenta: PyTree
    rms: PyTree
    losses: LossMoments
    gradient_size: jax.Array
    carry: Carry
    to_lstm: jax.Array
    from_lstm: jax.Array


def _update_losses(moments: LossMoments, value: jax.Array) -> tuple[LossMoments, jax.Array]:
    """The moments after one loss, which counts if it is finite; and the places of this loss and of zero, `[2]`.

    A place is the distance from the running mean in standard deviations, limited to [-5, 5].
    """
    finite = jnp.isfinite(value)
    loss = jnp.where(finite, jnp.clip(value, -MAX_LOSS, MAX_LOSS), 0.0)
    center = LOSS_DECAY * moments.mean + (1 - LOSS_DECAY) * loss
    variance = LOSS_DECAY * moments.variance + (1 - LOSS_DECAY) * jnp.square(center - loss)
    new = LossMoments(center, variance, moments.count + 1)
    new = jax.tree.map(lambda x, old: jnp.where(finite, x, old), new, moments)
    weight = 1 / (1 - LOSS_DECAY ** jnp.maximum(new.count, 1).astype(jnp.float32))
    both = jnp.stack([jnp.where(finite, loss, MAX_LOSS), jnp.zeros((), jnp.float32)])
    return new, jnp.clip((both - weight * new.mean) * jax.lax.rsqrt(weight * new.variance + 1e-8), -5, 5)


@dataclasses.dataclass(frozen=True)
class RNNMLPOptimizer:
    """Update = -1e-3 d exp(1e-3 a); (d, a, message to the LSTM) = MLP(inputs of a parameter, message of the LSTM).

    The LSTM of a tensor reads 18 statistics, the mean message of the tensor's MLP, and the mean read-out of all LSTMs
    at the previous step, through which tensors see each other. The gradient is clipped at ten times its running size.

    Attributes:
      hidden_sizes: widths of the MLP's hidden layers.
      lstm_size: width of the LSTM.
    """

    hidden_sizes: tuple[int, ...] = (32, 32)
    lstm_size: int = 64

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.lstm_size < 1:
            raise InputError(f"lstm_size must be at least 1, not {self.lstm_size}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params", "value"})

    def init_theta(self, key: jax.Array) -> Theta:
        size = self.lstm_size
        layers = (NUM_FEATURES + NUM_CONSTANTS, *self.hidden_sizes, 2 + TO_LSTM)
        mlp = {f"kernel_{i}": layers[i : i + 2] for i in range(len(layers) - 1)}
        mlp |= {f"bias_{i}": layers[i + 1 : i + 2] for i in range(len(layers) - 1)}
        lstm = {
            "initial_c": (size,),
            "initial_h": (size,),
            "kernel_lstm": (NUM_STATISTICS + FROM_LSTM + TO_LSTM + size, 4 * size),
            "bias_lstm": (4 * size,),
            "kernel_to_mlp": (size, TO_MLP),
            "bias_to_mlp": (TO_MLP,),
            "kernel_from_lstm": (size, FROM_LSTM),
            "bias_from_lstm": (FROM_LSTM,),
            "first_from_lstm": (FROM_LSTM,),
            "first_to_lstm": (TO_LSTM,),
        }
        return draw_kernels(key, {"mlp": mlp, "lstm": lstm})

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> RNNMLPState:
        del num_steps
        num_tensors = len(jax.tree.leaves(params))
        first = theta["lstm"]
        return RNNMLPState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(lambda p: init_momenta(p, len(DECAYS)), params),
            jax.tree.map(lambda p: init_rms(p, len(DECAYS)), params),
            LossMoments(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)),
            jnp.asarray(1 - CLIP_DECAY, jnp.float32),
            first_carry(first, num_tensors),
            jnp.broadcast_to(first["first_to_lstm"][:, None], (TO_LSTM, num_tensors)),
            jnp.array(first["first_from_lstm"]),
        )

    def update(
        self, theta: Theta, grads: Params, state: RNNMLPState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, RNNMLPState]:
        leaves, treedef = jax.tree.flatten(params)
        if not leaves:
            return params, state
        losses, loss_features = _update_losses(state.losses, jnp.asarray(value, jnp.float32))
        correction = 1 - CLIP_DECAY ** (state.step + 1).astype(jnp.float32)
        bound = CLIP_FACTOR * state.gradient_size / correction

        momenta, rms, statistics, squares, means = map_tensors(
            lambda kind, *tensor: read_tensor(bound, *tensor), 5, params, grads, state.momenta, state.rms
        )
        sizes = jnp.asarray([max(leaf.size, 1) for leaf in leaves], jnp.float32)
        param_squares, grad_squares = jnp.stack(jax.tree.leaves(squares), axis=1)
        gradient_size = jnp.sqrt(1e-8 + jnp.mean(grad_squares / sizes))
        gradient_size = CLIP_DECAY * state.gradient_size + (1 - CLIP_DECAY) * gradient_size

        num_tensors = len(leaves)
        from_lstm = jnp.broadcast_to(state.from_lstm[:, None], (FROM_LSTM, num_tensors))
        loss_rows = jnp.broadcast_to(loss_features[:, None], (2, num_tensors))
        x = jnp.concatenate([jnp.stack(jax.tree.leaves(statistics), axis=1), loss_rows, from_lstm, state.to_lstm])
        lstm = theta["lstm"]
        carry = lstm_cell(lstm["kernel_lstm"], lstm["bias_lstm"], state.carry, x)
        messages = lstm["kernel_to_mlp"].T @ carry.h + lstm["bias_to_mlp"][:, None]
        from_lstm = jnp.mean(lstm["kernel_from_lstm"].T @ carry.h, axis=1) + lstm["bias_from_lstm"]

        waves = jnp.sin(state.step / (jnp.pi * jnp.asarray(TIME_SCALES, jnp.float32)))
        shared = jnp.append(waves, jnp.float32(math.log(num_tensors) - 1))
        facts = jnp.stack([jnp.log(sizes), jnp.log(root(param_squares) + 1e-8)])
        constants = jnp.concatenate([jnp.broadcast_to(shared[:, None], (len(shared), num_tensors)), facts, messages])

        updates, to_lstm = map_tensors(
            lambda kind, *tensor: step_tensor(theta["mlp"], bound, *tensor),
            *(2, params, grads, momenta, rms, means, treedef.unflatten(list(constants.T))),
        )
        to_lstm = jnp.stack(jax.tree.leaves(to_lstm), axis=1)
        new = RNNMLPState(state.step + 1, momenta, rms, losses, gradient_size, carry, to_lstm, from_lstm)
        return updates, new
