"""Passes over one tensor, large or small: sums in one sweep, and functions of its elements a block at a time."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lopt.types import PyTree

BLOCK = 2**16  # parameters of a block, at most
LARGE, LARGE_BLOCK = 2**24, 2**20  # parameters above which sums along axes go in blocks, and of such a block
RUN = 1024  # parameters that are summed one after another, at least


def over_blocks(
    fn: Callable[..., jax.Array], inputs: tuple, shape: tuple[int, ...], start: jax.Array | None = None
) -> jax.Array:
    """`fn(*inputs)` of the given shape, of inputs that can be broadcast to it, a block at a time.

    With `start` the outputs take its place, and `fn` has its block as the first argument.
    """
    if start is None:
        return _walk(lambda fresh, own, *blocks: (fn(*blocks), ()), inputs, shape, None, ())[0]

    def replace(fresh: jax.Array, own: jax.Array, *blocks: PyTree) -> tuple[jax.Array, tuple]:
        return jnp.where(fresh, fn(own, *blocks), own), ()

    return _walk(replace, inputs, shape, start, ())[0]


def map_and_sum(
    fn: Callable[..., tuple[jax.Array, PyTree]], inputs: tuple, shape: tuple[int, ...], zeros: PyTree
) -> tuple[jax.Array, PyTree]:
    """As `over_blocks`, with sums: `fn(fresh, *inputs)` gives a block of outputs, and what is to be summed over blocks.

    Args:
      fn: has in `fresh`, booleans that can be broadcast to the block, which parameters were in no block before.
      inputs: arrays that can be broadcast to `shape`.
      shape: the tensor's.
      zeros: sums of nothing.
    """
    return _walk(lambda fresh, own, *blocks: fn(fresh, *blocks), inputs, shape, None, zeros)


def _walk(
    fn: Callable[..., tuple[jax.Array, PyTree]], inputs: tuple, shape: tuple[int, ...], start: jax.Array | None, sums
) -> tuple[jax.Array, PyTree]:
    """Outputs and sums of `fn(fresh, block of outputs so far, *blocks of inputs)`."""
    if math.prod(shape) <= BLOCK:
        outputs, terms = fn(jnp.ones([1] * len(shape), bool), start, *inputs)
        return outputs, jax.tree.map(jnp.add, sums, terms)
    num_blocks, place = _blocks(shape, BLOCK)

    def body(i: jax.Array, carry: tuple[jax.Array, PyTree]) -> tuple[jax.Array, PyTree]:
        outputs, sums = carry
        starts, sizes, fresh = place(i)
        cut = functools.partial(_cut, starts=starts, sizes=sizes)
        own = None if start is None else cut(outputs)
        new, terms = fn(fresh, own, *jax.tree.map(cut, inputs))
        return jax.lax.dynamic_update_slice(outputs, new, starts), jax.tree.map(jnp.add, sums, terms)

    outputs = jnp.zeros(shape, jnp.float32) if start is None else start
    return jax.lax.fori_loop(0, num_blocks, body, (outputs, sums))


def _blocks(
    shape: tuple[int, ...], size: int
) -> tuple[int, Callable[[jax.Array], tuple[tuple, tuple[int, ...], jax.Array]]]:
    """The number of blocks, and of the i-th where it starts, its shape, and what in it was in no block before.

    A block is some rows along one axis: one index of the axes before it, all of those after it. The last one may
    overlap with its neighbour.
    """
    axis = next(i for i in range(len(shape)) if math.prod(shape[i + 1 :]) <= size)
    num_rows = min(max(size // math.prod(shape[axis + 1 :]), 1), shape[axis])
    grid = (*shape[:axis], math.ceil(shape[axis] / num_rows))

    def place(i: jax.Array) -> tuple[tuple, tuple[int, ...], jax.Array]:
        *index, block = jnp.unravel_index(i, grid)
        last = shape[axis] - num_rows
        rows = jnp.arange(num_rows) + jnp.minimum(block * num_rows, last)
        fresh = (rows >= block * num_rows).reshape([num_rows if i == axis else 1 for i in range(len(shape))])
        starts = (*index, jnp.minimum(block * num_rows, last), *[0] * (len(shape) - axis - 1))
        return starts, (*[1] * axis, num_rows, *shape[axis + 1 :]), fresh

    return math.prod(grid), place


def _cut(x: jax.Array, starts: tuple, sizes: tuple[int, ...]) -> jax.Array:
    """The block of an array whose last axes can be broadcast to the tensor's."""
    extra = x.ndim - len(sizes)
    sizes = tuple(min(a, b) for a, b in zip(x.shape[extra:], sizes, strict=True))
    # A start is clamped to what fits: to 0 along an axis of length 1.
    return jax.lax.dynamic_slice(x, (*[0] * extra, *starts), (*x.shape[:extra], *sizes))


def sums_along(fn: Callable[[jax.Array], jax.Array], x: jax.Array, axes: Sequence[int]) -> list[jax.Array]:
    """The sums of `fn(x)`, elementwise, along each of the axes, which is kept with length 1.

    Of a large x they are taken a block at a time: XLA would keep fn(x), which several sums read.
    """
    if x.size <= LARGE:
        values = fn(x)
        return [jnp.sum(values, axis, keepdims=True) for axis in axes]
    num_blocks, place = _blocks(x.shape, LARGE_BLOCK)

    def body(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        starts, sizes, fresh = place(i)
        values = jnp.where(fresh, fn(_cut(x, starts, sizes)), 0)
        new = []
        for axis, total in zip(axes, sums, strict=True):
            there = tuple(0 if i == axis else start for i, start in enumerate(starts))
            terms = jnp.sum(values, axis, keepdims=True) + _cut(total, there, sizes)
            new.append(jax.lax.dynamic_update_slice(total, terms, there))
        return new

    shapes = ([1 if i == axis else size for i, size in enumerate(x.shape)] for axis in axes)
    return jax.lax.fori_loop(0, num_blocks, body, [jnp.zeros(shape, jnp.float32) for shape in shapes])


def mean_squares_in_blocks(
    fn: Callable[..., list[jax.Array]], inputs: tuple, shape: tuple[int, ...]
) -> list[jax.Array]:
    """mean(x^2) of each x of `fn(*inputs)`, arrays of the given shape, a block at a time; scalars.

    For what `mean_squares` computes slowly: XLA has no roots and logarithms of vectors within a sum of several things.
    """

    def terms(fresh: jax.Array, blocks: tuple) -> jax.Array:
        rows = jnp.stack([jnp.where(fresh, x, 0).reshape(-1) for x in fn(*blocks)])
        return jnp.sum(jnp.square(rows), axis=1)

    if math.prod(shape) <= BLOCK:
        total = terms(jnp.ones([1] * len(shape), bool), inputs)
    else:
        num_blocks, place = _blocks(shape, BLOCK)

        def body(i: jax.Array, total: jax.Array) -> jax.Array:
            starts, sizes, fresh = place(i)
            return total + terms(fresh, jax.tree.map(lambda x: _cut(x, starts, sizes), inputs))

        num = len(jax.eval_shape(fn, *inputs))
        total = jax.lax.fori_loop(0, num_blocks, body, jnp.zeros((num,), jnp.float32))
    return list(total / max(math.prod(shape), 1))


def scale_in_place(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x * factor, where factor has some axes of length 1; a large x is not in memory twice."""
    return over_blocks(lambda block, factor: block * factor, (factor,), x.shape, start=x)


def mean_squares(features: Sequence[jax.Array], shape: tuple[int, ...], first_axis: int) -> list[jax.Array]:
    """mean(x^2) over the axes from `first_axis` on, which are kept with length 1."""
    axes = tuple(range(first_axis, len(shape)))
    count = max(math.prod(shape[first_axis:]), 1)
    dense = [jnp.square(x) for x in features if x.shape == shape]
    totals = iter(sums(dense, first_axis) if dense else [])
    return [next(totals) / count if x.shape == shape else mean(jnp.square(x), axes) for x in features]


def mean(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The mean over `axes`, which are kept with length 1; 0 for none."""
    count = math.prod(x.shape[axis] for axis in axes)
    return jnp.sum(x, axis=tuple(axes), keepdims=True) / max(count, 1)


def sums(arrays: list[jax.Array], first_axis: int = 0) -> list[jax.Array]:
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
        # A number of runs that divides the axis: of a rest on its own, XLA would keep what both reductions compute. Where
        # only long runs do, as of a prime number, zeros fill up the last run.
        most = shape[axis] // num_rows
        num_runs = next(i for i in range(most, 0, -1) if shape[axis] % i == 0)
        num_runs = most if 4 * num_runs < most else num_runs
        length = math.ceil(shape[axis] / num_runs)
        fill = [(0, num_runs * length - shape[axis] if i == axis else 0) for i in range(ndim)]
        split = (*shape[:axis], num_runs, length, *shape[axis + 1 :])
        arrays, axis = [jnp.pad(x, fill).reshape(split) for x in arrays], axis + 1
    totals = [jnp.sum(x, axis=tuple(range(first_axis, x.ndim))) for x in _sums_from(arrays, axis)]
    last = tuple(range(first_axis, ndim))
    return [jnp.expand_dims(x, last) for x in totals]


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
