"""`velo`: a bank of tiny per-parameter MLPs, whose weights a per-tensor LSTM mixes anew at every step.

Luke Metz, James Harrison, C. Daniel Freeman, Amil Merchant, Lucas Beyer, James Bradbury, Naman Agrawal, Ben Poole, Igor
Mordatch, Adam Roberts, Jascha Sohl-Dickstein, "VeLO: training versatile learned optimizers by scaling up", 2022 (arXiv
2211.09760).
"""

import dataclasses
from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import Statistics
from lopt.optimizers.parts.blocks import sums
from lopt.optimizers.parts.checks import check_hidden_sizes
from lopt.optimizers.parts.gradients import MAX_GRADIENT
from lopt.optimizers.parts.progress import (
    NUM_PROGRESS_FEATURES,
    LossAverages,
    init_loss_averages,
    progress_features,
    update_loss_averages,
)
from lopt.optimizers.parts.recurrent import Carry, TensorLSTM, draw_kernels, first_carry
from lopt.optimizers.parts.tensor_moments import clipped_log
from lopt.optimizers.parts.tensors import map_tensors
from lopt.optimizers.parts.velo_step import DECAYS, init_velo_statistics, mlp_shapes, velo_step
from lopt.optimizers.parts.xla import after
from lopt.types import Params, PyTree, Theta

NUM_RANKS = 5
NUM_TENSOR_FEATURES = len(DECAYS.rms) + NUM_RANKS + 2 * len(DECAYS.momentum)


class VeloState(NamedTuple):
    """The state.

    Attributes:
      step: int32, number of updates done.
      num_steps: int32, length of the training.
      losses: running means of the loss.
      statistics: a tree like `params` of `Statistics`.
      carry: states of the LSTMs, `[lstm_size, num_tensors]`.
    """

    step: jax.Array
    num_steps: jax.Array
    losses: LossAverages
    statistics: PyTree
    carry: Carry


def tensor_features(param: jax.Array, statistics: Statistics) -> jax.Array:
    """The 12 inputs for one tensor: mean of rms, number of axes longer than 1 (one-hot), spreads of momenta and of rms.

    Mean and spreads are logarithms, relative to the root mean square of the parameters. The spread of rms is taken
    about the means of the momenta, as in the published networks.
    """
    count = max(param.size, 1)
    momenta, (rms,) = list(statistics.momenta), list(statistics.rms)
    square, mean_rms, *means = (x / count for x in sums([jnp.square(param), rms, *momenta]))
    scale = jax.lax.rsqrt(jnp.maximum(square, 1e-9))
    # Scaled before they are squared, as the squares of small numbers would be lost.
    pairs = zip([*momenta, *[rms] * len(means)], [*means, *means], strict=True)
    spreads = [x / count for x in sums([jnp.square(scale * (x - center)) for x, center in pairs])]
    logs = 0.5 * clipped_log(10 * jnp.stack([scale * mean_rms, *spreads]).reshape(-1))
    rank = jax.nn.one_hot(sum(size > 1 for size in param.shape), NUM_RANKS, dtype=jnp.float32)
    return jnp.concatenate([logs[:1], rank, logs[1:]])


@dataclasses.dataclass(frozen=True)
class Velo:
    """Update = -1e-3 s d exp(1e-3 a) rms(p), (d, a) = MLP of a parameter with weights sum_k c_k W_k, LSTM -> (c, s).

    The MLP's weights are weight_scale mean_k(c_k W_k) over the `num_mlps` members W_k of the bank. The LSTMs of all
    tensors share their weights, and see each other through a maximum over tensors. The default settings are those of
    VeLO; the smaller VeLO-S of the Celo paper (arXiv 2501.12670) has lstm_size 64, num_mlps 32 and weight_scale 1.

    Attributes:
      lstm_size: width of the LSTM.
      num_mlps: size of the bank.
      hidden_sizes: widths of the hidden layers of the bank's MLPs.
      weight_scale: factor of the mixed weights.
    """

    lstm_size: int = 512
    num_mlps: int = 256
    hidden_sizes: tuple[int, ...] = (4, 4)
    weight_scale: float = 100.0

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.lstm_size < 1 or self.num_mlps < 1 or self.weight_scale <= 0:
            raise InputError("lstm_size and num_mlps must be at least 1, and weight_scale above 0")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params", "value", "num_steps"})

    @property
    def _network(self) -> TensorLSTM:
        return TensorLSTM(self.lstm_size, self.num_mlps)

    def init_theta(self, key: jax.Array) -> Theta:
        lstm = self._network.shapes(NUM_PROGRESS_FEATURES + NUM_TENSOR_FEATURES)
        return draw_kernels(key, {"mlps": mlp_shapes(self.hidden_sizes, self.num_mlps), "lstm": lstm})

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> VeloState:
        num_steps = jnp.asarray(num_steps, jnp.int32)
        carry = first_carry(theta["lstm"], len(jax.tree.leaves(params)))
        losses = init_loss_averages(num_steps)
        return VeloState(jnp.zeros((), jnp.int32), num_steps, losses, init_velo_statistics(params), carry)

    def update(
        self, theta: Theta, grads: Params, state: VeloState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, VeloState]:
        leaves, treedef = jax.tree.flatten(params)
        if not leaves:
            return params, state
        losses = update_loss_averages(state.losses, jnp.asarray(value, jnp.float32))
        progress = progress_features(state.step, state.num_steps, losses)
        # The LSTM reads the statistics before this gradient.
        (features,) = map_tensors(
            lambda kind, param, statistics: (tensor_features(param, statistics),), 1, params, state.statistics
        )
        x = jnp.stack([jnp.concatenate([progress, tensor]) for tensor in jax.tree.leaves(features)], axis=1)
        carry, mixing, scales = self._network.advance(theta["lstm"], state.carry, x)
        factor = self.weight_scale / self.num_mlps
        weights = jax.tree.map(lambda w: factor * jnp.tensordot(mixing.T, w, 1), theta["mlps"])

        bound = after(x, MAX_GRADIENT)  # the features are read from the old statistics, which are then updated in place

        def per_tensor(x: PyTree) -> PyTree:
            return treedef.unflatten([jax.tree.map(lambda x, i=i: x[i], x) for i in range(len(leaves))])

        def step(
            kind: Hashable,
            param: jax.Array,
            grad: jax.Array,
            statistics: Statistics,
            weights: Theta,
            scale: jax.Array,
        ) -> tuple[jax.Array, Statistics]:
            del kind
            return velo_step(param, grad, statistics, weights, scale, bound)

        trees = (params, grads, state.statistics, per_tensor(weights), per_tensor(scales))
        updates, statistics = map_tensors(step, 2, *trees)
        return updates, VeloState(state.step + 1, state.num_steps, losses, statistics, carry)
