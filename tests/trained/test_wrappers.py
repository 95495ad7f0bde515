"""The table of optax's wrappers in docs/wrappers.md: which pass the loss on, and that the way around works."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lopt

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wrappers.md").read_text()
ROWS = dict(re.findall(r"^\| `(.*?)`.*? \| (yes|no) \|", PAGE, re.MULTILINE))


class Loss:
    """Update = -loss gradient."""

    requires = frozenset({"value"})

    def init(self, theta, params, *, num_steps):
        return jnp.zeros(())

    def update(self, theta, grads, state, params, *, value):
        return jax.tree.map(lambda g: -value * g, grads), state + value


def always(step: Any, **extra_args: Any) -> jax.Array:
    return step >= 0


TX: Any = lopt.as_optax(Loss(), {})  # type: ignore[arg-type]
ADVERSARY = optax.sgd(0.0)
MAKE: dict[str, Any] = {
    "optax.chain(clip, tx)": lambda tx: optax.chain(optax.clip(10.0), tx),
    'optax.named_chain(("rule", tx))': lambda tx: optax.named_chain(("rule", tx)),
    "optax.masked(tx, mask)": lambda tx: optax.masked(tx, {"w": True}),
    'optax.partition({"a": tx}, labels)': lambda tx: optax.partition({"a": tx}, {"w": "a"}),
    "optax.selective_transform(tx, freeze_mask=mask)": lambda tx: optax.selective_transform(
        tx, freeze_mask={"w": False}
    ),
    "optax.apply_if_finite(tx, n)": lambda tx: optax.apply_if_finite(tx, 3),
    "optax.inject_hyperparams(factory)(...)": lambda tx: optax.inject_hyperparams(
        lambda scale: optax.chain(tx, optax.scale(scale))
    )(scale=1.0),
    "optax.flatten(tx)": optax.flatten,
    "optax.MultiSteps(tx, k)": lambda tx: optax.MultiSteps(tx, 1),
    "optax.MultiSteps(tx, k).gradient_transformation()": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    "optax.with_extra_args_support(MultiSteps)": lambda tx: optax.with_extra_args_support(optax.MultiSteps(tx, 1)),  # type: ignore[arg-type]
    "optax.with_extra_args_support(state.tx)": lambda tx: optax.with_extra_args_support(optax.chain(tx)),
    "optax.contrib.sam(tx, adversary)": lambda tx: optax.contrib.sam(tx, ADVERSARY, sync_period=1),
    "optax.lookahead(tx, ...)": lambda tx: optax.lookahead(tx, 5, 0.5),
    "optax.contrib.split_real_and_imaginary(tx)": optax.contrib.split_real_and_imaginary,
    "optax.conditionally_transform(tx, when)": lambda tx: optax.conditionally_transform(tx, always),
    "optax.conditionally_mask(tx, when)": lambda tx: optax.conditionally_mask(tx, always),
    "optax.contrib.schedule_free(tx, rate)": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "lopt.guard(tx, fallback)": lambda tx: lopt.guard(tx, optax.sgd(0.1), max_update_ratio=100.0),
}
PARAMS, GRADS, LOSS = {"w": jnp.asarray([1.0, 2.0])}, {"w": jnp.asarray([0.5, -1.0])}, 3.0


def test_the_page_has_the_rows_that_are_tested():
    assert set(ROWS) == {*MAKE, "nnx.Optimizer(model, tx)"}


@pytest.mark.parametrize("name", MAKE)
def test_the_loss_passes_where_the_page_says_so(name):
    tx = MAKE[name](TX)
    lookahead = name.startswith("optax.lookahead")
    params: Any = optax.LookaheadParams.init_synced(PARAMS) if lookahead else PARAMS
    state = tx.init(params)
    if ROWS[name] == "no":
        update = optax.with_extra_args_support(tx).update if not hasattr(tx, "inner_opt") else tx.update
        with pytest.raises((lopt.InputError, TypeError), match=r"docs/wrappers\.md|unexpected keyword"):
            update(GRADS, state, params, value=LOSS)
        bound = optax.GradientTransformation(TX.init, functools.partial(TX.update, value=LOSS))
        updates, _ = MAKE[name](bound).update(GRADS, state, params)
    else:
        updates, _ = tx.update(GRADS, state, params, value=LOSS)
    updates = updates.fast if lookahead else updates
    np.testing.assert_allclose(updates["w"], -LOSS * GRADS["w"], rtol=1e-6)


def test_nnx_optimizer_passes_the_loss():
    assert ROWS["nnx.Optimizer(model, tx)"] == "yes"
    model = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
    before = np.asarray(model.kernel[...])
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    grads = nnx.grad(lambda model: 0.5 * jnp.sum(model.kernel[...]))(model)
    optimizer.update(model, grads, value=LOSS)
    np.testing.assert_allclose(model.kernel[...], before - 0.5 * LOSS, rtol=1e-6)


def test_complex_params_train_in_two_parts_with_the_loss_bound_in_the_step():
    """One step of -loss gradient on |z|^2 / 2: z - loss z, by the recipe of the page."""

    def wrapped(loss):
        bound = optax.GradientTransformation(TX.init, functools.partial(TX.update, value=loss))
        return optax.contrib.split_real_and_imaginary(bound)

    params = jnp.asarray([0.3 + 0.4j, -0.1j])

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda z: jnp.sum(jnp.abs(z) ** 2) / 2)(params)
        updates, state = wrapped(loss).update(jnp.conj(grads), state, params)
        return optax.apply_updates(params, updates), state, loss

    new, _, loss = step(params, wrapped(None).init(params))
    np.testing.assert_allclose(loss, 0.13, rtol=1e-6)
    np.testing.assert_allclose(new, (1 - 0.13) * np.asarray(params), rtol=1e-6)
