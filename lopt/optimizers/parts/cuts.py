"""How a large tensor is cut into blocks, so that on several devices each cuts up its own part of the tensor."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

MAX_PIECES = 2**10  # of a tensor; with more, a block would take only a few neighbours in memory from each


def split_axes(shape: tuple[int, ...]) -> list[int]:
    """The number of equal pieces that each axis may be split into by sharding.

    It is the greatest common divisor of the axis's length and the number of devices: a function under jit cannot see
    how its arguments are sharded. On a single device, and inside `shard_map`, they are not.
    """
    manual = jax.sharding.get_abstract_mesh().are_all_axes_manual
    number = 1 if manual else jax.device_count()
    while math.prod(math.gcd(n, number) for n in shape) > MAX_PIECES:
        number = next(i for i in range(number // 2, 0, -1) if number % i == 0)
    return [math.gcd(n, number) for n in shape]


class Blocks(NamedTuple):
    """How a tensor is cut into blocks.

    An axis of length n is seen as `[pieces, n / pieces]`, and a block takes the same rows of every piece: one index on
    each axis before `axis`, `num_rows` along it, everything on the axes after it. So each of several devices finds its
    part of every block in its own shard; a block from a single piece would make XLA collect the tensor on all of them.
    The last block along `axis` may overlap its neighbour.

    Attributes:
      pieces: number of pieces of each axis.
      lengths: length of one piece of each axis.
      axis: the axis along which blocks are cut.
      num_rows: rows of one piece along `axis` in a block.
    """

    pieces: tuple[int, ...]
    lengths: tuple[int, ...]
    axis: int
    num_rows: int

    @classmethod
    def of(cls, shape: tuple[int, ...], size: int) -> "Blocks":
        """Blocks of at most `size` parameters."""
        pieces = split_axes(shape)
        lengths = [n // k for n, k in zip(shape, pieces, strict=True)]
        room = max(size // math.prod(pieces), 1)
        axis = next(i for i in range(len(shape)) if math.prod(lengths[i + 1 :]) <= room)
        num_rows = min(max(room // math.prod(lengths[axis + 1 :]), 1), lengths[axis])
        num_rows = math.ceil(lengths[axis] / math.ceil(lengths[axis] / num_rows))  # as many blocks, nearly equal
        # An axis that is whole in every block stays in one piece.
        pieces[axis + 1 :], lengths[axis + 1 :] = [1] * (len(shape) - axis - 1), shape[axis + 1 :]
        return cls(tuple(pieces), tuple(lengths), axis, num_rows)

    @property
    def number(self) -> int:
        """Number of blocks."""
        return math.prod(self._grid)

    @property
    def _grid(self) -> tuple[int, ...]:
        return (*self.lengths[: self.axis], math.ceil(self.lengths[self.axis] / self.num_rows))

    def place(self, i: jax.Array) -> tuple[tuple, jax.Array]:
        """Where the i-th block starts in each piece, and which of its elements were in no earlier block."""
        *index, block = jnp.unravel_index(i, self._grid)
        first = block * self.num_rows
        start = jnp.minimum(first, self.lengths[self.axis] - self.num_rows)
        fresh = jnp.tile(jnp.arange(self.num_rows, dtype=jnp.int32) + start >= first, self.pieces[self.axis])
        fresh = fresh.reshape([fresh.size if axis == self.axis else 1 for axis in range(len(self.pieces))])
        return (*index, start, *[0] * (len(self.pieces) - self.axis - 1)), fresh

    def cut(self, x: jax.Array, starts: tuple) -> jax.Array:
        """The block of an array `[..., *shape]`; axes of length 1, which broadcast, are allowed."""
        split, sizes = self._split(x)
        extra = x.ndim - len(self.pieces)
        # JAX clamps a start to what fits: to 0 along an axis of length 1.
        block = jax.lax.dynamic_slice(split, self._corner(x, starts), sizes)
        pairs = zip(sizes[extra::2], sizes[extra + 1 :: 2], strict=True)
        return block.reshape(*x.shape[:extra], *(k * rows for k, rows in pairs))

    def put(self, x: jax.Array, block: jax.Array, starts: tuple) -> jax.Array:
        """The array with this block in its place."""
        split, sizes = self._split(x)
        return jax.lax.dynamic_update_slice(split, block.reshape(sizes), self._corner(x, starts)).reshape(x.shape)

    def _corner(self, x: jax.Array, starts: tuple) -> list:
        return [*[0] * (x.ndim - len(self.pieces)), *_interleaved([0] * len(starts), starts)]

    def _split(self, x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """`[..., *shape]` as `[..., pieces, length of a piece, ...]`, and the shape of its blocks."""
        extra = x.ndim - len(self.pieces)
        pieces = [min(k, n) for k, n in zip(self.pieces, x.shape[extra:], strict=True)]
        lengths = [n // k for k, n in zip(pieces, x.shape[extra:], strict=True)]
        rows = (*[1] * self.axis, self.num_rows, *self.lengths[self.axis + 1 :])
        rows = [min(a, b) for a, b in zip(rows, lengths, strict=True)]
        split = x.reshape(*x.shape[:extra], *_interleaved(pieces, lengths))
        return split, (*x.shape[:extra], *_interleaved(pieces, rows))


def _interleaved(first: Sequence, second: Sequence) -> tuple:
    return tuple(itertools.chain.from_iterable(zip(first, second, strict=True)))
