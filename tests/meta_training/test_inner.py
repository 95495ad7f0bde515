"""One inner training against the same training written as a plain loop with optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import LOSS_CAP, Objective
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.learnable_adam import LearnableAdam
from tests.toy_family import Quadratic

FAMILY, OPTIMIZER = Quadratic(), LearnableAdam(learning_rate=0.05)
HORIZON = 6


def theta():
    return OPTIMIZER.init_theta(jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Low(Quadratic):
    """The quadratic with params of another type."""

    kind: str = "float32"

    def task(self, config):
        task = super().task(config)
        return task._replace(init=lambda key: jax.tree.map(lambda p: p.astype(self.kind), task.init(key)))


def losses(meta_loss, theta=None, family=FAMILY, num_steps=HORIZON):
    """The losses of one trajectory, and its last state."""
    objective = meta_loss if isinstance(meta_loss, Objective) else Objective(meta_loss)
    problem = inner_training(OPTIMIZER, family, {}, objective=objective)
    theta = OPTIMIZER.init_theta(jax.random.key(0)) if theta is None else theta

    @jax.jit
    def run(theta):
        state = problem.init(theta, jax.random.key(1), jnp.asarray(HORIZON))
        keys = jax.random.split(jax.random.key(2), num_steps)
        return jax.lax.scan(lambda s, key: problem.step(theta, s, key), state, keys)

    state, values = run(theta)
    return np.asarray(values), state


def plain_loop():
    """Losses before the update on the training batch, and after it on a meta batch, normalized."""
    config_key, params_key = jax.random.split(jax.random.key(1))
    config = FAMILY.sample(config_key)
    task = FAMILY.task(config)
    params = task.init(params_key)
    adam = optax.adam(0.05)
    state = adam.init(params)
    before, after = [], []
    for key in jax.random.split(jax.random.key(2), HORIZON):
        batch_key, loss_key, evaluate_key = jax.random.split(key, 3)
        batch = FAMILY.sample_batch({}, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        updates, state = adam.update(grads, state)
        params = jax.tree.map(jnp.add, params, updates)
        batch_key, loss_key = jax.random.split(evaluate_key)
        batch = FAMILY.sample_batch({}, batch_key, config, "meta")
        before.append(task.normalize(value))
        after.append(task.normalize(task.loss(params, loss_key, batch)))
    return np.array(before), np.array(after), params


def test_each_meta_loss_is_what_it_says():
    before, after, params = plain_loop()
    values, state = losses("train")
    np.testing.assert_allclose(values, before, rtol=1e-5)
    np.testing.assert_allclose(state.params["p"], params["p"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses("meta_batch")[0], after, rtol=1e-5)
    np.testing.assert_allclose(losses("final")[0], [0] * (HORIZON - 1) + [after[-1]], rtol=1e-5)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_params_of_low_precision_stay_so_under_every_rule(name, kind):
    """All of the state keeps its types over a step, else a trajectory could not be scanned."""
    rule = OPTIMIZERS[name]()
    problem = inner_training(rule, Low(kind=kind), {}, objective=Objective("train"))
    theta = jax.eval_shape(rule.init_theta, jax.random.key(0))
    state = jax.eval_shape(problem.init, theta, jax.random.key(0), jax.ShapeDtypeStruct((), jnp.int32))
    new, loss = jax.eval_shape(problem.step, theta, state, jax.random.key(0))
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    assert {x.dtype for x in jax.tree.leaves(new.params)} == {jnp.dtype(kind)}
    assert loss.shape == ()


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_params_of_low_precision_are_trained(kind):
    """As params of float32 are, but for rounding."""
    values, state = losses("train", family=Low(kind=kind))
    full, _ = losses("train", family=Low(kind="float32"))
    assert state.params["p"].dtype == jnp.dtype(kind)
    assert values[-1] < 0.9 * values[0]
    np.testing.assert_allclose(values, full, rtol=0.05)


def test_a_diverged_training_pays_the_cap_to_its_end_and_nothing_else_does():
    exploding = {**theta(), "log_learning_rate": jnp.asarray(60.0)}
    for meta_loss in ("train", "meta_batch"):
        values, _ = losses(meta_loss, exploding)
        assert (values[1:] == LOSS_CAP).all()
        assert np.isfinite(values).all()
    invalid = {**theta(), "log_learning_rate": jnp.asarray(jnp.nan)}
    assert (losses("meta_batch", invalid)[0] == LOSS_CAP).all()
    assert (losses("train")[0] < LOSS_CAP).all()


def test_config_and_initial_parameters_follow_the_key():
    problem = inner_training(OPTIMIZER, FAMILY, {})
    one, same, other = (problem.init(theta(), jax.random.key(k), jnp.asarray(5)) for k in (1, 1, 2))
    assert (one.params["p"] == same.params["p"]).all()
    assert one.config["scale"] == same.config["scale"] != other.config["scale"]


def test_what_the_estimator_is_told():
    assert inner_training(OPTIMIZER, FAMILY, {}, objective=Objective("final")).final_loss
    problem = inner_training(OPTIMIZER, FAMILY, {})
    assert (problem.final_loss, problem.cap, problem.weight) == (False, LOSS_CAP, None)
