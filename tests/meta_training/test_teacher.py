"""The teacher: its distance against numpy in float64, its weight, and what an objective with it makes of a run."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS
from lopt.estimators.pairs import pair_keys, window_keys
from lopt.horizons import Horizon
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import outer_steps
from lopt.meta_training.teacher import TEACHERS, Teacher, distance
from lopt.names import InputError
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.types import TaskMixture
from tests.toy_family import Quadratic

FAMILY, OPTIMIZER, HORIZON = Quadratic(), LearnableAdam(learning_rate=0.05), 6


def in_numpy(updates, wanted):
    """The mean over tensors, in float64."""
    found = []
    for u, e in zip(updates, wanted, strict=True):
        u, e = np.asarray(u, float).ravel(), np.asarray(e, float).ravel()
        u_norm, e_norm = math.sqrt(u @ u), math.sqrt(e @ e)
        if not np.isfinite([*u, *e]).all():
            found.append(2.0)
        elif e_norm == 0:
            found.append(0.0)
        elif u_norm == 0:
            found.append(0.7 + 0.3 * 2)
        else:
            found.append(0.7 * (1 - u @ e / u_norm / e_norm) + 0.3 * min(2, abs(math.log10(u_norm / e_norm))))
    return np.mean(found)


RANDOM = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
UPDATES = {  # a rule's, a teacher's, and the distance where it is plain
    "equal": ([RANDOM[0]], [RANDOM[0]], 0.0),
    "opposite": ([RANDOM[0]], [-RANDOM[0]], 1.4),
    "at a right angle": ([np.array([1.0, 0.0])], [np.array([0.0, 1.0])], 0.7),
    "ten times as long": ([10 * RANDOM[0]], [RANDOM[0]], 0.3),
    "a thousandth as long": ([RANDOM[0] / 1000], [RANDOM[0]], 0.6),
    "any two": ([RANDOM[0]], [RANDOM[1]], None),
    "two tensors": ([RANDOM[0], RANDOM[1, 0]], [RANDOM[2], RANDOM[3, 0]], None),
    "tiny": ([1e-30 * RANDOM[0]], [3e-30 * RANDOM[1]], None),
    "huge": ([1e30 * RANDOM[0]], [3e30 * RANDOM[1]], None),
    "a rule that stands still": ([0 * RANDOM[0]], [RANDOM[0]], 1.3),
    "a teacher that stands still": ([RANDOM[0]], [0 * RANDOM[0]], 0.0),
    "not a number": ([np.array([np.nan, 1.0])], [np.ones(2)], 2.0),
    "infinite": ([np.array([np.inf, 1.0])], [np.ones(2)], 2.0),
    "a scalar": ([np.array(-2.0)], [np.array(1.0)], 1.4 + 0.3 * math.log10(2)),
}


@pytest.mark.parametrize("name", UPDATES)
def test_the_distance_is_that_of_numpy(name):
    updates, wanted, plain = UPDATES[name]
    as_arrays = [[jnp.asarray(x, jnp.float32) for x in xs] for xs in (updates, wanted)]
    found, grads = jax.value_and_grad(distance)(*as_arrays)
    np.testing.assert_allclose(found, in_numpy(updates, wanted), rtol=2e-6, atol=2e-7)
    if plain is not None:
        np.testing.assert_allclose(found, plain, rtol=2e-6, atol=2e-7)
    assert -1e-6 <= found <= 2 + 1e-6
    if np.isfinite(np.concatenate([np.ravel(x) for x in updates])).all():
        assert all(np.isfinite(grad).all() for grad in grads)


def test_the_weight_falls_in_a_straight_line_to_0():
    teacher = Teacher("adam", 0.01, steps=4, weight=0.8)
    np.testing.assert_allclose(
        jax.vmap(teacher.weight_at)(jnp.arange(7)), [0.8, 0.6, 0.4, 0.2, 0, 0, 0], rtol=1e-6, atol=1e-7
    )


def in_a_plain_loop(learning_rate, momentum_rate, weight, key, steps_key):
    """Mean cost of Adam's training under a teacher of momentum, in numpy, from the family's own gradients."""
    config_key, params_key = jax.random.split(key)
    config = FAMILY.sample(config_key)
    task = FAMILY.task(config)
    params = {"p": np.asarray(task.init(params_key)["p"], float)}
    first, second, velocity, costs = 0.0, 0.0, 0.0, []
    for i in range(HORIZON):
        batch_key, loss_key, _ = jax.random.split(jax.random.fold_in(steps_key, i), 3)
        batch = FAMILY.sample_batch({}, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        grad = np.asarray(grads["p"], float)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        corrected = first / (1 - 0.9 ** (i + 1)), second / (1 - 0.999 ** (i + 1))
        update = -learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        velocity = 0.9 * velocity + grad
        apart = in_numpy([update], [-momentum_rate * velocity])
        costs.append((1 - weight) * min(float(task.normalize(value)), 2) + weight * apart)
        params = {"p": params["p"] + update}
    return np.mean(costs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("outer_step", "weight"), [(0, 0.8), (5, 0.4), (10, 0.0)])
def test_the_estimate_is_the_derivative_of_the_objective(outer_step, weight):
    """Backpropagation through a trajectory, by the estimator, against differences of a plain loop in numpy."""
    objective = Objective("train", teacher=Teacher("sgdm", 0.2, steps=10, weight=0.8))
    problem = inner_training(OPTIMIZER, FAMILY, {}, objective=objective, outer_step=outer_step)
    estimator = ESTIMATORS["bptt"](num_pairs=1, horizon=Horizon(HORIZON, HORIZON))
    theta = jax.tree.map(lambda x: x.astype(jnp.float64), OPTIMIZER.init_theta(jax.random.key(0)))
    state = estimator.init(problem, theta, jax.random.key(1))
    estimate, _ = jax.jit(lambda s, k: estimator.estimate(problem, theta, s, k))(state, jax.random.key(2))
    keys = window_keys(pair_keys(jax.random.key(2), 1)[0])

    def whole(learning_rate):
        return in_a_plain_loop(learning_rate, 0.2, weight, keys.init, keys.steps)

    np.testing.assert_allclose(estimate.loss, whole(0.05), rtol=1e-6)
    h = 1e-3
    difference = (whole(0.05 * math.exp(h)) - whole(0.05 * math.exp(-h))) / (2 * h)
    np.testing.assert_allclose(estimate.grad["log_learning_rate"], difference, rtol=1e-3)


def training(teacher, estimator="pes", layout=PairLayout(), learning_rate=0.05, objective=Objective(), num_pairs=4):
    settings = {"num_pairs": num_pairs, "layout": layout, "horizon": Horizon(10, 20), "truncation": 5, "sigma": 0.1}
    known = {field.name for field in dataclasses.fields(ESTIMATORS[estimator])}
    return MetaTraining(
        LearnableAdam(learning_rate=learning_rate),
        (FAMILY,),
        ESTIMATORS[estimator](**{name: value for name, value in settings.items() if name in known}),
        OuterOptimizer(learning_rate=0.1, num_steps=100),
        dataclasses.replace(objective, teacher=teacher),
        layout,
    )


def run(made, *blocks):
    state, rows = made.init(0, ({},)), {}
    for count in blocks:
        state, rows = outer_steps(made, state, ({},), count)
    return state, rows


def test_a_weight_of_0_leaves_theta_what_it_is_without_a_teacher():
    layout = PairLayout(2)
    plain, rows = run(training(None, layout=layout), 4)
    taught, taught_rows = run(training(Teacher("adam", 0.01, steps=9, weight=0.0), layout=layout), 4)
    jax.tree.map(np.testing.assert_array_equal, plain.theta, taught.theta)
    np.testing.assert_array_equal(rows["meta_loss"], taught_rows["meta_loss"])
    np.testing.assert_array_equal(taught_rows["teacher_weight"][:4], np.zeros(4))


def test_a_teacher_that_has_faded_counts_no_more():
    """Estimates in an outer step after its last are those without it, from the same trajectories."""
    plain, taught = training(None, num_pairs=2), training(Teacher("sgdm", 0.1, steps=3), num_pairs=2)
    theta, key = LearnableAdam(learning_rate=0.05).init_theta(jax.random.key(0)), jax.random.key(3)
    estimates = {
        (made.objective.teacher, step): jax.jit(made.estimate, static_argnums=0)(
            0, theta, made.init(0, ({},)).estimator_states[0], {}, key, jnp.asarray(step)
        )[0]
        for made in (plain, taught)
        for step in (2, 3)
    }
    for step, same in ((2, False), (3, True)):
        one, other = estimates[None, step], estimates[taught.objective.teacher, step]
        assert (float(one.loss) == float(other.loss)) is same


@pytest.mark.parametrize("name", ["adam", "sgdm"])
def test_a_rule_learns_the_rate_of_its_teacher(name):
    """While only the teacher counts: Adam, started far too slow, under PES; of other teachers, the size of the updates.

    The learned rate gets to that at which the mean distance, scanned over rates, is least.
    """
    teacher = Teacher(name, 0.02, steps=10_000)
    made = training(teacher, learning_rate=0.001, num_pairs=16)
    state, rows = run(made, *[50] * 2)
    assert rows["meta_loss"][49] < 2
    learned = float(state.theta["log_learning_rate"])
    rates = np.linspace(-7, 0, 57)
    problem = inner_training(OPTIMIZER, FAMILY, {}, objective=made.objective)

    @jax.jit
    @jax.vmap
    def cost(rate):
        def one(key):
            theta = {**state.theta, "log_learning_rate": rate}
            first = problem.init(theta, key, jnp.asarray(15))
            return jax.lax.scan(lambda s, k: problem.step(theta, s, k), first, jax.random.split(key, 15))[1].mean()

        return jax.vmap(one)(jax.random.split(jax.random.key(5), 64)).mean()

    best = rates[np.argmin(cost(jnp.asarray(rates, jnp.float32)))]
    assert abs(learned - best) < 0.5
    if name == "adam":
        assert abs(best - math.log(0.02)) < 0.2


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "pes_telescoping"])
def test_every_estimator_takes_a_teacher(name):
    """But for the one of final losses."""
    made = training(Teacher("muon", 0.01, steps=5), estimator=name, num_pairs=2)
    shapes = jax.eval_shape(lambda seed: made._init(seed, ({},), None), jnp.zeros((), jnp.uint32))
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    estimate, state = jax.eval_shape(
        lambda *given: made.estimate(0, *given), shapes.theta, shapes.estimator_states[0], {}, key, step
    )
    assert jax.tree.structure(estimate.grad) == jax.tree.structure(shapes.theta)
    assert jax.tree.structure(state) == jax.tree.structure(shapes.estimator_states[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "adma", "teacher_steps": 5}, "unknown teacher 'adma'. Did you mean 'adam'"),
        ({"teacher": "adam:fast", "teacher_steps": 5}, "'fast' is no learning rate; write adam or adam:0.01"),
        ({"teacher": "adam:-1", "teacher_steps": 5}, "learning rate must be above 0"),
        ({"teacher": "adam:nan", "teacher_steps": 5}, "learning rate must be above 0"),
        ({"teacher": "adam"}, "teacher_steps must be at least 1 with a teacher"),
        ({"teacher_steps": 5}, "none takes no rate and no teacher_steps"),
        ({"teacher": "none:0.1"}, "none takes no rate"),
        ({"teacher": "adam", "teacher_steps": 5, "teacher_weight": 1.5}, "between 0 and 1"),
        ({"teacher": "adam", "teacher_steps": 5, "meta_loss": "final"}, "a teacher is followed at each step"),
    ],
)
def test_what_is_no_teacher_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MetaTrainConfig(**settings)


def test_the_settings_make_the_teacher():
    def made(**settings):
        return MetaTrainConfig(**settings).build(TaskMixture((), ()), PairLayout()).objective.teacher

    assert made() is None
    for name, optimizer in TEACHERS.items():
        assert made(teacher=name, teacher_steps=1) == Teacher(name, optimizer.rate, 1)
    assert made(teacher="adamw", teacher_steps=30) == Teacher("adamw", 0.01, 30)
    assert made(teacher="sgdm:0.3", teacher_steps=7, teacher_weight=0.5) == Teacher("sgdm", 0.3, 7, 0.5)
