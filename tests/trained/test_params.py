"""Params that come wrapped (Flax NNX), and params that hold more than arrays (Equinox)."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lopt
from lopt.trained.folders import shipped_folders

WRAPPERS: dict[str, Any] = {
    "bare": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(0.5), tx),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2),
    "guard": lambda tx: lopt.guard(tx, optax.adamw(1e-3)),
}
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)


def nnx_loss(model):
    return jnp.mean(model(X) ** 2)


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_a_split_model_trains_as_in_nnx_optimizer(wrapper):
    tx = wrapper(lopt.load("learnable_adam_digits"))
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(lambda p: nnx_loss(nnx.merge(graph, p)))(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def nnx_step(model, optimizer):
        value, grads = nnx.value_and_grad(nnx_loss)(model)
        optimizer.update(model, grads, value=value)

    for _ in range(4):
        params, state = step(params, state)
        nnx_step(model, optimizer)
    wanted = nnx.as_pure(nnx.state(model, nnx.Param))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), nnx.as_pure(params), wanted)
    assert step._cache_size() == 1  # pyright: ignore


@pytest.mark.parametrize("name", shipped_folders())
def test_every_rule_takes_a_split_model(name):
    tx: Any = lopt.load(name, num_steps=10)
    _, params = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    updates, state = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p, value=1.0), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(tx.init, params))


class Model(eqx.Module):
    """Leaves of every kind: arrays, functions, a Python number and an integer array."""

    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    count: jax.Array
    scale: jax.Array

    def __call__(self, x):
        return self.scale * jax.vmap(self.mlp)(x)


PARTS: dict[str, Any] = {
    "whole": lambda model: model,
    "arrays": lambda model: eqx.filter(model, eqx.is_array),
    "trained": lambda model: eqx.filter(model, eqx.is_inexact_array),
}


@functools.cache
def make_model() -> Any:
    """A model, its loss and its gradients, which are None where nothing can be trained."""
    mlp, dropout = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5, inference=True)
    model = Model(mlp, dropout, jnp.asarray(3), jnp.ones(()))
    return model, *eqx.filter_value_and_grad(lambda model: jnp.mean(model(X) ** 2))(model)


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("begun", PARTS)
@pytest.mark.parametrize("given", ["whole", "arrays"])
def test_what_has_no_gradient_is_left_alone(begun, given, wrapper):
    if wrapper is WRAPPERS["multi_steps"] and (begun, given) != ("trained", "arrays"):
        pytest.skip("optax.MultiSteps itself takes arrays only")
    if begun == "whole" and given == "arrays":
        pytest.skip("a state with a place for a number that update is not given")
    tx = wrapper(lopt.load("learnable_adam_digits"))
    model, loss, grads = make_model()
    trained, start, now = PARTS["trained"](model), PARTS[begun](model), PARTS[given](model)
    wanted, _ = tx.update(grads, tx.init(trained), trained, value=loss)
    updates, _ = tx.update(grads, tx.init(start), now, value=loss)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-8), updates, wanted)
    assert eqx.apply_updates(model, updates).mlp.activation is model.mlp.activation


@pytest.mark.parametrize("name", shipped_folders())
def test_every_rule_takes_a_whole_model(name):
    tx: Any = lopt.load(name, num_steps=10)
    model, _, all_grads = make_model()
    frozen = eqx.tree_at(lambda m: m.scale, all_grads, None)
    for grads in (all_grads, frozen):
        updates = jax.eval_shape(lambda g: tx.update(g, tx.init(model), model, value=1.0)[0], grads)
        assert jax.tree.structure(updates) == jax.tree.structure(grads)


def test_lr_and_weight_decay_leave_what_has_no_gradient_alone():
    """By hand on the arrays, with the update of the rule itself."""
    plain: Any = lopt.load("learnable_adam_digits")
    tx: Any = lopt.load("learnable_adam_digits", lr=0.5, weight_decay=0.1)
    model, loss, grads = make_model()
    wanted, _ = plain.update(grads, plain.init(model), model, value=loss)
    updates, _ = tx.update(grads, tx.init(model), model, value=loss)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    arrays = eqx.filter(model, jax.tree.map(lambda g: g is not None, grads, is_leaf=lambda g: g is None))
    jax.tree.map(lambda u, w, p: np.testing.assert_allclose(u, 0.5 * (w - 0.1 * p), rtol=1e-6), updates, wanted, arrays)


def test_a_state_of_other_params_is_refused_by_name():
    tx: Any = lopt.load("demo_mlp")
    model, loss, grads = make_model()
    with pytest.raises(lopt.InputError, match=r"params\.\S+ has no gradient, and the state was begun with other"):
        tx.update(grads, tx.init(model), PARTS["arrays"](model), value=loss)


def test_what_cannot_be_read_is_named():
    tx: Any = lopt.load("demo_mlp")
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2, jnp.complex64)}}
    with pytest.raises(lopt.InputError, match=r"params\['b'\]\['c'\] is complex64: .*split_real_and_imaginary"):
        tx.init(params)
    with pytest.raises(lopt.InputError, match=r"params is \w*[Ff]unction: leave it out"):
        tx.init(jnp.tanh)
    real = {"a": jnp.ones(2), "b": {"c": jnp.ones(2)}}
    with pytest.raises(lopt.InputError, match=r"gradients\['b'\]\['c'\] is complex64: .*split_real_and_imaginary"):
        tx.update(params, tx.init(real), real)
    with pytest.raises(lopt.InputError, match=r"gradients\['a'\] is int32: leave it out"):
        tx.update({**real, "a": jnp.ones(2, jnp.int32)}, tx.init(real), real)
