"""Learned rules inside optax's wrappers, each compared with the same computation by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lopt
from lopt.optimizers import OPTIMIZERS

as_optax: Any = lopt.as_optax  # optax's types for states and updates are too wide to look inside
apply_updates: Any = optax.apply_updates
RULE: Any = OPTIMIZERS["celo2"](hidden_sizes=(2,), learning_rate=0.1)
THETA = {"weight": np.float32(0.5)}


class ReadsAll:
    """Momentum on gradients, scaled by the loss and what is left of the training: every input counts."""

    requires = frozenset({"value", "params", "num_steps"})

    def init(self, theta, params, *, num_steps):
        return jnp.zeros((), jnp.int32), num_steps, jax.tree.map(jnp.zeros_like, params)

    def update(self, theta, grads, state, params, *, value):
        step, num_steps, momentum = state
        momentum = jax.tree.map(lambda m, g: 0.5 * m + g, momentum, grads)
        scale = theta["weight"] * value * (1 - step / num_steps)
        return jax.tree.map(lambda m, p: -scale * (m + p), momentum, params), (step + 1, num_steps, momentum)


class ByHand:
    """`ReadsAll` in numpy, for one tensor."""

    def __init__(self, num_steps):
        self.step, self.num_steps, self.momentum = 0, num_steps, 0.0

    def __call__(self, grad, param, value):
        self.momentum = 0.5 * self.momentum + grad
        scale = 0.5 * value * (1 - self.step / self.num_steps)
        self.step += 1
        return -scale * (self.momentum + param)


@functools.cache
def theta_of_rule():
    return jax.jit(RULE.init_theta)(jax.random.key(0))


@jax.jit
def rule_alone(theta, grads, state, params) -> Any:
    return RULE.update(theta, grads, state, params, value=None)


def draw(seed, *shape) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_chain_with_clipping_decoupled_weight_decay_and_a_schedule():
    """p <- p - rate(t) (direction(clip(g)) + decay p)."""
    most, decay, rate = 0.8, 0.1, lambda t: 0.5 / (1 + t)
    tx: Any = optax.chain(
        optax.clip_by_global_norm(most),
        as_optax(RULE, theta_of_rule()),
        optax.scale(-1.0),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    params = expected = {"w": jnp.asarray(draw(0, 4, 3))}
    state, own = tx.init(params), RULE.init(theta_of_rule(), params, num_steps=None)
    update = jax.jit(tx.update)
    for t in range(4):
        grad = draw(1 + t, 4, 3)
        updates, state = update({"w": grad}, state, params, value=1.0)
        params = apply_updates(params, updates)
        clipped = {"w": jnp.asarray(grad * min(1.0, most / np.linalg.norm(grad)))}
        steps, own = rule_alone(theta_of_rule(), clipped, own, expected)
        expected = {"w": expected["w"] - rate(t) * (-steps["w"] + decay * expected["w"])}
        np.testing.assert_allclose(params["w"], expected["w"], rtol=1e-5, atol=1e-6)
    assert np.abs(params["w"] - draw(0, 4, 3)).max() > 0.05


def test_partition_gives_matrices_to_the_rule_and_vectors_to_adam():
    params = {"w": jnp.asarray(draw(0, 4, 3)), "b": jnp.asarray(draw(1, 3))}
    adam: Any = optax.adam(0.01)
    parts: Any = {"learned": as_optax(RULE, theta_of_rule()), "adam": adam}
    tx: Any = optax.partition(
        parts, lambda params: {key: "learned" if p.ndim > 1 else "adam" for key, p in params.items()}
    )
    matrix, vector = {"w": params["w"]}, {"b": params["b"]}
    states = tx.init(params), RULE.init(theta_of_rule(), matrix, num_steps=None), adam.init(vector)
    update = jax.jit(tx.update)
    for t in range(3):
        grads = {"w": jnp.asarray(draw(2 + t, 4, 3)), "b": jnp.asarray(draw(9 + t, 3))}
        updates, state = update(grads, states[0], params, value=1.0)
        by_rule, own = rule_alone(theta_of_rule(), {"w": grads["w"]}, states[1], {"w": params["w"]})
        by_adam, other = jax.jit(adam.update)({"b": grads["b"]}, states[2])
        states = state, own, other
        np.testing.assert_allclose(updates["w"], by_rule["w"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(updates["b"], by_adam["b"], rtol=1e-5, atol=1e-8)
        params = apply_updates(params, updates)


def test_multi_steps_gives_the_mean_gradient_and_the_last_loss():
    """Also that `num_steps` counts updates, and not the mini-batches that they are made of."""
    every, num_updates = 3, 2
    tx: Any = optax.MultiSteps(as_optax(ReadsAll(), THETA, num_steps=num_updates), every)
    params, by_hand = jnp.asarray(draw(0, 5)), ByHand(num_updates)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(num_updates):
        grads, losses = draw(1 + t, every, 5), [0.3, 2.0, 0.7 + t]
        start = state.inner_opt_state
        for i in range(every):
            updates, state = update(jnp.asarray(grads[i]), state, params, value=losses[i])
            if i < every - 1:
                np.testing.assert_array_equal(updates, np.zeros(5))
                jax.tree.map(np.testing.assert_array_equal, state.inner_opt_state, start)
        expected = by_hand(grads.mean(axis=0), np.asarray(params), losses[-1])
        np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-7)
        params = params + updates


def test_multi_steps_as_a_transformation_has_no_loss_and_says_so():
    steps = optax.MultiSteps(as_optax(ReadsAll(), THETA, num_steps=5), 2).gradient_transformation()
    tx: Any = optax.chain(steps)
    params = jnp.ones(2)
    with pytest.raises(lopt.InputError, match=r"reads `value`.*MultiSteps"):
        tx.update(params, tx.init(params), params, value=1.0)


def test_apply_if_finite_leaves_out_a_bad_step_and_no_more():
    tx: Any = optax.apply_if_finite(as_optax(ReadsAll(), THETA, num_steps=10), 2)
    params, by_hand = draw(0, 5), ByHand(10)
    state, update = tx.init(jnp.asarray(params)), jax.jit(tx.update)
    for t in range(4):
        grad = draw(1 + t, 5)
        if t == 2:
            bad = grad.copy()
            bad[3] = np.nan
            updates, state = update(bad, state, params, value=np.float32(1.5))
            np.testing.assert_array_equal(updates, np.zeros(5))
            assert int(state.total_notfinite) == 1
        updates, state = update(grad, state, params, value=np.float32(1.5))
        np.testing.assert_allclose(updates, by_hand(grad, params, 1.5), rtol=1e-5, atol=1e-7)
        params = params + np.asarray(updates)


def test_masked_leaves_the_rest_of_the_gradients_as_they_are():
    tx: Any = optax.masked(as_optax(ReadsAll(), THETA, num_steps=10), {"a": True, "b": False})
    params = {"a": jnp.asarray(draw(0, 3)), "b": jnp.arange(2)}  # and the rule never sees integers
    grads = {"a": jnp.asarray(draw(1, 3)), "b": np.zeros(2, jax.dtypes.float0)}
    updates, _ = tx.update(grads, tx.init(params), params, value=0.5)
    assert updates["b"] is grads["b"]
    np.testing.assert_allclose(updates["a"], ByHand(10)(grads["a"], params["a"], 0.5), rtol=1e-5)


def test_an_injected_hyperparameter_can_be_set_while_training():
    rule = as_optax(ReadsAll(), THETA, num_steps=10)
    tx: Any = optax.inject_hyperparams(lambda rate: optax.chain(rule, optax.scale(rate)))(rate=1.0)
    params, grads, by_hand = draw(0, 3), draw(1, 3), ByHand(10)
    state, update = tx.init(jnp.asarray(params)), jax.jit(tx.update)
    for rate in (1.0, 0.25):
        state.hyperparams["rate"] = jnp.asarray(rate)
        updates, state = update(grads, state, params, value=np.float32(2.0))
        np.testing.assert_allclose(updates, rate * by_hand(grads, params, 2.0), rtol=1e-5, atol=1e-7)


def test_a_guarded_rule_accumulates_gradients_in_nnx():
    """guard inside MultiSteps inside nnx.Optimizer: two mini-batches are one update with their mean."""
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    kernel = np.asarray(model.kernel[...])
    rule = lopt.guard(as_optax(ReadsAll(), THETA, num_steps=10), optax.sgd(0.1), max_update_ratio=10.0)
    optimizer = nnx.Optimizer(model, optax.MultiSteps(rule, 2), wrt=nnx.Param)  # pyright: ignore

    @nnx.jit
    def step(model, optimizer, target):
        loss, grads = nnx.value_and_grad(lambda model: jnp.sum(model.kernel[...] * target))(model)
        optimizer.update(model, grads, value=loss)

    targets = draw(3, 2, 2, 3) / 10
    for target in targets:
        step(model, optimizer, target)
    expected = kernel + ByHand(10)(targets.mean(axis=0), kernel, np.sum(kernel * targets[1]))
    np.testing.assert_allclose(model.kernel[...], expected, rtol=1e-5, atol=1e-6)
