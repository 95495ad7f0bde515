"""The kernel of per-parameter rules, in interpret mode, against the same rules without it; and its lowering to CUDA.

The reference is the path that other tests compare with numpy. Blocks are small here: a tensor has many, and a rest.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.optimizers.adafac_mlp import AdafacMLP
from lopt.optimizers.celo2 import Celo2
from lopt.optimizers.parts import kernels
from lopt.optimizers.parts.accumulators import init_statistics
from lopt.optimizers.parts.adafac_features import tensor_statistics
from lopt.optimizers.parts.networks import ParameterMLP, normalized_rule
from lopt.optimizers.parts.velo_step import DECAYS, mlp_shapes, velo_step
from lopt.optimizers.star import Star

SHAPES = {"vector": (70,), "matrix": (9, 37), "cube": (3, 21, 2), "kernel": (2, 3, 7, 5)}


class VeloRule:
    """`velo_step` as a rule, with a single network, which is theta."""

    def init_theta(self, key):
        rng = np.random.default_rng(0)
        shapes = mlp_shapes((2, 2))
        return {name: jnp.asarray(rng.normal(size=shape) / 3, jnp.float32) for name, shape in shapes.items()}

    def init(self, theta, params, *, num_steps):
        return {name: init_statistics(p, DECAYS) for name, p in params.items()}

    def update(self, theta, grads, state, params, *, value):
        results = {name: velo_step(p, grads[name], state[name], theta, jnp.float32(2)) for name, p in params.items()}
        return {k: v[0] for k, v in results.items()}, {k: v[1] for k, v in results.items()}


# Between them, the rules have tensors of one, two and four axes; `test_every_way_to_broadcast` has all kinds. Networks
# are small, as every product compiles on its own.
RULES = {
    "adafac_mlp": (AdafacMLP((2, 2), step_scale=0.1, mup_keys=("kernel",)), "kernel"),
    "star": (Star((2, 2), step_scale=0.1, magnitude_scale=0.1, weight_decay=0.1, precondition=True), "matrix"),
    "celo2": (Celo2((2,)), "kernel"),
    "velo": (VeloRule(), "vector"),
}


def tree(names, seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=SHAPES[name]), jnp.float32) for name in names}


def positive(shapes):
    """A state as after some steps: all numbers are positive, as second moments must be."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.3, 3, size=x.shape), x.dtype), shapes)


@pytest.fixture
def use_kernel(monkeypatch):
    """A function that decides whether what is traced from now on has a kernel for every tensor."""
    monkeypatch.setattr(kernels, "BLOCK", 64)

    def switch(on, interpret=True):
        monkeypatch.setattr(kernels, "suits", lambda shape: on)
        monkeypatch.setattr(kernels, "over_grid", functools.partial(over_grid, interpret=interpret))

    over_grid = kernels.over_grid
    return switch


def assert_close(actual, expected):
    """To 1e-5 of the element or, as terms of a sum may cancel, of the root mean square of all elements."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.sqrt(np.mean(np.square(b))))


@pytest.mark.thorough
@pytest.mark.parametrize("name", RULES)
def test_kernel_is_the_rule(name, use_kernel):
    optimizer, tensor = RULES[name]
    theta, params = optimizer.init_theta(jax.random.key(1)), tree([tensor])
    state = positive(jax.eval_shape(lambda: optimizer.init(theta, params, num_steps=None)))
    grads = tree([tensor], 1)

    @jax.jit
    def both(*inputs):
        results = []
        for on in (True, False):
            use_kernel(on)
            results.append(optimizer.update(*inputs, value=None)[0])
        return results

    assert str(both.trace(theta, grads, state, params).jaxpr).count("pallas_call[") == 1
    kernel, plain = both(theta, grads, state, params)
    assert {k: x.shape for k, x in kernel.items()} == {tensor: SHAPES[tensor]}
    assert_close(kernel, plain)


def test_vmap_and_derivatives_over_theta(use_kernel):
    """Derivatives and vmap, for a rule with few features, which compiles fast."""
    network = ParameterMLP((3, 1))
    theta = network.init(jax.random.key(1), jnp.zeros((6, 1)), jnp.zeros((0,)))["params"]
    thetas = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x + 0.01]), theta)
    (param,) = tree(["matrix"]).values()
    inputs = tensor_statistics(jnp.sin(param), param, *positive(jax.eval_shape(lambda: init_statistics(param, DECAYS))))

    def features(s):
        return [s.grad, *s.momenta, *list(s.row)[:2]]

    def loss(theta, inputs):
        update = normalized_rule(features, theta, jnp.exp, inputs)
        return jnp.sum(jnp.sin(update)), update

    @jax.jit
    def both(thetas, inputs):
        use_kernel(True)
        value = jax.vmap(loss, (0, None))(thetas, inputs)
        grad, _ = jax.vmap(jax.grad(loss, has_aux=True), (0, None))(thetas, inputs)
        use_kernel(False)
        return (value, grad), jax.vmap(jax.value_and_grad(loss, has_aux=True), (0, None))(thetas, inputs)

    assert str(both.trace(thetas, inputs).jaxpr).count("pallas_call[") == 1
    kernel, plain = both(thetas, inputs)
    assert_close(kernel, plain)
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(kernel[1]))


@pytest.mark.parametrize("shape", [(70,), (65, 3), (5, 1, 33), (3, 4, 5, 6)])
def test_every_way_to_broadcast(shape, monkeypatch):
    """Inputs with every set of axes of length 1, in pairs, in bfloat16, and a constant; exact, as all are integers."""
    monkeypatch.setattr(kernels, "BLOCK", 64)
    kept = list(itertools.product([False, True], repeat=len(shape)))
    parts = [[n if keep else 1 for n, keep in zip(shape, keeps, strict=True)] for keeps in kept]
    rng = np.random.default_rng(0)
    singles = [rng.integers(-9, 9, size=part).astype(np.float32) for part in parts]
    pairs = [rng.integers(-9, 9, size=(2, *part)).astype(np.float32) for part in parts]
    half = rng.integers(-9, 9, size=shape).astype(np.float32)

    def fn(tensors, half, constants):
        singles, pairs = tensors
        total = half + 5 * constants[3, 1]
        for i, (single, (first, second)) in enumerate(zip(singles, pairs, strict=True)):
            total = total + (i + 1) * single + first * second
        return total

    @jax.jit
    def run(tensors, half, constants):
        return kernels.over_grid(lambda x, half: fn(x, half, constants), (tensors, half), shape, interpret=True)

    constants = np.arange(8, dtype=np.float32).reshape(4, 2)
    outputs = run((singles, pairs), jnp.asarray(half, jnp.bfloat16), constants)
    np.testing.assert_array_equal(outputs, fn((singles, pairs), half, constants))


def test_nan_stays_nan():
    """The text shows the selection after max and min that a GPU needs; in interpret mode max and min are XLA's."""
    x = jnp.asarray([1.0, np.nan, -3.0, np.nan, np.inf])

    @jax.jit
    def run(x):
        return kernels.over_grid(lambda x: jax.nn.relu(jnp.clip(x, -2, 2)), (x,), (5,), interpret=True)

    np.testing.assert_array_equal(run(x), [1, np.nan, 0, np.nan, 2])
    text = str(run.trace(x).jaxpr)
    assert [text.count(f"= {name} ") for name in ("max", "min", "ne")] == [2, 1, 3]


@pytest.mark.parametrize("name", RULES)
def test_every_operation_has_a_way_to_cuda(name, use_kernel):
    """It is lowered without a GPU; only the JAX of a GPU can tell whether Triton then compiles it."""
    pytest.importorskip("jax.experimental.pallas.triton", reason="this JAX has no Triton in Pallas")
    optimizer, tensor = RULES[name]
    params = tree([tensor])
    theta = jax.eval_shape(optimizer.init_theta, jax.random.key(1))
    state = jax.eval_shape(lambda: optimizer.init(theta, params, num_steps=None))
    use_kernel(True, interpret=False)
    update = jax.jit(lambda *inputs: optimizer.update(*inputs, value=None)).trace(theta, params, state, params)
    assert update.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton") == 1
    assert "triton" not in update.lower(lowering_platforms=("cpu",)).as_text()


def test_what_suits_a_kernel(monkeypatch):
    large = (kernels.MIN_SIZE // 8, 8)
    assert not kernels.suits(large)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not kernels.suits(large)  # two devices, and XLA spreads the tensor
    mesh = jax.make_mesh((2,), ("pairs",), axis_types=(jax.sharding.AxisType.Auto,))
    inside = []

    def body(x):
        inside.append(kernels.suits(large))
        return x

    jax.eval_shape(jax.shard_map(body, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False), jnp.zeros(2))
    assert inside == [True]
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert kernels.suits(large)
    assert not any(kernels.suits(shape) for shape in [(), (kernels.MIN_SIZE // 8 - 1, 8), (kernels.MAX_SIZE, 2)])
