"""The state that `adafac_mlp`, `star` and `celo2` keep of every tensor's gradients, and a rule mapped over it.

Luke Metz, C. Daniel Freeman, James Harrison, Niru Maheswaranathan, Jascha Sohl-Dickstein, "Practical tradeoffs between
memory, compute, and performance in learned optimizers", 2022 (arXiv 2203.11860).
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.accumulators import Decays, Statistics, init_statistics, learned_decays, update_statistics
from lopt.optimizers.parts.adafac_features import NUM_ADAFAC_FEATURES, TensorStatistics, tensor_statistics
from lopt.optimizers.parts.networks import ParameterMLP
from lopt.optimizers.parts.progress import time_features
from lopt.optimizers.parts.tensors import map_tensors
from lopt.types import Params, PyTree, Theta

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))  # of a fresh theta


class AdafacState(NamedTuple):
    """The state.

    Attributes:
      step: int32, number of updates done.
      statistics: a tree like `params` of `Statistics`.
    """

    step: jax.Array
    statistics: PyTree


def init_adafac_theta(key: jax.Array, hidden_sizes: tuple[int, ...], num_outputs: int) -> Theta:
    """An MLP of 28 features and 11 time features, and offsets of the logits of the 7 decays."""
    features = jnp.zeros((NUM_ADAFAC_FEATURES, 1), jnp.float32)
    network = ParameterMLP((*hidden_sizes, num_outputs))
    times = time_features(jnp.zeros((), jnp.int32))
    offsets = {name: jnp.zeros((len(start),), jnp.float32) for name, start in DECAYS._asdict().items()}
    return {"logit_offsets": offsets, "mlp": network.init(key, features, times)["params"]}


def init_adafac_state(params: Params) -> AdafacState:
    """The state before the first update: all zeros."""
    return AdafacState(jnp.zeros((), jnp.int32), jax.tree.map(lambda p: init_statistics(p, DECAYS), params))


def map_statistics(
    rule: Callable[[Hashable, TensorStatistics], jax.Array],
    theta: Theta,
    grads: Params,
    state: AdafacState,
    params: Params,
    kind: Callable[[str, jax.Array], Hashable] = lambda path, param: None,
) -> tuple[Params, AdafacState]:
    """`rule(kind, statistics)` of every tensor, a tree like `params`, and the new state; `kind` as in `map_tensors`."""
    decays = Decays(*(learned_decays(theta["logit_offsets"][name], x) for name, x in DECAYS._asdict().items()))

    def update_tensor(
        what: Hashable, param: jax.Array, grad: jax.Array, statistics: Statistics
    ) -> tuple[jax.Array, Statistics]:
        statistics = update_statistics(statistics, grad, decays)
        return rule(what, tensor_statistics(grad, param, *statistics)), statistics

    updates, statistics = map_tensors(update_tensor, 2, params, grads, state.statistics, kind=kind)
    return updates, AdafacState(state.step + 1, statistics)
