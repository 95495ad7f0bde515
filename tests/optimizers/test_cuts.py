"""Blocks of large tensors: each has a part of every piece that may be on a device of its own."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lopt.optimizers.parts.cuts import Blocks, split_axes


@pytest.mark.parametrize(
    ("num_devices", "shape", "pieces"),
    [
        (1, (96, 50), [1, 1]),
        (8, (96, 50), [8, 2]),
        (6, (96, 50, 7), [6, 2, 1]),
        (64, (4096, 4096), [32, 32]),  # 64 x 64 are too many
        (64, (4096,), [64]),
    ],
)
def test_pieces_divide_axes_and_devices(monkeypatch, num_devices, shape, pieces):
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    assert split_axes(shape) == pieces


def test_within_shard_map_nothing_is_in_pieces():
    seen = []

    def fn(x):
        seen.append(split_axes((4, 6)))
        return x

    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    jax.eval_shape(jax.shard_map(fn, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x")), jnp.ones(2))
    assert seen == [[1, 1]]
    assert split_axes((4, 6)) == [2, 2]


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize(("shape", "size"), [((53,), 8), ((52,), 12), ((9, 12), 24), ((8, 12), 40), ((4, 6, 10), 80)])
def test_blocks_count_every_element_once_and_have_some_of_every_piece(monkeypatch, num_devices, shape, size):
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    blocks = Blocks.of(shape, size)
    places = np.arange(math.prod(shape)).reshape(shape)

    def block(i):
        starts, fresh = blocks.place(i)
        own = blocks.cut(jnp.asarray(places), starts)
        return own, jnp.broadcast_to(fresh, own.shape), blocks.put(jnp.zeros(shape, int), own + 1, starts)

    owns, fresh, put = (np.asarray(x) for x in jax.jit(jax.vmap(block))(jnp.arange(blocks.number)))
    assert owns[0].size <= size
    assert sorted(owns[fresh]) == list(range(places.size))
    np.testing.assert_array_equal(np.max(put, axis=0), places + 1)
    for axis, (n, pieces) in enumerate(zip(shape, split_axes(shape), strict=True)):
        piece = np.unravel_index(owns.reshape(len(owns), -1), shape)[axis] // (n // pieces)
        assert all(len(np.unique(row)) == pieces for row in piece)
