"""Factored statistics, the rules that read them, and their network, against numpy float64 and optax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.optimizers.adafac_mlp import AdafacMLP
from lopt.optimizers.celo2 import Celo2
from lopt.optimizers.parts import blocks, networks
from lopt.optimizers.parts.accumulators import learned_decays
from lopt.optimizers.parts.orthogonal import orthogonalize
from lopt.optimizers.star import Star
from tests.optimizers.velo_in_numpy import rounded

SHAPES = {"scalar": (), "vector": (5,), "matrix": (3, 4), "cube": (4, 2, 3), "kernel": (2, 3, 2, 3)}
THREE = rounded([0.9, 0.99, 0.999])
DECAYS = {"momentum": THREE, "rms": rounded([0.999]), "factored": THREE}
TIMES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])


def draws(seed, shapes):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


PARAMS = draws(0, SHAPES)


def grads_at(step, params):
    return {name: np.sin(p * np.float32(step + 1)) for name, p in params.items()}


def drawn(optimizer):
    """A theta with the decays of a fresh one, but with biases that are not zero."""
    rng = np.random.default_rng(3)

    def draw(path, x):
        scale = 0 if "logit_offsets" in str(path) else 1 / np.sqrt(x.shape[0]) if x.ndim > 1 else 0.2
        return (scale * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree.map_with_path(draw, jax.eval_shape(optimizer.init_theta, jax.random.key(3)))


def with_offsets(optimizer):
    """A theta whose decays are not those of a fresh one, and the decays, rounded to float32 where the rule rounds."""
    offsets = {"momentum": [-1.0, 0.5, -0.2], "rms": [-0.3], "factored": [-3.0, -0.1, 0.2]}
    offsets = {name: np.asarray(x, np.float32) for name, x in offsets.items()}
    exact = {name: 1 / (1 + (1 - b) / b * np.exp(-np.float64(offsets[name]))) for name, b in DECAYS.items()}
    decays = {name: np.float64(learned_decays(jnp.asarray(offsets[name]), tuple(b))) for name, b in DECAYS.items()}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), decays, exact)
    return {**drawn(optimizer), "logit_offsets": offsets}, decays


class Reference:
    """Statistics and features of one tensor in float64, features last, on arrays repeated to the tensor's shape."""

    def __init__(self, shape, decays):
        self.decays = decays
        self.m, self.v, self.rows, self.columns = (np.zeros((*shape, k)) for k in (3, 1, 3, 3))

    def update(self, g):
        g = g[..., None]
        for name, kind, x in (("m", "momentum", g), ("v", "rms", g**2)):
            setattr(self, name, self.decays[kind] * getattr(self, name) + (1 - self.decays[kind]) * x)
        b, square = self.decays["factored"], np.repeat(g**2 + 1e-30, 3, axis=-1)
        self.axes = np.argsort(g.shape[:-1], kind="stable")[-2:] if g.ndim > 2 else None
        over = (None, None) if self.axes is None else (self.axes[1], self.axes[0])
        row, column = (square if a is None else square.mean(a, keepdims=True) + 0 * square for a in over)
        self.rows, self.columns = b * self.rows + (1 - b) * row, b * self.columns + (1 - b) * column

    def features(self, g, p, kind):
        g, p, m, v, rows, columns = g[..., None], p[..., None], self.m, self.v, self.rows, self.columns
        root = 1 / np.sqrt(v + (1e-8 if kind == "celo2" else 1e-6))
        if self.axes is None:
            g_factor, m_factor = 1 / np.sqrt(np.maximum(rows + 1e-9, 1e-9)), 1 / np.sqrt(rows + 1e-6)
        else:
            row_factor = np.maximum(rows / (rows.mean(self.axes[0], keepdims=True) + 1e-9), 1e-9) ** -0.5
            g_factor = m_factor = row_factor * np.maximum(columns, 1e-9) ** -0.5
        clipped, rooted = ([np.clip(g, -0.1, 0.1)], [g * root]) if kind == "celo2" else ([], [])
        parts = [g, *clipped, p, m, v, m * root, root, g * g_factor, *rooted, rows, columns]
        parts += [(rows + 1e-8) ** -0.5, (columns + 1e-8) ** -0.5, m * m_factor]
        return np.concatenate(parts, axis=-1)


def normalize(x, axes, epsilon):
    return x / np.sqrt(epsilon + (x**2).mean(axes, keepdims=True))


def mlp(theta, x):
    weights = {name: np.asarray(w, np.float64) for name, w in theta.items()}
    last = len(weights) // 2 - 1
    for i in range(last + 1):
        x = x @ weights[f"kernel_{i}"] + weights[f"bias_{i}"]
        x = np.maximum(x, 0) if i < last else x
    return x


@functools.partial(jax.jit, static_argnums=0)
def start(optimizer, params):
    return optimizer.init(None, params, num_steps=None)


@functools.partial(jax.jit, static_argnums=0)
def update(optimizer, theta, params, grads, state):
    return optimizer.update(theta, grads, state, params, value=None)


def follow(optimizer, theta, params, decays, num_steps=3):
    """Per step and tensor: name, gradient, parameter and reference statistics, float64, and the rule's update."""
    state = start(optimizer, params)
    references = {name: Reference(p.shape, decays) for name, p in params.items()}
    for step in range(num_steps):
        grads = grads_at(step, params)
        updates, state = update(optimizer, theta, params, grads, state)
        for name, param in params.items():
            g, p = np.asarray(grads[name], np.float64), np.asarray(param, np.float64)
            references[name].update(g)
            yield step, name, g, p, references[name], updates[name]


def network_inputs(reference, g, p, step):
    x = normalize(reference.features(g, p, "adafac"), tuple(range(g.ndim)), 1e-5)
    return np.concatenate([x, np.broadcast_to(np.tanh(step / TIMES - 1), (*g.shape, 11))], axis=-1)


@pytest.mark.parametrize(("hidden_sizes", "names"), [((2, 3), tuple(SHAPES)), ((16,), ("scalar", "matrix", "kernel"))])
def test_adafac_mlp_in_numpy(hidden_sizes, names):
    optimizer = AdafacMLP(hidden_sizes, step_scale=0.01, magnitude_scale=0.1, mup_keys=("matr", "kernel"))
    theta, decays = with_offsets(optimizer)
    params = {name: PARAMS[name] for name in names}
    for step, name, g, p, reference, update in follow(optimizer, theta, params, decays):
        out = mlp(theta["mlp"], network_inputs(reference, g, p, step))
        fan_in = {"matrix": 3, "kernel": 12}.get(name, 1)
        expected = -0.01 / fan_in * out[..., 0] * np.exp(0.1 * out[..., 1])
        np.testing.assert_allclose(update, expected, rtol=5e-6, atol=5e-8, err_msg=name)


def test_star_in_numpy():
    optimizer = Star((2, 3), 0.01, 0.1, nominal_rate=0.02, weight_decay=0.1, precondition=True)
    theta, decays = with_offsets(optimizer)
    for step, name, g, p, reference, update in follow(optimizer, theta, PARAMS, decays):
        out = mlp(theta["mlp"], network_inputs(reference, g, p, step))
        size, nominal_size, decay_size = np.moveaxis(np.exp(0.1 * out[..., 1:]), -1, 0)
        root = 1 / np.sqrt(reference.v[..., 0] + 1e-6)
        new = (1 - 0.1 * decay_size) * p - 0.01 * out[..., 0] * size * root
        new -= 0.02 * nominal_size * reference.m.mean(-1) * root
        np.testing.assert_allclose(update, new - p, rtol=5e-6, atol=1e-7, err_msg=name)


def newton_schulz(x):
    """By singular values, each of which a step maps to a s + b s^3 + c s^5."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / np.sqrt((s**2).sum(-1, keepdims=True))
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s[..., None, :]) @ v


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (2, 3, 5, 3)])
def test_newton_schulz_acts_on_singular_values(shape):
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(jax.jit(orthogonalize)(np.float32(x)), newton_schulz(x), atol=2e-5)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_celo2_in_numpy(orthogonal):
    names = ("matrix", "kernel") if orthogonal else PARAMS
    params = {name: PARAMS[name] for name in names} | {"embedding": PARAMS["matrix"]}
    optimizer = Celo2((3, 2), learning_rate=0.01, orthogonalize=orthogonal, adam_factor=3.0)
    theta = drawn(optimizer)
    adam = optax.chain(optax.clip(1000.0), optax.adam(0.03, b1=0.9, b2=0.95))
    adam_state, adam_update = adam.init(params), jax.jit(adam.update)
    adam_updates: Any = {}
    for step, name, g, p, reference, update in follow(optimizer, theta, params, {**DECAYS, "rms": rounded([0.95])}):
        if name == next(iter(params)):  # the first of a step
            adam_updates, adam_state = adam_update(grads_at(step, params), adam_state)
        if name in ("scalar", "vector", "embedding"):
            np.testing.assert_allclose(update, adam_updates[name], rtol=1e-5, err_msg=name)
            continue
        direction = mlp(theta, normalize(reference.features(g, p, "celo2"), (-3, -2), 1e-9))[..., 0]
        direction = newton_schulz(direction) if orthogonal else direction
        expected = -0.01 * direction / np.sqrt((direction**2).mean((-2, -1), keepdims=True) + 1e-9)
        np.testing.assert_allclose(update, expected, rtol=5e-6, atol=5e-8, err_msg=name)


def test_celo2_clips_gradients_and_sets_the_size_of_the_update():
    params = {"w": PARAMS["matrix"]}
    optimizer = Celo2((2,), learning_rate=0.01)
    grads = [{"w": np.float32(size) * np.sign(params["w"])} for size in (1e30, 1000.0)]
    state = start(optimizer, params)
    huge, at_the_edge = (np.asarray(update(optimizer, drawn(optimizer), params, g, state)[0]["w"]) for g in grads)
    np.testing.assert_array_equal(huge, at_the_edge)
    np.testing.assert_allclose(np.sqrt(np.mean(huge**2)), 0.01, rtol=1e-4)


def test_outside_of_jit_it_is_the_same():
    params = {"b": PARAMS["vector"]}
    optimizer = Celo2()
    updates, _ = optimizer.update({}, params, optimizer.init({}, params, num_steps=None), params, value=None)
    jitted, _ = update(optimizer, {}, params, params, start(optimizer, params))
    np.testing.assert_allclose(updates["b"], jitted["b"], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "in_blocks"),
    [(shape, False) for shape in ((100,), (2, 96), (2, 5, 11), (0, 3))]
    + [(shape, True) for shape in ((), (100,), (40, 3), (97, 2), (3, 1, 2, 9))],
)
def test_sums_and_blocks_cover_every_parameter_once(monkeypatch, shape, in_blocks):
    monkeypatch.setattr(blocks, "RUN", 2)
    monkeypatch.setattr(blocks, "BLOCK", 8)
    optimizer = AdafacMLP((2,))
    theta = drawn(optimizer)
    params = draws(2, {"w": shape})
    monkeypatch.setattr(networks, "MAX_UNROLLED", 1 if in_blocks else 8)

    @jax.jit  # not `update`, which may be compiled for other blocks
    def first_update(theta, params):
        state = optimizer.init(theta, params, num_steps=None)
        return optimizer.update(theta, params, state, params, value=None)[0]

    updates = first_update(theta, params)
    if params["w"].size:
        reference = Reference(shape, DECAYS)
        g = np.asarray(params["w"], np.float64)
        reference.update(g)
        out = mlp(theta["mlp"], network_inputs(reference, g, g, 0))
        expected = -1e-3 * out[..., 0] * np.exp(1e-3 * out[..., 1])
        np.testing.assert_allclose(updates["w"], expected, rtol=5e-6, atol=5e-9)
    assert updates["w"].shape == shape


def test_sizes_of_theta_and_state():
    """Numbers per parameter: 4 + 3 (1/m + 1/n) for a matrix m x n, 7 for a vector, 2 under Adam."""
    theta = jax.eval_shape(AdafacMLP((32, 32)).init_theta, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == 2409
    for optimizer, vector in ((AdafacMLP(), 7), (Star(), 7), (Celo2(), 2)):
        for params, size in ((np.zeros((8, 5)), 4 * 40 + 3 * (8 + 5)), (np.zeros((6,)), vector * 6)):
            init = functools.partial(optimizer.init, None, num_steps=None)
            state = jax.eval_shape(init, {"w": params})
            assert sum(x.size for x in jax.tree.leaves(state._replace(step=None))) == size
