"""The optax wrapper. Most tests wrap a rule that is SGD with momentum, and compare with optax's own."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lopt
from lopt.optimizers import OPTIMIZERS

as_optax: Any = lopt.as_optax  # optax's types for states and updates are too wide to look inside

# One of each kind; optimizers/test_contract has the others.
RULES = ("learnable_adam", "lstm", "mlp", "celo_adam")

LR, MOMENTUM = 0.1, 0.9
THETA = {"lr": np.float32(LR), "momentum": np.float32(MOMENTUM)}


@dataclasses.dataclass(frozen=True)
class Momentum:
    """m <- momentum m + g, update -lr m: `optax.sgd(lr, momentum)`."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def init_theta(self, key):
        del key
        return jax.tree.map(jnp.asarray, THETA)

    def init(self, theta, params, *, num_steps):
        assert num_steps is None
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, theta, grads, state, params, *, value):
        assert params is None
        assert value is None
        state = jax.tree.map(lambda m, g: theta["momentum"] * m + g, state, grads)
        return jax.tree.map(lambda m: -theta["lr"] * m, state), state


@dataclasses.dataclass(frozen=True)
class Demanding:
    """Reads everything: update = -lr (1 - t / T) loss (g + p). Its counter starts as a Python number, weakly typed."""

    requires: ClassVar[frozenset[str]] = frozenset({"value", "params", "num_steps"})

    def init_theta(self, key):
        del key
        return jax.tree.map(jnp.asarray, THETA)

    def init(self, theta, params, *, num_steps):
        return {"t": 0.0, "T": num_steps, "seen": jax.tree.map(lambda p: jnp.full(p.shape, 0.0), params)}

    def update(self, theta, grads, state, params, *, value):
        scale = -theta["lr"] * (1 - state["t"] / state["T"]) * value
        seen = jax.tree.map(jnp.add, state["seen"], grads)
        return jax.tree.map(lambda g, p: scale * (g + p), grads, params), {**state, "t": state["t"] + 1, "seen": seen}


SGD = optax.sgd(LR, MOMENTUM)
LEARNED = as_optax(Momentum(), THETA)


def make_params(*names):
    """Random parameters of these names, or of all."""
    shapes = {"scalar": (), "vector": (3,), "matrix": (2, 3), "rank3": (2, 1, 3), "kernel": (2, 2, 1, 3)}
    draw = np.random.default_rng(0).standard_normal
    params = {name: np.asarray(draw(shape), np.float32) for name, shape in shapes.items()}
    return {name: params[name] for name in names or params}


@functools.cache
def make_rule(name):
    """A rule of the table with a fresh theta."""
    optimizer = OPTIMIZERS[name]()
    return optimizer, jax.jit(optimizer.init_theta)(jax.random.key(0))


def loss_fn(params):
    return sum(jnp.sum(jnp.cos(p)) for p in jax.tree.leaves(params))


def train(tx, params, *, num_updates=5):
    """Trains under jit with `init` outside; returns the last params and how often the step was traced."""
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value=loss, unknown="ignored")
        return optax.apply_updates(params, updates), state

    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    for _ in range(num_updates):
        params, state = step(params, state)
    return params, len(traces)


def assert_close(tree, other, rtol=1e-6):
    """Equal to `rtol` of the largest element of each tensor."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max())


def is_big(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def labels(params):
    return jax.tree.map(lambda p: "a" if p.ndim > 1 else "b", params)


def multi_steps(tx, every):
    """`MultiSteps.gradient_transformation` would drop `value`; its methods pass it on."""
    accumulator: Any = optax.MultiSteps(tx, every)
    return optax.GradientTransformationExtraArgs(accumulator.init, accumulator.update)


WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(0.5), tx, optax.scale_by_schedule(lambda t: 1 / (1 + t))),
    "masked": lambda tx: optax.masked(tx, is_big),
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.adam(0.1), "unused": tx}, labels),
    "multi_steps": lambda tx: multi_steps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda scale: optax.chain(tx, optax.scale(scale)))(
        scale=optax.linear_schedule(1.0, 0.0, 10)
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_equals_optax_sgd_inside_of_every_wrapper(wrapper):
    params = make_params("vector", "matrix", "rank3")
    ours, traces = train(wrapper(LEARNED), params)
    theirs, _ = train(wrapper(SGD), params)
    assert_close(ours, theirs)
    assert traces == 1


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_a_rule_that_reads_everything_traces_once_in_every_wrapper(wrapper):
    params = make_params("vector", "matrix")
    _, traces = train(wrapper(as_optax(Demanding(), THETA, num_steps=10)), params, num_updates=3)
    assert traces == 1


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_traces_once(rule):
    tx = as_optax(*make_rule(rule), num_steps=10)
    tx = optax.apply_if_finite(multi_steps(optax.partition({"a": tx, "b": optax.adam(0.1)}, labels), 2), 3)
    params, traces = train(tx, {"matrix": jnp.ones((2, 3)), "bias": jnp.ones(3)}, num_updates=4)
    assert traces == 1
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_every_rank_and_dtype_with_float32_inside(rule):
    optimizer, theta = make_rule(rule)
    tx = as_optax(optimizer, theta, num_steps=10)
    full = jax.tree.map(jnp.asarray, make_params())
    half = {name: full.pop(name).astype(jnp.bfloat16) for name in ("scalar", "matrix", "kernel")}
    params = {"full": full, "half": half, "none": None, "masked": optax.MaskedNode(), "empty": {}}
    grads = jax.tree.map(jnp.sin, params)
    updates, new_state = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params, value=1.0)
    assert jax.tree.map(lambda u: (u.shape, u.dtype), updates) == jax.tree.map(lambda g: (g.shape, g.dtype), grads)
    floats = [x.dtype for x in jax.tree.leaves(new_state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}

    @jax.jit
    def by_hand(grads, params):
        grads, params = (jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in (grads, params))
        state = optimizer.init(theta, params, num_steps=10)
        return optimizer.update(theta, grads, state, params, value=jnp.asarray(1.0))[0]

    wanted = by_hand(grads, params)
    assert_close(updates["full"], wanted["full"], rtol=1e-5)
    assert_close(updates["half"], jax.tree.map(lambda u: u.astype(jnp.bfloat16), wanted["half"]), rtol=2**-8)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_a_tree_without_leaves(rule):
    tx = as_optax(*make_rule(rule), num_steps=10)
    for params in ({}, [None], {"a": optax.MaskedNode()}):
        updates, _ = jax.eval_shape(lambda params: tx.update(params, tx.init(params), params, value=1.0), params)
        assert updates == params


def test_inputs_reach_the_rule():
    tx = as_optax(Demanding(), THETA, num_steps=4)
    params, grads = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -1.0])}
    state = tx.init(params)
    for t in range(3):
        updates, state = tx.update(grads, state, params=params, value=0.5)
        np.testing.assert_allclose(updates["w"], -LR * (1 - t / 4) * 0.5 * np.array([4.0, 1.0]), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_nnx_optimizer_gives_the_same_as_plain_jax(rule):
    tx = as_optax(*make_rule(rule), num_steps=10)
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    wanted, _ = train(tx, nnx.as_pure(nnx.state(model, nnx.Param)), num_updates=3)
    nnx_optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, nnx_optimizer):
        loss, grads = nnx.value_and_grad(lambda model: loss_fn(nnx.state(model, nnx.Param)))(model)
        nnx_optimizer.update(model, grads, value=loss)

    for _ in range(3):
        step(model, nnx_optimizer)
    assert_close(nnx.as_pure(nnx.state(model, nnx.Param)), wanted)


def test_theta_is_an_argument_of_the_step_and_not_in_its_program():
    theta = {"lr": np.float32(LR), "momentum": np.float32(MOMENTUM), "unread": np.zeros(10_000, np.float32)}
    params = make_params("matrix")
    tx = as_optax(Momentum(), theta)
    state = tx.init(params)
    text = jax.jit(tx.update).lower(params, state, params).as_text()
    assert "10000xf32" in text.partition("{")[2].partition("->")[0]  # among the arguments of main
    assert "dense" not in "".join(line for line in text.splitlines() if "10000" in line)
    doubled = state._replace(theta=jax.tree.map(lambda x: 2 * x, state.theta))
    assert_close(tx.update(params, doubled)[0], jax.tree.map(lambda u: 2 * u, tx.update(params, state)[0]))


def test_donating_the_state_leaves_the_transformation_usable():
    tx = as_optax(Momentum(), jax.tree.map(jnp.asarray, THETA))
    step = jax.jit(tx.update, donate_argnums=1)
    params = make_params("vector", "matrix")
    for _ in range(2):
        state = tx.init(params)
        _, state = step(params, state)
        _, state = step(params, state)


def test_map_params_finds_the_statistics():
    params = make_params()
    state: Any = optax.tree.map_params(LEARNED, lambda m: "statistic", LEARNED.init(params))
    assert jax.tree.leaves(state.inner) == ["statistic"] * len(params)
    assert "statistic" not in jax.tree.leaves(state.theta)


def test_inject_hyperparams_takes_the_factory_itself():
    factory = optax.inject_hyperparams(lopt.as_optax, static_args=("optimizer", "theta"))
    start = make_params("vector", "matrix")
    params, _ = train(factory(Demanding(), THETA, num_steps=8), start)
    wanted, _ = train(as_optax(Demanding(), THETA, num_steps=8), start)
    assert_close(params, wanted)


def test_a_missing_input_is_named_with_the_call_that_gives_it():
    tx = as_optax(Demanding(), THETA, num_steps=4)
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    call = r"call tx\.update\(grads, state, params, value=loss\)"
    with pytest.raises(lopt.InputError, match=r"Demanding reads `value`, .*" + call):
        tx.update(params, state, params)
    with pytest.raises(lopt.InputError, match=r"Demanding reads `params`, .*" + call):
        tx.update(params, state, value=1.0)
    with pytest.raises(lopt.InputError, match=r"Demanding reads `params` and `value`, .*" + call):
        tx.update(params, state)


@pytest.mark.parametrize("num_steps", [0, -1, 1.5, 100.0, "100", True, 2**31, jnp.array([3, 4])])
def test_num_steps_must_be_a_positive_integer(num_steps):
    with pytest.raises(lopt.InputError, match="num_steps must be an integer"):
        as_optax(Momentum(), THETA, num_steps=num_steps)


def test_a_rule_that_reads_num_steps_wants_it():
    with pytest.raises(lopt.InputError, match="Demanding reads the length of the training: give num_steps"):
        as_optax(Demanding(), THETA)


def test_what_the_rule_cannot_read_is_refused():
    tx = as_optax(Demanding(), THETA, num_steps=np.int64(4))
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    with pytest.raises(lopt.InputError, match="a real scalar"):
        tx.update(params, state, params, value=jnp.ones(2))
    with pytest.raises(lopt.InputError, match=r"gradient of params\['w'\] has shape \(1,\), the parameter \(2,\)"):
        tx.update({"w": jnp.ones(1)}, state, params, value=1.0)
    with pytest.raises(lopt.InputError, match="different trees"):
        tx.update({"v": jnp.ones(2)}, state, params, value=1.0)
    for leaf in (jnp.ones(2, jnp.int32), jnp.ones(2, jnp.complex64), jnp.ones(2, bool)):
        with pytest.raises(lopt.InputError, match="real floating-point params"):
            tx.init({"w": leaf})
    with pytest.raises(lopt.InputError, match="real floating-point gradients"):
        tx.update({"w": np.zeros(2, jax.dtypes.float0)}, state, params, value=1.0)
