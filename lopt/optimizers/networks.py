"""A per-parameter network applied to a list of features, and the passes over a tensor that it takes.

The features of a tensor are never in memory together: they are normalized by a factor that a first pass over the tensor
gives, and a second pass computes them again, a block of the tensor at a time where the tensor is large.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.optimizers.accumulators import mean
from lopt.optimizers.adafac_features import TensorStatistics
from lopt.optimizers.features import ParameterMLP
from lopt.types import Theta

MAX_UNROLLED = 8  # widest hidden layer that is written as sums of scalars times features
BLOCK = 2**16  # parameters of a block, at most
RUN = 1024  # parameters that are summed one after another, at least

Features = Callable[[TensorStatistics], list[jax.Array]]


def apply_mlp(theta: Theta, features: Sequence[jax.Array], constants: jax.Array | None = None) -> list[jax.Array]:
    """The outputs of a `ParameterMLP` with meta-parameters `theta`, one array an output.

    Up to a width of `MAX_UNROLLED` it is written as sums over features, which XLA fuses with what computes the features
    into one loop over the parameters; above that, as matrix products.

    Args:
      theta: `{"kernel_i": [fan_in, size], "bias_i": [size]}` for layers i = 0, 1, ...
      features: arrays that can be broadcast to one another.
      constants: inputs after the features that all parameters share, `[c]`.

    Returns:
      Arrays of the shape to which the features are broadcast.
    """
    sizes = [theta[f"bias_{i}"].shape[-1] for i in range(len(theta) // 2)]
    shape = jnp.broadcast_shapes(*(x.shape for x in features))
    constants = jnp.zeros((0,), jnp.float32) if constants is None else constants
    if max(sizes[:-1]) > MAX_UNROLLED:
        flat = jnp.stack([jnp.broadcast_to(x, shape).reshape(-1) for x in features])
        outputs = jnp.asarray(ParameterMLP(sizes).apply({"params": theta}, flat, constants))
        return [x.reshape(shape) for x in outputs]
    kernel, bias = theta["kernel_0"], theta["bias_0"]
    bias = bias + constants @ kernel[len(features) :]
    hidden = [_weighted_sum(features, kernel[: len(features), j], bias[j]) for j in range(sizes[0])]
    for i in range(1, len(sizes)):
        kernel, bias = theta[f"kernel_{i}"], theta[f"bias_{i}"]
        hidden = [nn.relu(x) for x in hidden]
        hidden = [_weighted_sum(hidden, kernel[:, j], bias[j]) for j in range(sizes[i])]
    return [jnp.broadcast_to(x, shape) for x in hidden]


def _weighted_sum(features: Sequence[jax.Array], weights: jax.Array, bias: jax.Array) -> jax.Array:
    """sum_i weights[i] features[i] + bias; features of the same shape are added before they are broadcast."""
    sums: dict[tuple[int, ...], jax.Array] = {(1,) * features[0].ndim: bias.reshape([1] * features[0].ndim)}
    for feature, weight in zip(features, weights, strict=True):
        term = weight * feature
        sums[feature.shape] = sums[feature.shape] + term if feature.shape in sums else term
    small_first = sorted(sums.values(), key=lambda x: x.size)
    total = small_first[0]
    for term in small_first[1:]:
        total = total + term
    return total


def normalized_rule(
    features: Features,
    rule: Callable[[list[jax.Array]], jax.Array],
    statistics: TensorStatistics,
    *,
    num_axes: int | None = None,
    epsilon: float = 1e-5,
    num_plain: int = 0,
    in_blocks: bool = False,
) -> jax.Array:
    """rule([x / sqrt(epsilon + mean(x^2)) for x in features(statistics)]), the output of one tensor.

    Args:
      features: computes arrays `[*shape]`, or with some axes of length 1, from the statistics of a tensor or a block.
      rule: maps the normalized features to an array `[*shape]`, each parameter on its own.
      statistics: of the tensor.
      num_axes: the mean of the squares is over so many of the last axes; all of them if None.
      epsilon: added to the mean square.
      num_plain: so many of the last features are given to the rule as they are.
      in_blocks: whether a large tensor passes through the rule in blocks: for a rule that XLA cannot fuse.
    """
    shape = statistics.grad.shape
    first_axis = 0 if num_axes is None else max(len(shape) - num_axes, 0)
    inputs = features(statistics)
    means = mean_squares(inputs[: len(inputs) - num_plain], shape, first_axis)
    # Without the barrier XLA would keep what both passes compute: for 1e7 parameters 120 MB and a third of the time.
    statistics, means = jax.lax.optimization_barrier((statistics, means))

    def block_rule(block: TensorStatistics, means: list[jax.Array]) -> jax.Array:
        inputs = features(block)
        normalized = [x * jax.lax.rsqrt(epsilon + y) for x, y in zip(inputs, means, strict=False)]
        return rule(normalized + inputs[len(means) :])

    if in_blocks and math.prod(shape) > BLOCK:
        return over_blocks(block_rule, (statistics, means), shape)
    return block_rule(statistics, means)


def mean_squares(features: Sequence[jax.Array], shape: tuple[int, ...], first_axis: int) -> list[jax.Array]:
    """mean(x^2) over the axes from `first_axis` on, which are kept with length 1."""
    axes = tuple(range(first_axis, len(shape)))
    count = max(math.prod(shape[first_axis:]), 1)
    dense = iter(_sums([jnp.square(x) for x in features if x.shape == shape], first_axis))
    return [next(dense) / count if x.shape == shape else mean(jnp.square(x), axes) for x in features]


def scale_in_place(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x * factor, where factor has some axes of length 1; a large x is not in memory twice."""
    if x.size <= BLOCK:
        return x * factor
    return over_blocks(lambda block, factor: block * factor, (factor,), x.shape, start=x)


def over_blocks(
    fn: Callable[..., jax.Array], inputs: tuple, shape: tuple[int, ...], start: jax.Array | None = None
) -> jax.Array:
    """`fn(*inputs)` of the given shape, of inputs that can be broadcast to it, a block at a time.

    With `start` the outputs take its place, and `fn` has its block as the first argument.
    A block is some rows along one axis: one index of the axes before it, all of those after it. The last one may
    overlap with its neighbour, but not with `start`, where it would be changed twice.
    """
    axis = next(i for i in range(len(shape)) if math.prod(shape[i + 1 :]) <= BLOCK)
    num_rows = min(max(BLOCK // math.prod(shape[axis + 1 :]), 1), shape[axis])
    if start is not None:
        num_rows = next(i for i in range(num_rows, 0, -1) if shape[axis] % i == 0)
    block = (*[1] * axis, num_rows, *shape[axis + 1 :])
    grid = (*shape[:axis], math.ceil(shape[axis] / num_rows))

    def body(i: jax.Array, outputs: jax.Array) -> jax.Array:
        *index, row = jnp.unravel_index(i, grid)
        starts = (*index, row * num_rows, *[0] * (len(shape) - axis - 1))

        def cut(x: jax.Array) -> jax.Array:
            # Starts are clamped to what fits: to 0 along an axis of length 1, and alike for all in the last block.
            extra = x.ndim - len(shape)
            sizes = [min(a, b) for a, b in zip(x.shape[extra:], block, strict=True)]
            return jax.lax.dynamic_slice(x, (*[0] * extra, *starts), (*x.shape[:extra], *sizes))

        own = () if start is None else (cut(outputs),)
        return jax.lax.dynamic_update_slice(outputs, fn(*own, *jax.tree.map(cut, inputs)), starts)

    return jax.lax.fori_loop(0, math.prod(grid), body, jnp.zeros(shape, jnp.float32) if start is None else start)


def _sums(arrays: list[jax.Array], first_axis: int) -> list[jax.Array]:
    """Sums over the axes from `first_axis` on, kept with length 1, of arrays of one shape.

    First over runs of about `RUN` neighbours, all arrays in one loop: so memory is read once, cores share the work, and
    rounding errors stay small.
    """
    shape, ndim = arrays[0].shape, arrays[0].ndim
    axis = first_axis  # the innermost axis that reaches RUN together with those after it
    while axis < ndim - 1 and math.prod(shape[axis + 1 :]) >= RUN:
        axis += 1
    num_rows = math.ceil(RUN / max(math.prod(shape[axis + 1 :]), 1))
    if axis < ndim and shape[axis] > 16 * num_rows:
        # A number of runs that divides the axis: with a rest, XLA would keep what both reductions compute.
        num_runs = next(i for i in range(shape[axis] // num_rows, 0, -1) if shape[axis] % i == 0)
        split = (*shape[:axis], num_runs, shape[axis] // num_runs, *shape[axis + 1 :])
        arrays, axis = [x.reshape(split) for x in arrays], axis + 1
    sums = [jnp.sum(x, axis=tuple(range(first_axis, x.ndim))) for x in _sums_from(arrays, axis)]
    last = tuple(range(first_axis, ndim))
    return [jnp.expand_dims(x, last) for x in sums]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sums_from(arrays: list[jax.Array], axis: int) -> list[jax.Array]:
    """Sums over the axes from `axis` on. One reduction of all arrays: separate ones would be a loop each."""

    def add(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
        return [x + y for x, y in zip(a, b, strict=True)]

    zeros = [jnp.zeros((), jnp.float32)] * len(arrays)
    return jax.lax.reduce(arrays, zeros, add, tuple(range(axis, arrays[0].ndim)))


@_sums_from.defjvp
def _(axis: int, primals: tuple[list[jax.Array]], tangents: tuple[list[jax.Array]]):
    (arrays,), (dots,) = primals, tangents
    return _sums_from(arrays, axis), [jnp.sum(x, axis=tuple(range(axis, x.ndim))) for x in dots]
