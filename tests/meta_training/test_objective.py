"""What an inner step costs, against formulas in numpy, and derivatives of whole objectives against differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.estimators import ESTIMATORS
from lopt.estimators.pairs import pair_keys, window_keys
from lopt.horizons import Horizon
from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import Objective
from lopt.names import InputError
from lopt.optimizers.learnable_adam import LearnableAdam
from tests.toy_family import Quadratic

FAMILY, OPTIMIZER, HORIZON = Quadratic(), LearnableAdam(learning_rate=0.05), 7
CAP = 2.0


def test_a_logarithmic_cost_is_1_at_the_trivial_predictor_and_0_at_nothing():
    for text, floor in (("log", 1e-4), ("log:0.01", 0.01)):
        objective = Objective(transform=text)
        losses = np.array([0.0, floor, 0.003, 0.03, 0.3, 1.0, 1.7])
        wanted = 1 + np.log10(losses + floor) / -math.log10(floor)
        found = objective.cost(jnp.asarray(losses, jnp.float32))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(found[jnp.array([0, 5])], [0, 1], atol=3e-3)
    # A tenth of the loss costs the same less wherever one is.
    found = Objective(transform="log:1e-9").cost(jnp.asarray([1.0, 0.1, 0.01, 0.001]))
    np.testing.assert_allclose(np.diff(found), -1 / 9, rtol=1e-4)


@pytest.mark.parametrize("transform", ["none", "log"])
def test_what_is_not_finite_costs_the_cap_and_what_is_below_zero_no_less_than_nothing_on_a_log_scale(transform):
    cost = Objective(transform=transform).cost(jnp.asarray([jnp.nan, jnp.inf, 1e30, -1.0]))
    np.testing.assert_allclose(cost, [CAP] * 3 + [-1.0 if transform == "none" else 0.0], atol=1e-6)
    below = jax.grad(lambda x: Objective(transform=transform).cost(x))(0.5)
    assert np.isfinite(below)
    assert below > 0


def test_late_weights_have_the_mean_of_their_sum():
    for text, power in (("late", 1.0), ("late:2", 2.0), ("late:0.5", 0.5)):
        steps = jnp.arange(1, 51)
        found = jax.vmap(Objective(weight=text).weight_of, (0, None))(steps, jnp.asarray(50))
        np.testing.assert_allclose(found, (power + 1) * (np.arange(1, 51) / 50) ** power, rtol=1e-6)
        np.testing.assert_allclose(found.mean(), 1, atol=0.04)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meta_loss": "meta_bach"}, "unknown meta_loss 'meta_bach'. Did you mean 'meta_batch'"),
        ({"meta_loss": "train:0.5"}, "train takes no number"),
        ({"meta_loss": "mixed:1"}, "between 0 and 1"),
        ({"meta_loss": "mixed:nan"}, "between 0 and 1"),
        ({"meta_loss": "mixed:half"}, "'half' is no number; write mixed or mixed:0.5"),
        ({"transform": "ln"}, "unknown meta_transform 'ln'"),
        ({"transform": "log:0"}, "floor must be"),
        ({"transform": "log:1"}, "floor must be"),
        ({"transform": "log:nan"}, "floor must be"),
        ({"weight": "last"}, "unknown meta_weight 'last'. Did you mean 'late'"),
        ({"weight": "late:-1"}, "power must be"),
        ({"weight": "late:inf"}, "power must be"),
        ({"weight": "uniform:2"}, "uniform takes no number"),
        ({"weight": "late", "meta_loss": "final"}, "only the last step counts"),
    ],
)
def test_what_is_no_objective_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Objective(**settings)


def plain_loop(learning_rate, key, steps_key, horizon):
    """Normalized losses before the update on the training batch, and after it on a fresh one, in a plain loop."""
    config_key, params_key = jax.random.split(key)
    config = FAMILY.sample(config_key)
    task = FAMILY.task(config)
    params = task.init(params_key)
    adam = optax.adam(learning_rate)
    state = adam.init(params)
    before, after = [], []
    for i in range(horizon):
        batch_key, loss_key, evaluate_key = jax.random.split(jax.random.fold_in(steps_key, i), 3)
        value, grads = jax.value_and_grad(task.loss)(
            params, loss_key, FAMILY.sample_batch({}, batch_key, config, "train")
        )
        updates, state = adam.update(grads, state)
        params = jax.tree.map(jnp.add, params, updates)
        batch_key, loss_key = jax.random.split(evaluate_key)
        fresh = task.loss(params, loss_key, FAMILY.sample_batch({}, batch_key, config, "meta"))
        before.append(task.normalize(value))
        after.append(task.normalize(fresh))
    return np.array(before, float), np.array(after, float)


def capped(cost):
    return np.minimum(cost, CAP)


def log(loss, floor):
    return capped(1 + np.log10(loss + floor) / -math.log10(floor))


OBJECTIVES = {  # and the cost of step t of T, counted from 1, from the two losses
    "log": (Objective("train", "log"), lambda x, y, t, T: log(x, 1e-4)),
    "late": (Objective("meta_batch", weight="late:2"), lambda x, y, t, T: 3 * (t / T) ** 2 * capped(y)),
    "mixed": (Objective("mixed:0.25"), lambda x, y, t, T: 0.75 * capped(x) + 0.25 * capped(y)),
    "all": (Objective("mixed", "log:0.01", "late"), lambda x, y, t, T: 2 * t / T * (log(x, 0.01) + log(y, 0.01)) / 2),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_estimate_is_the_derivative_of_the_objective(name):
    """Backpropagation through a trajectory, by the estimator, against differences of a plain loop."""
    objective, cost = OBJECTIVES[name]
    problem = inner_training(OPTIMIZER, FAMILY, {}, objective=objective)
    estimator = ESTIMATORS["bptt"](num_pairs=1, horizon=Horizon(HORIZON, HORIZON))
    theta = jax.tree.map(lambda x: x.astype(jnp.float64), OPTIMIZER.init_theta(jax.random.key(0)))
    state = estimator.init(problem, theta, jax.random.key(1))
    estimate, _ = jax.jit(lambda s, k: estimator.estimate(problem, theta, s, k))(state, jax.random.key(2))
    keys = window_keys(pair_keys(jax.random.key(2), 1)[0])

    def whole(learning_rate):
        before, after = plain_loop(learning_rate, keys.init, keys.steps, HORIZON)
        t = np.arange(1, HORIZON + 1)
        return cost(before, after, t, HORIZON).mean()

    np.testing.assert_allclose(estimate.loss, whole(0.05), rtol=1e-6)
    h = 1e-3
    difference = (whole(0.05 * math.exp(h)) - whole(0.05 * math.exp(-h))) / (2 * h)
    np.testing.assert_allclose(estimate.grad["log_learning_rate"], difference, rtol=1e-3)


@pytest.mark.parametrize("name", ["pes", "bptt"])
@pytest.mark.parametrize("objective", [Objective(), Objective(weight="late:3"), Objective("mixed", "log", "late")])
def test_steps_at_the_cap_are_counted_whatever_they_weigh(name, objective):
    """A rate that explodes: all steps are at the cap, but for a training batch that comes before the first update."""
    theta = {**OPTIMIZER.init_theta(jax.random.key(0)), "log_learning_rate": jnp.asarray(60.0)}
    own = {"truncation": HORIZON, "sigma": 1e-3} if name == "pes" else {}
    estimator = ESTIMATORS[name](num_pairs=1, horizon=Horizon(HORIZON, HORIZON), **own)
    problem = inner_training(OPTIMIZER, FAMILY, {}, objective=objective)
    state = estimator.init(problem, theta, jax.random.key(1))
    estimate, _ = jax.jit(lambda state, key: estimator.estimate(problem, theta, state, key))(state, jax.random.key(2))
    first = 1 if objective.share == 0.5 else 0
    np.testing.assert_allclose(estimate.info["capped"], (HORIZON - first) / HORIZON, rtol=1e-6)
