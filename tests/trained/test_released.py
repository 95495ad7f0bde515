"""Weights that others have published: the recorded trajectories of two, and the layout of a third."""

import pathlib
import tracemalloc

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from flax import serialization

import lopt
from lopt.trained.pretrained import load_pretrained
from tests.optimizers.velo_in_numpy import VeloInNumpy, velo_tree

DATA = pathlib.Path(__file__).parents[3] / "shared/data/celo"
NAMES = ("bias", "conv", "kernel", "scale", "stack")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published files are not in ../shared/data/celo")


@needs_data
@pytest.mark.parametrize(("name", "size"), [("celo", 37089), ("celo_adam", 36865)])
def test_recorded_trajectory(name, size):
    """The parameters that the published implementation reached, after each of 30 steps, one with a loss spike."""
    path = f"{DATA}/{name}.theta.state"
    pretrained = load_pretrained(path)
    assert pretrained.card["architecture"] == name
    assert sum(leaf.size for leaf in jax.tree.leaves(pretrained.theta)) == size

    recorded = np.load(f"{DATA}/reference_updates.npz")
    tx = lopt.load(path, num_steps=int(recorded["num_steps"]))
    params = {key: jnp.asarray(recorded[f"params/{key}"]) for key in NAMES}
    state = tx.init(params)

    @jax.jit
    def step(params, state, grads, loss):
        updates, state = tx.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    for i in range(30):
        grads = {key: recorded[f"grads/{key}"][i] for key in NAMES}
        params, state = step(params, state, grads, recorded["losses"][i])
        for key in NAMES:
            expected = recorded[f"{name}/params_after/{key}"][i]
            np.testing.assert_allclose(params[key], expected, rtol=1e-4, atol=1e-5, err_msg=f"{key}, step {i}")


@pytest.mark.parametrize(("size", "bank", "count", "factor"), [(512, 256, 2320385, 100.0), (64, 32, 46337, 1.0)])
def test_velo_layout(tmp_path, size, bank, count, factor):
    """A randomly filled file of VeLO's shapes, and of the smaller VeLO's, against an implementation in numpy."""
    rng = np.random.default_rng(0)
    published = velo_tree(rng, size, bank)
    path = tmp_path / "theta.state"
    path.write_bytes(serialization.msgpack_serialize(published))
    pretrained = load_pretrained(path)
    assert pretrained.card["architecture"] == "velo"
    assert sum(leaf.size for leaf in jax.tree.leaves(pretrained.theta)) == count

    shapes = {"a": (), "b": (7,), "c": (5, 3), "d": (2, 5, 3)} if size < 512 else {"b": (7,), "c": (5, 3)}
    params = {key: jnp.asarray(rng.normal(size=shape), jnp.float32) for key, shape in shapes.items()}
    tx = lopt.load(path, num_steps=40)
    state = tx.init(params)
    update = jax.jit(lambda grads, state, loss: tx.update(grads, state, params, value=loss))
    exact = [np.asarray(p, np.float64) for p in params.values()]
    reference = VeloInNumpy(published, exact, 40, factor)
    for loss in (2.0, 1.5, 30.0, 1.0):
        grads = {key: rng.normal(size=shape).astype(np.float32) * 0.1 for key, shape in shapes.items()}
        updates, state = update(grads, state, loss)
        expected = reference.step(exact, [np.asarray(g, np.float64) for g in grads.values()], loss)
        for ours, theirs in zip(updates.values(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * np.abs(theirs).max())


def test_another_layout_is_refused(tmp_path):
    path = tmp_path / "theta.state"

    def refuse(tree, match):
        path.write_bytes(tree if isinstance(tree, bytes) else serialization.msgpack_serialize(tree))
        with pytest.raises(lopt.InputError, match=match):
            lopt.load(path)

    tree = velo_tree(np.random.default_rng(0), 8, 2)
    refuse(b"no msgpack", "does not hold published weights of celo, celo_adam, velo")
    refuse({"a": np.zeros(3, np.float32)}, "no array 'rnn_params/linear_1/w'")
    refuse({**tree, "more": np.zeros(3, np.float32)}, "unknown array 'more'")
    refuse({**tree, "more": np.full(3, np.nan, np.float32)}, "more is not an array of finite float32")
    refuse({**tree, "lstm_init_state": {"hidden": np.zeros((1, 7), np.float32)}}, "no array 'lstm_init_state/cell'")
    state = {name: np.zeros((1, 7), np.float32) for name in ("hidden", "cell")}
    refuse({**tree, "lstm_init_state": state}, r"lstm/initial_c is float32\[7\], and should be float32\[8\]")


def packed(value):
    return msgpack.packb(value)


def array(shape=(2,), dtype="float32", numbers=bytes(8)):
    return msgpack.ExtType(1, packed((shape, dtype, numbers)))


BOMBS = {
    "maps in maps": packed({"a": {str(i): {} for i in range(20_000)}}),
    "maps side by side": packed({str(i): {str(j): {} for j in range(200)} for i in range(100)}),
    "a claimed map": b"\xdf\xff\xff\xff\xff",
    "a claimed list": b"\xdd\xff\xff\xff\xff",
    "lists": packed([[]] * 100_000),
    "depth": b"\x81\xa1a" * 100_000 + b"\xc0",
    "a long name": packed({"a" * 2000: array()}),
    "bytes": packed({"a": bytes(2000)}),
    "axes": packed({"a": array([1] * 1000)}),
    "lists in an array": packed({"a": array([[]] * 30)}),
    "more lists in an array": packed({"a": msgpack.ExtType(1, packed([[[]] * 30] * 3))}),
    "a shape": packed({"a": array([10**12, 10**6])}),
    "another type": packed({"a": array(dtype="float64")}),
    "objects": packed({"a": array(dtype="O")}),
    "too few parts": packed({"a": msgpack.ExtType(1, packed([[2], "float32"]))}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_would_grow_in_memory_is_refused(tmp_path, bomb):
    path = tmp_path / "theta.state"
    path.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    with pytest.raises(lopt.InputError, match="another format, or is damaged"):
        load_pretrained(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "theta.state"
    with open(path, "wb") as file:
        file.truncate(2**40)  # without a byte on the disk
    with pytest.raises(lopt.InputError, match=r"1,099,511,627,776 bytes, and published weights at most 268,435,456"):
        load_pretrained(path)
