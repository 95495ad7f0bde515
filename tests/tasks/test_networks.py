"""Initialisation in one draw: variances, constants, independence; the MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tasks.networks import MLP, apply, init_params


class Example(nn.Module):
    """Has a leaf of every kind that is initialised."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="norm")(nn.Conv(40, (3, 3), name="conv")(x)).mean((1, 2))
        x = x + nn.Embed(5, 40, name="position").embedding.sum(0)[None, :]
        return MLP((50,), 60, name="mlp")(x)


def test_initial_params():
    init = jax.jit(lambda key: init_params(Example(), key, (1, 4, 4, 6), gain=2.0, gains={"output": 0.1}))
    params = jax.tree.map(np.asarray, init(jax.random.key(0)))
    own = jax.eval_shape(Example().init, jax.random.key(1), jnp.zeros((2, 4, 4, 6)))
    shapes = jax.tree.map(lambda x: x.shape, own["params"])
    assert jax.tree.map(jnp.shape, params) == shapes
    variances = {
        ("conv", "kernel"): 2 / (9 * 6),  # 2160 weights: 3 % a standard deviation
        ("mlp", "layer_0", "kernel"): 2 / 40,
        ("mlp", "output", "kernel"): 0.1 / 50,
        ("position", "embedding"): 0.02**2,  # 200 weights: 10 %
    }
    normal = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = tuple(part.key for part in path)
        if names in variances:
            np.testing.assert_allclose(leaf.var(), variances[names], rtol=0.25 if "position" in names else 0.15)
            normal.append((leaf / np.sqrt(variances[names])).reshape(-1))
        else:
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, float(names[-1] == "scale")))
    assert len(np.unique(np.concatenate(normal))) > 0.99 * sum(len(part) for part in normal)  # no stretch used twice


def test_mlp_is_dense_layers_with_an_activation_between():
    mlp = MLP((3,), 2, "tanh")
    params = jax.tree.map(lambda leaf: leaf + 0.1, init_params(mlp, jax.random.key(0), (1, 4)))
    x = np.random.default_rng(0).normal(size=(5, 4))
    first, last = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[n]) for n in ("layer_0", "output"))
    hidden = np.tanh(x @ first["kernel"] + first["bias"][None, :])
    expected = hidden @ last["kernel"] + last["bias"][None, :]
    np.testing.assert_allclose(apply(mlp, params, jnp.asarray(x)), expected, rtol=1e-5)
