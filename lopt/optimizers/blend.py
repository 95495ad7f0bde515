"""`blend`: hand-made directions, whose sizes and mixture are learned functions of what is seen of a tensor.

The directions: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Diederik P.
Kingma, Jimmy Ba, "Adam: A method for stochastic optimization", 2015 (arXiv 1412.6980); a second, slower momentum as in
Matteo Pagliardini, Pierre Ablin, David Grangier, "The AdEMAMix optimizer: better, faster, older", 2024 (arXiv
2409.03137). That a learned mixture of hand-made optimizers goes further than a learned direction: Gus Kristiansen et
al., "Narrowing the focus: learned optimizers for pretrained models", 2024 (arXiv 2408.09310).
"""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.optimizers.parts.accumulators import Decays, Statistics, init_statistics, update_statistics
from lopt.optimizers.parts.blend_features import (
    NUM_FEATURES,
    TINY,
    Moments,
    TensorSignals,
    fans,
    features,
    tensor_signals,
)
from lopt.optimizers.parts.orthogonal import orthogonalize
from lopt.optimizers.parts.progress import LossAverages, init_loss_averages, share_done, update_loss_averages
from lopt.optimizers.parts.tensors import map_tensors
from lopt.types import Params, PyTree, Theta

MATRIX, VECTOR = "matrix", "vector"  # the two kinds of tensors, and theta's heads; scalars count as vectors
# A fast and a slow momentum, and a mean square. Those of vectors forget sooner than Adam's usually do: chosen, like
# the sizes, by trainings of many tasks (docs/training-log.md).
DECAYS: dict[Hashable, Decays] = {
    MATRIX: Decays(momentum=(0.95, 0.99), rms=(0.999,), factored=()),
    VECTOR: Decays(momentum=(0.8, 0.99), rms=(0.95,), factored=()),
}
EPSILON = 1e-8
SIZE_GAIN = 2.0
MAX_DRIFT = 3.0  # largest change of ln(size) by the drift over a whole training
BOUND = 2.0  # of the outputs, smoothly
MEMORY = 0.95  # of the running mean of agreements


class BlendState(NamedTuple):
    """The state.

    Attributes:
      step: int32, number of updates done.
      num_steps: int32, length of the training.
      losses: running means of the loss.
      statistics: momenta and mean squares, a tree like `params`.
      agreement: running means of the cosine between a gradient and the momentum before it, `[num_tensors]`.
      drift: what the network has added to ln(size) so far, `[num_tensors]`.
    """

    step: jax.Array
    num_steps: jax.Array
    losses: LossAverages
    statistics: PyTree
    agreement: jax.Array
    drift: jax.Array


@dataclasses.dataclass(frozen=True)
class Blend:
    """update = -s_t exp(2 z + drift) D, with s_t = (1 + cos(pi t / T)) / 2; a network sets what is not fixed in D.

    A matrix has D = r (sqrt(max(1, m / n)) O + a A / sqrt(n) + w e^y p). O is its momentum, orthogonalized, A is Adam's
    direction and p are the parameters; a kernel of more axes is a matrix, fan-in n times fan-out m. Any other tensor
    has D = l (A + b B + c G): B and G are slow momentum and gradient over the root of Adam's second moment. Where
    outputs are zero, as in a fresh theta, this is Muon with decoupled weight decay for matrices, and Adam for all else,
    on a cosine schedule.

    The network reads numbers without a unit: time, trend of the loss, shape, agreement of gradients and momenta, and
    averages of these over the tensors. The drift is the running mean of an output, times 3, so that what the network
    reads early can act later.

    Attributes:
      hidden_size: width of the network's hidden layer; 0 for outputs that are linear in what it reads.
      matrix_rate: r, Muon's learning rate of matrices at the start. The first update has a root mean square of
        r / sqrt(n), r times that of the usual initialisation.
      vector_rate: l, Adam's learning rate of all other tensors at the start.
      weight_decay: w, of matrices.
      orthogonalize: whether matrices have O. If not, D = r ((A + b B + c G) / sqrt(n) + w e^y p), at the cost of Adam.
    """

    hidden_size: int = 0
    matrix_rate: float = 0.025
    vector_rate: float = 0.05
    weight_decay: float = 0.01
    orthogonalize: bool = True

    def __post_init__(self):
        if self.hidden_size < 0:
            raise InputError(f"hidden_size must be at least 0, not {self.hidden_size}")
        if self.matrix_rate <= 0 or self.vector_rate <= 0 or self.weight_decay < 0:
            raise InputError("matrix_rate and vector_rate must be above 0, and weight_decay at least 0")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params", "value", "num_steps"})

    def init_theta(self, key: jax.Array) -> Theta:
        size = self.hidden_size
        theta: dict[str, Any] = {
            kind: {"bias": jnp.zeros((count,)), "features": jnp.zeros((NUM_FEATURES, count))}
            for kind, count in ((MATRIX, 6 if self.orthogonalize else 5), (VECTOR, 4))
        }
        if size:
            kernel = jax.random.normal(key, (NUM_FEATURES, size)) / math.sqrt(NUM_FEATURES)
            for head in theta.values():
                head["hidden"] = jnp.zeros((size, head["bias"].size))
            theta["hidden"] = {"kernel": kernel, "bias": jnp.zeros((size,))}
        return jax.tree.map(lambda x: x.astype(jnp.float32), theta)

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> BlendState:
        del theta
        statistics = jax.tree.map(lambda p: init_statistics(p, DECAYS[_kind("", p)]), params)
        steps, number = jnp.asarray(num_steps, jnp.int32), len(jax.tree.leaves(params))
        # One array for both could not be donated.
        agreement, drift = jnp.zeros(number, jnp.float32), jnp.zeros(number, jnp.float32)
        return BlendState(jnp.zeros((), jnp.int32), steps, init_loss_averages(steps), statistics, agreement, drift)

    def update(
        self, theta: Theta, grads: Params, state: BlendState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, BlendState]:
        leaves, structure = jax.tree.flatten(params)
        if not leaves:
            return params, state
        step, kinds = state.step + 1, [_kind("", p) for p in leaves]
        losses = update_loss_averages(state.losses, jnp.asarray(value, jnp.float32))

        def observe(
            kind: Hashable, param: jax.Array, grad: jax.Array, old: Statistics
        ) -> tuple[Statistics, TensorSignals]:
            new = update_statistics(old, grad, DECAYS[kind])
            return new, tensor_signals(param, grad, old.momenta[0], _moments(kind, new, step))

        statistics, signals = map_tensors(observe, 2, params, grads, state.statistics, kind=_kind)
        signals = jax.tree.map(lambda *xs: jnp.stack(xs), *structure.flatten_up_to(signals))
        agreement = MEMORY * state.agreement + (1 - MEMORY) * signals.agreement
        inputs = features(
            [p.shape for p in leaves],
            [self._size(kind, p.shape) for kind, p in zip(kinds, leaves, strict=True)],
            signals,
            agreement / (1 - jnp.float32(MEMORY) ** step),
            state.drift / MAX_DRIFT,
            losses,
            state.step,
            state.num_steps,
        )
        outputs = _outputs(theta, inputs, kinds)
        change = MAX_DRIFT / state.num_steps * jnp.tanh(jnp.stack([x[1] for x in outputs]))
        drift = jnp.clip(state.drift + change, -MAX_DRIFT, MAX_DRIFT)
        schedule = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(share_done(state.step, state.num_steps), 1)))
        sizes = [schedule * jnp.exp(SIZE_GAIN * x[0] + y) for x, y in zip(outputs, drift, strict=True)]

        def move(
            kind: Hashable, param: jax.Array, grad: jax.Array, new: Statistics, weights: jax.Array, size: jax.Array
        ) -> tuple[jax.Array]:
            direction = self._matrix if kind == MATRIX else self._vector
            update = self._size(kind, param.shape) * direction(param, grad, _moments(kind, new, step), weights, step)
            if kind == MATRIX:
                update += self.matrix_rate * self.weight_decay * jnp.exp(weights[-1]) * param
            return (-size * update,)

        trees = statistics, structure.unflatten([x[2:] for x in outputs]), structure.unflatten(sizes)
        (updates,) = map_tensors(move, 1, params, grads, *trees, kind=_kind)
        return updates, BlendState(step, state.num_steps, losses, statistics, agreement, drift)

    def _size(self, kind: Hashable, shape: tuple[int, ...]) -> float:
        """Root mean square of a tensor's first update."""
        return self.matrix_rate / math.sqrt(fans(shape)[0]) if kind == MATRIX else self.vector_rate

    def _vector(
        self, param: jax.Array, grad: jax.Array, moments: Moments, weights: jax.Array, step: jax.Array
    ) -> jax.Array:
        """A + b B + c G."""
        del param, step
        return (moments.fast + weights[0] * moments.slow + weights[1] * grad) / moments.root

    def _matrix(
        self, param: jax.Array, grad: jax.Array, moments: Moments, weights: jax.Array, step: jax.Array
    ) -> jax.Array:
        """sqrt(max(n, m)) O + a A, or, without O, that of a vector."""
        if self.orthogonalize:
            # Nesterov's momentum as Muon has it, with a share of the slow one.
            b = jnp.float32(DECAYS[MATRIX].momentum[0])
            fast = moments.fast * ((1 - b**step) / (1 - b ** (step + 1)))
            mixed = b * fast + (1 - b) * jnp.exp(weights[1]) / (1 - b**step) * grad + weights[0] * moments.slow
            matrix = mixed.reshape(fans(param.shape))
            direction = math.sqrt(max(matrix.shape)) * orthogonalize(matrix).reshape(param.shape)
            return direction + weights[2] * moments.fast / moments.root
        return self._vector(param, grad, moments, weights, step)


def _kind(path: str, param: jax.Array) -> str:
    """Whether a tensor is a matrix, of two axes or more, or not; by its shape alone."""
    del path
    return MATRIX if param.ndim > 1 and param.size > 0 else VECTOR


def _moments(kind: Hashable, statistics: Statistics, step: jax.Array) -> Moments:
    """A tensor's moments after `step` gradients, corrected for their start at zero."""
    decays = DECAYS[kind]
    fast, slow = (m / (1 - jnp.float32(b) ** step) for m, b in zip(statistics.momenta, decays.momentum, strict=True))
    mean_square = statistics.rms[0] / (1 - jnp.float32(decays.rms[0]) ** step)
    # A gradient that was always 0 has no finite derivative of the root, which backpropagation would meet.
    return Moments(fast, slow, jnp.sqrt(mean_square + TINY) + EPSILON)


def _outputs(theta: Theta, inputs: jax.Array, kinds: list[str]) -> list[jax.Array]:
    """The network's outputs for every tensor.

    Args:
      theta: a head per kind of tensor, linear in features and hidden layer, and that layer, if there is one.
      inputs: `[NUM_FEATURES, num_tensors]`.
      kinds: of the tensors.
    """
    raw = {kind: (inputs.T @ theta[kind]["features"] + theta[kind]["bias"][None]) for kind in set(kinds)}
    if "hidden" in theta:
        hidden = jnp.tanh(inputs.T @ theta["hidden"]["kernel"] + theta["hidden"]["bias"][None])
        raw = {kind: x + hidden @ theta[kind]["hidden"] for kind, x in raw.items()}
    return [BOUND * jnp.tanh(raw[kind][i] / BOUND) for i, kind in enumerate(kinds)]
