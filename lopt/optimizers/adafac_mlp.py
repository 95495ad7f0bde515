"""`adafac_mlp`: one small MLP maps momenta, mean squares and factored second moments of the gradient to a step.

Luke Metz, C. Daniel Freeman, James Harrison, Niru Maheswaranathan, Jascha Sohl-Dickstein, "Practical tradeoffs between
memory, compute, and performance in learned optimizers", 2022 (arXiv 2203.11860). The division by fan_in: Benjamin
Thérien, Charles-Étienne Joseph, Boris Knyazev, Edouard Oyallon, Irina Rish, Eugene Belilovsky, "muLO: compute-efficient
meta-generalization of learned optimizers", 2024 (arXiv 2406.00153).
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.accumulators import Decays, Statistics, init_statistics, learned_decays, update_statistics
from lopt.optimizers.adafac_features import NUM_ADAFAC_FEATURES, TensorStatistics, adafac_features, tensor_statistics
from lopt.optimizers.features import ParameterMLP, time_features
from lopt.optimizers.networks import MAX_UNROLLED, apply_mlp, normalized_rule
from lopt.optimizers.tensors import map_tensors
from lopt.types import Params, PyTree, Theta

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))  # of a fresh theta


class AdafacState(NamedTuple):
    """Attributes: step, int32 number of updates done; statistics, a tree like params of `Statistics`."""

    step: jax.Array
    statistics: PyTree


def init_adafac_theta(key: jax.Array, hidden_sizes: tuple[int, ...], num_outputs: int) -> Theta:
    """An MLP of 28 features and 11 times, and offsets of the logits of the 7 decays."""
    features = jnp.zeros((NUM_ADAFAC_FEATURES, 1))
    network = ParameterMLP((*hidden_sizes, num_outputs))
    times = time_features(jnp.zeros((), jnp.int32))
    offsets = {name: jnp.zeros((len(start),), jnp.float32) for name, start in DECAYS._asdict().items()}
    return {"logit_offsets": offsets, "mlp": network.init(key, features, times)["params"]}


def init_adafac_state(params: Params) -> AdafacState:
    """All zeros."""
    return AdafacState(jnp.zeros((), jnp.int32), jax.tree.map(lambda p: init_statistics(p, DECAYS), params))


def map_statistics(
    rule: Callable[[Hashable, TensorStatistics], jax.Array],
    theta: Theta,
    grads: Params,
    state: AdafacState,
    params: Params,
    kind: Callable[[str, jax.Array], Hashable] = lambda path, param: None,
) -> tuple[Params, AdafacState]:
    """`rule(kind, statistics)` of every tensor, a tree like params, and the new state; `kind` as in `map_tensors`."""
    decays = Decays(*(learned_decays(theta["logit_offsets"][name], x) for name, x in DECAYS._asdict().items()))

    def update_tensor(
        what: Hashable, param: jax.Array, grad: jax.Array, statistics: Statistics
    ) -> tuple[jax.Array, Statistics]:
        statistics = update_statistics(statistics, grad, decays)
        return rule(what, tensor_statistics(grad, param, *statistics)), statistics

    updates, statistics = map_tensors(update_tensor, 2, params, grads, state.statistics, kind=kind)
    return updates, AdafacState(state.step + 1, statistics)


def check_hidden_sizes(hidden_sizes: tuple[int, ...]) -> None:
    """Raises InputError unless they are one or more positive widths."""
    if not hidden_sizes or min(hidden_sizes) < 1:
        raise InputError(f"hidden_sizes must be one or more widths of at least 1, not {hidden_sizes}")


def check_keys(name: str, keys: tuple[str, ...]) -> None:
    """Raises InputError unless `keys` is a tuple of words: one word alone would be read as its letters."""
    if not isinstance(keys, tuple) or not all(isinstance(key, str) and key for key in keys):
        raise InputError(f'{name} must be a tuple of parts of paths, as ("embedding",), not {keys!r}')


@dataclasses.dataclass(frozen=True)
class AdafacMLP:
    """Per-parameter MLP: (d, a) = MLP(normalize(28 features), time), update = -step_scale d exp(magnitude_scale a).

    Attributes:
      hidden_sizes: widths of the hidden layers; up to 8 they run as one loop over the parameters.
      step_scale: size of an update when the network's outputs are (1, 0).
      magnitude_scale: how strongly the second output changes the size of the step.
      mup_keys: parts of the paths (`layer/kernel`) of hidden matrices, whose updates are divided by fan_in, the product
        of all axes but the last: then a theta trained on narrow networks suits wide ones in muP. Input and output
        layers are to be left out.
    """

    hidden_sizes: tuple[int, ...] = (4, 4)
    step_scale: float = 1e-3
    magnitude_scale: float = 1e-3
    mup_keys: tuple[str, ...] = ()

    def __post_init__(self):
        check_hidden_sizes(self.hidden_sizes)
        if self.step_scale <= 0:
            raise InputError(f"step_scale must be above 0, not {self.step_scale}")
        check_keys("mup_keys", self.mup_keys)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"})

    def init_theta(self, key: jax.Array) -> Theta:
        return init_adafac_theta(key, self.hidden_sizes, num_outputs=2)

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> AdafacState:
        del theta, num_steps
        return init_adafac_state(params)

    def update(
        self, theta: Theta, grads: Params, state: AdafacState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, AdafacState]:
        del value
        times = time_features(state.step)
        wide = max(self.hidden_sizes) > MAX_UNROLLED

        def fan_in(path: str, param: jax.Array) -> int:
            hidden = param.ndim >= 2 and any(key in path for key in self.mup_keys)
            return max(math.prod(param.shape[:-1]), 1) if hidden else 1

        def update_tensor(fan_in: Any, statistics: TensorStatistics) -> jax.Array:
            def rule(features: list[jax.Array]) -> jax.Array:
                direction, magnitude = apply_mlp(theta["mlp"], features, times)
                return -self.step_scale / fan_in * direction * jnp.exp(self.magnitude_scale * magnitude)

            return normalized_rule(adafac_features, rule, statistics, in_blocks=wide)

        return map_statistics(update_tensor, theta, grads, state, params, kind=fan_in)
