"""Draws by cost: the mean over all draws is the weighted mean over families, exactly; odds and counts against numpy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.meta_training import draws, steps
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.names import InputError
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.types import Estimate
from tests.meta_training import test_outer
from tests.toy_family import Quadratic

WEIGHTS, FAMILIES, DATA = (3.0, 1.0, 2.0), tuple(Quadratic(dim=n) for n in (2, 5, 40)), ({},) * 3
COSTS = [100.0, 4.0, 2500.0]


@dataclasses.dataclass(frozen=True)
class Known:
    """An estimator whose gradient is the size of the task, and its loss a tenth of that."""

    def init(self, problem, theta, key):
        return jnp.zeros((), jnp.int32)

    def estimate(self, problem, theta, state, key, *, step=None):
        size = float(problem.init(theta, key, jnp.asarray(10)).params["p"].size)
        grad = jax.tree.map(lambda x: jnp.full_like(x, size), theta)
        return Estimate(grad, jnp.asarray(size / 10), {"grad_variance": jnp.asarray(size)}), state + 1


def drawing(number=2, draw="cost", **settings):
    outer = OuterOptimizer("sgd", learning_rate=0.01, schedule="constant", clip_norm=0.0)
    return MetaTraining(
        LearnableAdam(), FAMILIES, Known(), outer, weights=WEIGHTS, families_per_step=number, draw=draw, **settings
    )


def test_odds_are_by_weight_over_the_square_root_of_the_cost():
    chances, ratios = draws.odds(list(WEIGHTS), COSTS)
    wanted = np.array(WEIGHTS) / [10, 2, 50] / (3 / 10 + 1 / 2 + 2 / 50)
    np.testing.assert_allclose(chances, wanted, rtol=1e-6)
    np.testing.assert_allclose(chances * ratios, np.array(WEIGHTS) / 6, rtol=1e-6)


def test_no_other_odds_have_less_variance_for_their_cost():
    """Second moments of the estimates are equal; 2,000 other odds, some of them near."""
    costs, shares = np.array(COSTS), np.array(WEIGHTS) / 6
    best = draws.odds(list(WEIGHTS), COSTS).chances.astype(float)

    def product(p):
        return (shares**2 / p).sum(-1) * (p @ costs)

    others = best * np.exp(np.random.default_rng(0).normal(size=(2000, 3)) * np.linspace(0.01, 2, 2000)[:, None])
    assert (product(others / others.sum(-1, keepdims=True)) >= product(best) * (1 - 1e-6)).all()
    assert product(shares) > 1.5 * product(best)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_mean_over_all_draws_is_the_weighted_mean_over_the_families(number):
    """Every outcome of the draws of an outer step, with its probability: theta follows sum_i w_i g_i / sum_i w_i."""
    training = drawing(number)
    odds = jax.tree.map(jnp.asarray, draws.odds(list(WEIGHTS), COSTS))
    state = training.init(0, DATA)._replace(estimator_states=())
    theta = float(state.theta["log_learning_rate"])

    @jax.jit
    def moved(drawn):
        sizes = jnp.asarray([2.0, 5.0, 40.0])[drawn]
        estimates = [
            Estimate(jax.tree.map(lambda x, g=g: jnp.full_like(x, g), state.theta), g, {"grad_variance": g, "third": g})
            for g in sizes
        ]
        new, metrics = training.follow(state, estimates, drawn, 1.0, odds)
        return (theta - new.theta["log_learning_rate"]) / 0.01, metrics["third"], metrics["grad_variance"]

    mean, total = 0.0, 0.0
    for drawn in itertools.product(range(3), repeat=number):
        chance = float(np.prod(np.asarray(odds.chances, float)[list(drawn)]))
        grad, logged, variance = moved(jnp.asarray(drawn, jnp.int32))
        mean, total = mean + chance * float(grad), total + chance
        r, size = np.asarray(odds.ratios, float)[list(drawn)], np.array([2.0, 5.0, 40.0])[list(drawn)]
        np.testing.assert_allclose(logged, (r * size).sum() / r.sum(), rtol=1e-5)  # a mean of what was drawn
        np.testing.assert_allclose(variance, (r**2 * size).sum() / number**2, rtol=1e-5)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    np.testing.assert_allclose(mean, (3 * 2 + 1 * 5 + 2 * 40) / 6, rtol=1e-3)  # theta is float32, and moves by 0.1


def test_the_cost_is_that_of_an_inner_step():
    """It counts the rule and the task together, at their shapes."""
    training = drawing()
    odds = training.odds(DATA)
    assert odds is not None
    chances, costs = odds.chances, []
    for i in range(3):
        problem, theta = training.problem(i, {}, lambda x: x), LearnableAdam().init_theta(jax.random.key(0))
        state = problem.init(theta, jax.random.key(0), jnp.asarray(10))
        costs.append(draws.count(jax.make_jaxpr(problem.step)(theta, state, jax.random.key(0)).jaxpr).cost)
    assert costs[0] < costs[1] < costs[2]
    np.testing.assert_allclose(
        chances / chances[0], np.array(WEIGHTS) / 3 * np.sqrt(costs[0] / np.array(costs)), rtol=1e-5
    )


def test_families_are_drawn_by_the_odds_and_their_estimates_count_by_the_ratios(monkeypatch):
    odds = draws.odds(list(WEIGHTS), COSTS)
    monkeypatch.setattr(MetaTraining, "odds", lambda self, data: odds)
    steps._programs.cache_clear()
    training, visits = drawing(), []
    state = training.init(0, DATA)
    for _ in range(4):
        before = float(state.theta["log_learning_rate"])
        drawn = np.asarray(steps._visits(training, state.key, state.step, odds))
        visits.append(drawn)
        state, metrics = steps.outer_steps(training, state, DATA, steps.BLOCK_STEPS)
        grads = (np.asarray(odds.ratios)[drawn] * np.array([2.0, 5.0, 40.0])[drawn]).mean(1)
        np.testing.assert_allclose(metrics["grad_norm"], grads * np.sqrt(len(jax.tree.leaves(state.theta))), rtol=1e-5)
        np.testing.assert_allclose(before - float(state.theta["log_learning_rate"]), 0.01 * grads.sum(), rtol=1e-3)
    drawn = np.concatenate(visits).ravel()
    steps._programs.cache_clear()
    share = np.bincount(drawn, minlength=3) / len(drawn)
    chances = np.asarray(odds.chances, float)
    assert (np.abs(share - chances) < 4 * np.sqrt(chances * (1 - chances) / len(drawn))).all()


def test_a_run_that_was_stopped_draws_on_as_it_would_have():
    def run(*blocks):
        state, rows = drawing().init(0, DATA), []
        for count in blocks:
            steps._programs.cache_clear()  # as in a new process
            state, metrics = steps.outer_steps(drawing(), state, DATA, count)
            rows.append(np.stack([metrics[f"meta_loss/{family.name}"][:count] for family in FAMILIES]))
        return jax.tree.map(test_outer.to_numpy, state), np.concatenate(rows, 1)

    (whole, rows), (parts, other_rows) = run(9), run(2, 4, 3)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    np.testing.assert_array_equal(rows, other_rows)


A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
IMAGE, KERNEL = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
COUNTS = {
    "a product": (lambda a, b: a @ b, (A, B), (2 * 3 * 5 * 7, 1)),
    "a convolution": (
        lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        (IMAGE, KERNEL),
        (2 * (2 * 8 * 8 * 4) * (3 * 3 * 3), 1),
    ),
    "numbers": (lambda a: jnp.sin(a) * a, (A,), (2 * 15, 2)),
    "integers": (lambda a: a.astype(jnp.int32), (A,), (0, 1)),
    "a scan": (lambda a: jax.lax.scan(lambda c, _: (jnp.sin(c), None), a, None, length=9)[0], (A,), (9 * 15, 9)),
    "branches": (
        lambda a: jax.lax.cond(a[0, 0] > 0, lambda: jnp.sin(jnp.sin(jnp.sin(a))), lambda: a),
        (A,),
        (3 * 15, 3),
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_what_a_program_runs_is_counted(name):
    function, arguments, (flops, operations) = COUNTS[name]
    found = draws.count(jax.make_jaxpr(function)(*arguments).jaxpr)
    if name == "branches":  # beside the branches, the condition is computed
        assert flops < found.flops < flops + 10
        assert operations < found.operations < operations + 10
    else:
        assert found == (flops, operations)
    assert found.cost == found.flops + 1e4 * found.operations


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="draw=cost is about the families that an outer step draws"):
        MetaTrainConfig(draw="cost")
    with pytest.raises(InputError, match=r"unknown draw 'costs'. Did you mean 'cost'"):
        MetaTrainConfig(draw="costs", tasks_per_step=2)
    assert drawing(draw="weight").odds(DATA) is None
