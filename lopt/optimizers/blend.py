"""`blend`: hand-made directions, whose sizes and mixture are learned functions of what is seen of a tensor.

The directions: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Diederik P.
Kingma, Jimmy Ba, "Adam: A method for stochastic optimization", 2015 (arXiv 1412.6980). That a learned mixture of
hand-made optimizers goes further than a learned direction: Gus Kristiansen et al., "Narrowing the focus: learned
optimizers for pretrained models", 2024 (arXiv 2408.09310).
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
    NUM_HORIZON_FEATURES,
    NUM_TENSOR_FEATURES,
    TensorSignals,
    fans,
    gain,
    horizon_features,
    is_kernel,
    moments_of,
    tensor_features,
    tensor_signals,
    units,
)
from lopt.optimizers.parts.blend_network import MATRIX, VECTOR, outputs_of
from lopt.optimizers.parts.checks import check_keys
from lopt.optimizers.parts.orthogonal import orthogonalize
from lopt.optimizers.parts.progress import LossAverages, init_loss_averages, share_done, update_loss_averages
from lopt.optimizers.parts.tensors import map_tensors
from lopt.trees import leaf_name
from lopt.types import Params, PyTree, Theta

# Of the momentum of matrices that are orthogonalized, Muon's; of that of all other tensors; and of all mean squares.
# The last two forget sooner than Adam's usually do: chosen, like the sizes, by trainings of many tasks
# (docs/training-log.md).
MUON_DECAY, MOMENTUM_DECAY, RMS_DECAY = 0.95, 0.8, 0.95
ANYTIME_STEPS = 100.0
SIZE_GAIN = 2.0
MEMORY = 0.95  # of the running mean of agreements
LEAST_AGREEMENT = -0.5  # that the decay of matrices follows


class BlendState(NamedTuple):
    """The state.

    Attributes:
      step: int32, number of updates done.
      num_steps: int32, length of the training; None where the rule does not know it.
      losses: running means of the loss, or None likewise.
      statistics: momenta and mean squares, a tree like `params`.
      agreement: running means of the cosine between a gradient and the momentum before it, `[num_tensors]`.
      gains: sizes of the tensors at the start, over those of the usual initialisation, `[num_tensors]`.
    """

    step: jax.Array
    num_steps: jax.Array | None
    losses: LossAverages | None
    statistics: PyTree
    agreement: jax.Array
    gains: jax.Array


@dataclasses.dataclass(frozen=True)
class Blend:
    """update = -s_t exp(2 z) u D; a network sets z, a and y for every tensor, at every step.

    A matrix has D = r (sqrt(max(1, m / n)) O + (b + a) A / sqrt(n) + w e^(k c + y) p / u). O is its momentum,
    orthogonalized, A is Adam's direction, p are the parameters, and c is the running mean of the cosine between a
    gradient and the momentum before it, limited to -1/2..0; a kernel of more axes is a matrix, fan-in n times fan-out
    m. Embeddings, and tensors that are no matrices, have D = l A. u is the unit of the tensor: 1, unless it starts at
    more than twice the usual size, or at less than a tenth of it. s_t = (1 + cos(pi t / T)) / 2; if the rule is to know
    neither T nor the loss, s_t = 1 / sqrt(1 + t / 100). Where outputs and k are zero, this is Muon with decoupled
    weight decay and a share of Adam for matrices, and Adam for all else. k is not zero in a fresh theta: gradients of
    fresh data disagree near a minimum that fits them exactly, where decay would only keep the parameters from it.

    The network reads numbers without a unit: the number of steps done, the shape of the tensor, the agreement of its
    gradients, the size of Adam's direction and of the parameters; and, where they are known, the share of the training
    that is done, its length, and trend and drop of the loss.

    Attributes:
      hidden_size: width of the network's hidden layer; 0 for outputs that are linear in what it reads.
      matrix_rate: r, Muon's learning rate of matrices at the start. The first update has a root mean square of
        r / sqrt(n), r times that of the usual initialisation.
      kernel_rate: the same for tensors of four axes and more, the kernels of convolutions over images.
      vector_rate: l, Adam's learning rate of all other tensors at the start.
      weight_decay: w, of matrices.
      decay_gain: k, by which the decay falls where gradients disagree.
      adam_share: b, of Adam's direction beside the orthogonalized momentum of matrices.
      adam_keys: parts of the paths (`layer/kernel`) of matrices that are treated as no matrices are.
      orthogonalize: whether matrices have O. If not, D = r (A / sqrt(n) + w e^(k c + y) p), without matrix products.
      anytime: whether the rule works without the length of the training and without the loss.
    """

    hidden_size: int = 0
    matrix_rate: float = 0.025
    kernel_rate: float = 0.1
    vector_rate: float = 0.05
    weight_decay: float = 0.08
    decay_gain: float = 4.0
    adam_share: float = 0.5
    adam_keys: tuple[str, ...] = ("embedding",)
    orthogonalize: bool = True
    anytime: bool = False

    def __post_init__(self):
        if self.hidden_size < 0:
            raise InputError(f"hidden_size must be at least 0, not {self.hidden_size}")
        if min(self.matrix_rate, self.kernel_rate, self.vector_rate) <= 0:
            raise InputError("matrix_rate, kernel_rate and vector_rate must be above 0")
        if min(self.weight_decay, self.decay_gain, self.adam_share) < 0:
            raise InputError("weight_decay, decay_gain and adam_share must be at least 0")
        check_keys("adam_keys", self.adam_keys)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"params"} if self.anytime else {"params", "value", "num_steps"})

    @property
    def num_features(self) -> int:
        """Number of what the network reads for each tensor."""
        return NUM_TENSOR_FEATURES + (0 if self.anytime else NUM_HORIZON_FEATURES)

    def init_theta(self, key: jax.Array) -> Theta:
        size, inputs = self.hidden_size, self.num_features
        theta: dict[str, Any] = {
            kind: {"bias": jnp.zeros((count,)), "features": jnp.zeros((inputs, count))}
            for kind, count in ((MATRIX, 3 if self.orthogonalize else 2), (VECTOR, 1))
        }
        if size:
            kernel = jax.random.normal(key, (inputs, size)) / math.sqrt(inputs)
            for head in theta.values():
                head["hidden"] = jnp.zeros((size, head["bias"].size))
            theta["hidden"] = {"kernel": kernel, "bias": jnp.zeros((size,))}
        return jax.tree.map(lambda x: x.astype(jnp.float32), theta)

    def init(self, theta: Theta, params: Params, *, num_steps: int | jax.Array | None) -> BlendState:
        del theta
        kinds, leaves = self._kinds(params), jax.tree.leaves(params)
        statistics = [init_statistics(p, self._decays(kind)) for p, kind in zip(leaves, kinds, strict=True)]
        statistics = jax.tree.unflatten(jax.tree.structure(params), statistics)
        agreement = jnp.zeros(len(leaves), jnp.float32)
        steps = None if self.anytime else jnp.asarray(num_steps, jnp.int32)
        losses = None if steps is None else init_loss_averages(steps)
        gains = [gain(p, _fan_in(kind, p.shape)) for p, kind in zip(leaves, kinds, strict=True)]
        stacked = jnp.stack(gains) if gains else jnp.zeros(0, jnp.float32)
        return BlendState(jnp.zeros((), jnp.int32), steps, losses, statistics, agreement, stacked)

    def update(
        self, theta: Theta, grads: Params, state: BlendState, params: Params, *, value: jax.Array | None
    ) -> tuple[Params, BlendState]:
        leaves, structure = jax.tree.flatten(params)
        if not leaves:
            return params, state
        step, kinds = state.step + 1, self._kinds(params)

        def observe(
            kind: Hashable, param: jax.Array, grad: jax.Array, old: Statistics
        ) -> tuple[Statistics, TensorSignals]:
            new = update_statistics(old, grad, self._decays(kind))
            return new, tensor_signals(param, grad, old.momenta[0], moments_of(self._decays(kind), new, step))

        statistics, signals = map_tensors(observe, 2, params, grads, state.statistics, kind=self._kind)
        signals = jax.tree.map(lambda *xs: jnp.stack(xs), *structure.flatten_up_to(signals))
        agreement = MEMORY * state.agreement + (1 - MEMORY) * signals.agreement
        scales = units(state.gains, [kind == MATRIX for kind in kinds])
        rates = [self._size(kind, p.shape) for kind, p in zip(kinds, leaves, strict=True)]
        seen = agreement / (1 - jnp.float32(MEMORY) ** step)
        shapes = [p.shape for p in leaves]
        inputs = tensor_features(shapes, jnp.asarray(rates, jnp.float32) * scales, signals, seen, state.step)
        if state.num_steps is None or state.losses is None:
            losses, schedule = None, jax.lax.rsqrt(1 + state.step.astype(jnp.float32) / ANYTIME_STEPS)
        else:
            losses = update_loss_averages(state.losses, jnp.asarray(value, jnp.float32))
            common = horizon_features(losses, state.step, state.num_steps)
            inputs = jnp.concatenate([inputs, jnp.broadcast_to(common[:, None], (common.size, len(leaves)))])
            schedule = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(share_done(state.step, state.num_steps), 1)))
        outputs = outputs_of(theta, inputs, kinds)
        sizes = [schedule * jnp.exp(SIZE_GAIN * x[0]) for x in outputs]
        decays = list(self.weight_decay * jnp.exp(self.decay_gain * jnp.clip(seen, LEAST_AGREEMENT, 0)))
        parts = outputs, sizes, list(scales), decays

        def move(
            kind: Hashable,
            param: jax.Array,
            grad: jax.Array,
            new: Statistics,
            outputs: jax.Array,
            size: jax.Array,
            scale: jax.Array,
            decay: jax.Array,
        ) -> tuple[jax.Array]:
            moments = moments_of(self._decays(kind), new, step)
            adam = moments.momentum / moments.root
            if kind == VECTOR:
                return (-size * scale * self.vector_rate * adam,)
            update = (
                scale * self._size(kind, param.shape) * self._matrix(grad, moments.momentum, adam, outputs[2:], step)
            )
            return (-size * (update + self._rate(param.shape) * decay * jnp.exp(outputs[1]) * param),)

        trees = statistics, *map(structure.unflatten, parts)
        (updates,) = map_tensors(move, 1, params, grads, *trees, kind=self._kind)
        return updates, BlendState(step, state.num_steps, losses, statistics, agreement, state.gains)

    def _decays(self, kind: Hashable) -> Decays:
        momentum = MUON_DECAY if kind == MATRIX and self.orthogonalize else MOMENTUM_DECAY
        return Decays(momentum=(momentum,), rms=(RMS_DECAY,), factored=())

    def _size(self, kind: Hashable, shape: tuple[int, ...]) -> float:
        """Root mean square of a tensor's first update."""
        return self._rate(shape) / math.sqrt(_fan_in(kind, shape)) if kind == MATRIX else self.vector_rate

    def _rate(self, shape: tuple[int, ...]) -> float:
        return self.kernel_rate if is_kernel(shape) else self.matrix_rate

    def _kind(self, path: str, param: jax.Array) -> str:
        """Whether a tensor is a matrix, of two axes or more, or not; by its shape and its name."""
        is_matrix = param.ndim > 1 and param.size > 0 and not any(key in path for key in self.adam_keys)
        return MATRIX if is_matrix else VECTOR

    def _kinds(self, params: Params) -> list[str]:
        return [self._kind(leaf_name(path), p) for path, p in jax.tree.leaves_with_path(params)]

    def _matrix(
        self, grad: jax.Array, momentum: jax.Array, adam: jax.Array, share: jax.Array, step: jax.Array
    ) -> jax.Array:
        """sqrt(max(n, m)) O + (b + a) A, with Nesterov's momentum, as Muon has it; A alone without O."""
        if not self.orthogonalize:
            return adam
        b = jnp.float32(MUON_DECAY)
        ahead = b * momentum * ((1 - b**step) / (1 - b ** (step + 1))) + (1 - b) / (1 - b**step) * grad
        matrix = ahead.reshape(fans(grad.shape))
        orthogonal = math.sqrt(max(matrix.shape)) * orthogonalize(matrix).reshape(grad.shape)
        return orthogonal + (self.adam_share + share[0]) * adam


def _fan_in(kind: Hashable, shape: tuple[int, ...]) -> int:
    return fans(shape)[0] if kind == MATRIX else 1
