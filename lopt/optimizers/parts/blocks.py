"""Passes over one tensor, large or small: sums in one sweep, and functions of its elements block by block."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.cuts import Blocks, split_axes
from lopt.types import PyTree

BLOCK = 2**16  # most parameters in a block
LARGE, LARGE_BLOCK = 2**24, 2**20  # above LARGE parameters, sums along axes go in blocks of at most LARGE_BLOCK
RUN = 1024  # least number of parameters that are summed one after another


def over_blocks(fn: Callable[..., PyTree], inputs: tuple, shape: tuple[int, ...], start: PyTree = None) -> PyTree:
    """`fn(*inputs)`, an array of this shape, block by block.

    Args:
      fn: computes the outputs of a block from the blocks of the inputs.
      inputs: arrays that can be broadcast to `shape`.
      shape: the tensor's shape.
      start: None, or a tree of arrays `[..., *shape]`. Then `fn` takes a block of this tree as its first argument, and
        returns what replaces that block.
    """
    if start is None:
        return _walk(lambda fresh, own, *blocks: (fn(*blocks), ()), inputs, shape, None, ())[0]

    def replace(fresh: jax.Array, own: PyTree, *blocks: PyTree) -> tuple[PyTree, tuple]:
        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(fresh.reshape(*[1] * (old.ndim - fresh.ndim), *fresh.shape), new, old)

        return jax.tree.map(choose, fn(own, *blocks), own), ()

    return _walk(replace, inputs, shape, start, ())[0]


def map_and_sum(
    fn: Callable[..., tuple[jax.Array, PyTree]], inputs: tuple, shape: tuple[int, ...], zeros: PyTree
) -> tuple[jax.Array, PyTree]:
    """Like `over_blocks`, with sums: `fn(fresh, *inputs)` returns a block of outputs and terms that are summed.

    Args:
      fn: its `fresh`, booleans that broadcast to the block, says which parameters were in no earlier block.
      inputs: arrays that can be broadcast to `shape`.
      shape: the tensor's shape.
      zeros: the sums over no block.
    """
    return _walk(lambda fresh, own, *blocks: fn(fresh, *blocks), inputs, shape, None, zeros)


def _walk(
    fn: Callable[..., tuple[PyTree, PyTree]], inputs: tuple, shape: tuple[int, ...], start: PyTree, sums: PyTree
) -> tuple[PyTree, PyTree]:
    """Outputs and sums of `fn(fresh, block of the outputs so far, *blocks of the inputs)`."""
    if math.prod(shape) <= BLOCK:
        outputs, terms = fn(jnp.ones([1] * len(shape), bool), start, *inputs)
        return outputs, jax.tree.map(jnp.add, sums, terms)
    blocks = Blocks.of(shape, BLOCK)

    def body(i: jax.Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        outputs, sums = carry
        starts, fresh = blocks.place(i)
        cut = functools.partial(blocks.cut, starts=starts)
        own = None if start is None else jax.tree.map(cut, outputs)
        new, terms = fn(fresh, own, *jax.tree.map(cut, inputs))
        outputs = jax.tree.map(lambda x, block: blocks.put(x, block, starts), outputs, new)
        return outputs, jax.tree.map(jnp.add, sums, terms)

    outputs = jnp.zeros(shape, jnp.float32) if start is None else start
    return jax.lax.fori_loop(0, blocks.number, body, (outputs, sums))


def sums_along(fn: Callable[[jax.Array], jax.Array], x: jax.Array, axes: Sequence[int]) -> list[jax.Array]:
    """The sum of `fn(x)`, where `fn` acts element by element, along each of the axes, which keeps length 1.

    A large x is summed block by block: several sums read fn(x), so XLA would keep all of it in memory.
    """
    if x.size <= LARGE:
        values = fn(x)
        return [jnp.sum(values, axis, keepdims=True) for axis in axes]
    blocks = Blocks.of(x.shape, LARGE_BLOCK)

    def body(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        starts, fresh = blocks.place(i)
        values = jnp.where(fresh, fn(blocks.cut(x, starts)), 0)
        new = []
        for axis, total in zip(axes, sums, strict=True):
            there = tuple(0 if i == axis else start for i, start in enumerate(starts))
            terms = jnp.sum(values, axis, keepdims=True) + blocks.cut(total, there)
            new.append(blocks.put(total, terms, there))
        return new

    shapes = ([1 if i == axis else size for i, size in enumerate(x.shape)] for axis in axes)
    return jax.lax.fori_loop(0, blocks.number, body, [jnp.zeros(shape, jnp.float32) for shape in shapes])


def mean_squares_in_blocks(
    fn: Callable[..., list[jax.Array]], inputs: tuple, shape: tuple[int, ...]
) -> list[jax.Array]:
    """mean(x^2) of each x in `fn(*inputs)`, arrays of this shape, block by block; scalars.

    It is faster than `mean_squares` where `fn` has roots or logarithms: XLA computes those number by number, and not by
    vectors, inside a sum of several arrays.
    """

    def terms(fresh: jax.Array, blocks: tuple) -> jax.Array:
        rows = jnp.stack([jnp.where(fresh, x, 0) for x in fn(*blocks)])
        return jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)))

    if math.prod(shape) <= BLOCK:
        total = terms(jnp.ones([1] * len(shape), bool), inputs)
    else:
        blocks = Blocks.of(shape, BLOCK)

        def body(i: jax.Array, total: jax.Array) -> jax.Array:
            starts, fresh = blocks.place(i)
            return total + terms(fresh, jax.tree.map(lambda x: blocks.cut(x, starts), inputs))

        num = len(jax.eval_shape(fn, *inputs))
        total = jax.lax.fori_loop(0, blocks.number, body, jnp.zeros((num,), jnp.float32))
    return list(total / max(math.prod(shape), 1))


def scale_in_place(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x * factor, where some axes of factor have length 1; a large x is not in memory twice."""
    return over_blocks(lambda block, factor: block * factor, (factor,), x.shape, start=x)


def mean_squares(features: Sequence[jax.Array], shape: tuple[int, ...], first_axis: int) -> list[jax.Array]:
    """mean(x^2) of each feature over the axes from `first_axis` on, which keep length 1."""
    axes = tuple(range(first_axis, len(shape)))
    count = max(math.prod(shape[first_axis:]), 1)
    dense = [jnp.square(x) for x in features if x.shape == shape]
    totals = iter(sums(dense, first_axis) if dense else [])
    return [next(totals) / count if x.shape == shape else mean(jnp.square(x), axes) for x in features]


def mean(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """The mean over `axes`, which keep length 1; 0 for no elements."""
    count = math.prod(x.shape[axis] for axis in axes)
    return jnp.sum(x, axis=tuple(axes), keepdims=True) / max(count, 1)


def sums(arrays: list[jax.Array], first_axis: int = 0) -> list[jax.Array]:
    """Sums of arrays of one shape over the axes from `first_axis` on, which keep length 1.

    Runs of about `RUN` neighbours are summed first, all arrays in one loop: memory is read once, the cores share the
    work, and rounding errors stay small.
    """
    shape, ndim = arrays[0].shape, arrays[0].ndim
    axis = first_axis  # the innermost axis that reaches RUN together with those after it
    while axis < ndim - 1 and math.prod(shape[axis + 1 :]) >= RUN:
        axis += 1
    num_rows = math.ceil(RUN / max(math.prod(shape[axis + 1 :]), 1))
    if axis < ndim and shape[axis] > 16 * num_rows:
        # The number of runs divides the axis: if a rest were summed on its own, XLA would keep what both sums read. If
        # possible it is also a multiple of the number of pieces, which may be on several devices. Where only long runs
        # divide the axis, as for a prime length, zeros fill up the last run.
        most, pieces = shape[axis] // num_rows, split_axes(shape)[axis]
        divisors = [i for i in range(most, 0, -1) if shape[axis] % i == 0]
        num_runs = next((i for i in divisors if i % pieces == 0), divisors[0])
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
    """Sums over the axes from `axis` on, as one reduction of all arrays: separate ones would be separate loops."""

    def add(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
        return [x + y for x, y in zip(a, b, strict=True)]

    zeros = [jnp.zeros((), jnp.float32)] * len(arrays)
    return jax.lax.reduce(arrays, zeros, add, tuple(range(axis, arrays[0].ndim)))


@_sums_from.defjvp
def _(axis: int, primals: tuple[list[jax.Array]], tangents: tuple[list[jax.Array]]):
    (arrays,), (dots,) = primals, tangents
    return _sums_from(arrays, axis), [jnp.sum(x, axis=tuple(range(axis, x.ndim))) for x in dots]
