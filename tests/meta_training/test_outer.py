"""The outer step: what it computes, that it compiles once, and that blocks and devices do not matter."""

import dataclasses
import functools
import io
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.distributed import PairLayout, default_layout
from lopt.estimators import ESTIMATORS, PES
from lopt.horizons import Horizon
from lopt.meta_training import steps
from lopt.meta_training.inner import inner_training
from lopt.meta_training.objective import Objective
from lopt.meta_training.outer import MetaTraining, OuterOptimizer
from lopt.meta_training.steps import BLOCK_STEPS, outer_steps
from lopt.names import InputError, Spec, build
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.types import Estimate
from tests.toy_family import Quadratic

FAMILIES = (Quadratic(), Quadratic(dim=5))
DATA = ({}, {})


def make(layout=PairLayout(), **settings):
    return MetaTraining(
        optimizer=LearnableAdam(learning_rate=0.05),
        families=FAMILIES,
        estimator=PES(num_pairs=4, truncation=5, horizon=Horizon(10, 20), layout=layout),
        outer_optimizer=OuterOptimizer(**{"num_steps": 20, **settings}),
        layout=layout,
    )


def of_one_family(layout):
    """From a learning rate of 1e-3, far too small for 10 to 20 steps."""
    return MetaTraining(
        LearnableAdam(learning_rate=1e-3),
        FAMILIES[:1],
        PES(num_pairs=16, truncation=5, horizon=Horizon(10, 20), sigma=0.1, layout=layout),
        OuterOptimizer(learning_rate=0.1),
        Objective("train"),
        layout,
    )


def run(training, *blocks):
    state, rows = training.init(0, DATA[:1]), []
    for count in blocks:
        state, metrics = outer_steps(training, state, DATA[:1], count)
        rows.append(jax.tree.map(lambda x, count=count: np.asarray(x[:count]), metrics))
    return jax.tree.map(to_numpy, state), rows


def to_numpy(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


LAYOUTS = [PairLayout(1), PairLayout(2), PairLayout(2, sequential=False)]


@functools.cache
def six_steps(layout):
    """State and metrics, and what JAX said of compiling, of six outer steps as one block and as three."""
    messages = io.StringIO()
    handler, logger = logging.StreamHandler(messages), logging.getLogger("jax")
    logger.addHandler(handler)
    with jax.log_compiles():
        whole, parts = run(of_one_family(layout), 6), run(of_one_family(layout), 1, 3, 2)
    logger.removeHandler(handler)
    return whole, parts, messages.getvalue().splitlines()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_trace_and_blocks_do_not_matter(layout):
    (whole, (rows,)), (parts, part_rows), messages = six_steps(layout)
    for event in ("Finished tracing", "Compiling"):
        assert sum(event in message and "_one_program" in message for message in messages) == 1
    assert_same(whole, parts, rtol=0)
    joined = {name: np.concatenate([part[name] for part in part_rows]) for name in rows}
    assert_same(rows, joined, rtol=0)


@pytest.mark.parametrize("other", LAYOUTS[1:])
def test_layouts_agree(other):
    assert_same(six_steps(LAYOUTS[0])[0][0], six_steps(other)[0][0], rtol=1e-5, atol=1e-6)


def test_meta_training_improves_a_bad_learning_rate():
    """Descent must raise it at the outer rate, 0.1 a step at most."""
    state, _ = run(of_one_family(LAYOUTS[0]), 40)
    assert state.theta["log_learning_rate"] > np.log(1e-3) + 3


@pytest.mark.parametrize("layout", [PairLayout(2), PairLayout(2, sequential=False)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_traces_with_arrays_where_a_run_has_them(name, layout):
    settings = {"num_pairs": 4, "truncation": 5, "horizon": Horizon(10, 20), "layout": layout}
    estimator = build("estimator", Spec(name, {}), ESTIMATORS, **settings)
    meta_loss = "final" if name == "pes_telescoping" else "train"
    training = dataclasses.replace(of_one_family(layout), estimator=estimator, objective=Objective(meta_loss))
    state = training.template(DATA[:1])
    after, _ = steps._one_program.eval_shape(training, state, DATA[:1], jnp.asarray(1, jnp.int32), 1.0)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree) for tree in (state, after))
    assert before == after


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An estimator that answers at once: gradient and loss follow from theta, its key, its state and one inner step."""

    def init(self, problem, theta, key):
        return jnp.zeros(4, jnp.int32)

    def estimate(self, problem, theta, state, key, *, step=None):
        _, loss = problem.step(theta, problem.init(theta, key, jnp.asarray(10)), key)
        numbers = jax.random.key_data(key) / 2.0**32
        grad = jax.tree.map(lambda x: 0.1 * x + numbers[0] + state[0], theta)
        return Estimate(grad, loss, {"number": numbers[1]}), state + 1


@functools.cache
def two_estimates():
    """What each family's estimator answers in the first step of a run with seed 0."""
    training = drawing()
    state = training.init(0, DATA)

    @jax.jit
    def both(theta, states, key):
        return [
            training.estimator.estimate(
                inner_training(training.optimizer, family, {}), theta, old, jax.random.fold_in(key, i)
            )[0]
            for i, (family, old) in enumerate(zip(FAMILIES, states, strict=True))
        ]

    return both(state.theta, state.estimator_states, jax.random.fold_in(state.key, 0))


def drawing(weights=(), **settings):
    return dataclasses.replace(make(**settings), estimator=Drawn(), weights=weights)


@pytest.mark.parametrize(("weights", "share"), [((), 0.5), ((6.0, 2.0), 0.75)])
def test_a_step_is_the_mean_estimate_through_optax(weights, share):
    """A family of weight 3 beside one of weight 1 counts three quarters, whatever their sum."""
    training = drawing(weights, clip_norm=0.3)
    state = training.init(0, DATA)
    theta = jax.tree.map(np.asarray, state.theta)
    first, second = two_estimates()
    grad, loss, info = jax.tree.map(lambda a, b: share * a + (1 - share) * b, tuple(first), tuple(second))
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grad)))
    tx = optax.adam(1e-3)
    updates, _ = tx.update(jax.tree.map(lambda g: g * min(1, 0.3 / norm), grad), tx.init(grad))

    new_state, metrics = outer_steps(training, state, DATA, 1)
    jax.tree.map(
        lambda new, old, update: np.testing.assert_allclose(new, old + np.asarray(update), rtol=1e-5),
        new_state.theta, theta, updates,
    )  # fmt: skip
    np.testing.assert_allclose(metrics["grad_norm"][0], norm, rtol=1e-4)
    np.testing.assert_allclose(metrics["number"][0], info["number"], rtol=1e-5)
    np.testing.assert_allclose(metrics["meta_loss"][0], loss, rtol=1e-5)
    for family, estimate in zip(FAMILIES, (first, second), strict=True):
        np.testing.assert_allclose(metrics[f"meta_loss/{family.name}"][0], estimate.loss, rtol=1e-5)
    assert first.loss != second.loss
    assert len(metrics["meta_loss"]) == BLOCK_STEPS
    assert [s.tolist() for s in new_state.estimator_states] == [[1] * 4] * 2


def test_schedules():
    cosine = OuterOptimizer(learning_rate=2.0, schedule="cosine", warmup_steps=10, num_steps=110)
    schedule = cosine.learning_rate_schedule()
    for step, expected in ((0, 0.0), (5, 1.0), (10, 2.0), (60, 1.0), (110, 0.0)):
        np.testing.assert_allclose(schedule(step), expected, atol=1e-6)
    linear = OuterOptimizer(learning_rate=2.0, schedule="linear", num_steps=100).learning_rate_schedule()
    np.testing.assert_allclose(np.asarray([linear(t) for t in (0, 25, 100)], float), [2.0, 1.5, 0.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adm"}, "Did you mean 'adam'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"clip_norm": -1.0}, "clipping"),
        ({"warmup_steps": 20}, "warm-up"),
    ],
)
def test_outer_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        OuterOptimizer(**{"num_steps": 20, **settings})


def test_default_layout():
    assert default_layout(16) == PairLayout(2, sequential=True)
    assert default_layout(3) == PairLayout(1, sequential=True)
    with pytest.raises(InputError, match="cannot share"):
        default_layout(3, 2)
    with pytest.raises(InputError, match="2 CPU cores"):
        default_layout(16, 8)


@pytest.mark.parametrize("layout", [pytest.param(PairLayout(1), marks=pytest.mark.slow), PairLayout(2)])
def test_families_drawn_are_visited_by_their_weights_and_the_others_stay(layout, caplog):
    training = dataclasses.replace(make(layout), weights=(3.0, 1.0), families_per_step=1)
    state = training.init(0, DATA)
    visits, blocks = [], 3
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for _ in range(blocks):
            state, metrics = outer_steps(training, state, DATA, BLOCK_STEPS)
            losses = np.stack([metrics[f"meta_loss/{family.name}"] for family in FAMILIES], 1)
            seen = np.isfinite(losses)
            visits.append(seen)
            every = np.concatenate(visits)
            for family, estimator_state in enumerate(state.estimator_states):  # schedules follow the outer steps
                np.testing.assert_array_equal(estimator_state.clock.step, np.flatnonzero(every[:, family])[-1] + 1)
            np.testing.assert_allclose(metrics["meta_loss"], np.nansum(losses, axis=1), rtol=1e-6)
    for program, number in (("_estimate", len(FAMILIES)), ("_follow", 1), ("_visits", 1)):
        assert sum("Compiling" in message and f"jit({program})" in message for message in caplog.messages) == number
    visited = np.concatenate(visits)
    assert (visited.sum(1) == 1).all()
    # A share of 3/4 over 192 draws has a standard error of 0.031.
    np.testing.assert_allclose(visited[:, 0].mean(), 0.75, atol=4 * 0.031)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1.0,)}, "1 weights for 2"),
        ({"weights": (1.0, 0.0)}, "above 0"),
        ({"weights": (1.0, float("nan"))}, "above 0"),
        ({"families_per_step": -1}, "at least 0"),
    ],
)
def test_mixtures_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(make(), **settings)


def many(number):
    return tuple(Quadratic(dim=i + 1) for i in range(number))


@dataclasses.dataclass(frozen=True)
class Spread:
    """An estimator that says that its variance is 3."""

    def init(self, problem, theta, key):
        return jnp.zeros((), jnp.int32)

    def estimate(self, problem, theta, state, key, *, step=None):
        return Estimate(jax.tree.map(jnp.ones_like, theta), jnp.ones(()), {"grad_variance": jnp.asarray(3.0)}), state


@pytest.mark.parametrize(("weights", "drawn", "wanted"), [
    ((1.0, 1.0), 0, 3.0 / 2), ((3.0, 1.0), 0, 3.0 * (9 + 1) / 16), ((1.0,) * 8, 8, 3.0 / 8), ((1.0,) * 8, 4, 3.0 / 4)
])  # fmt: skip
def test_the_variance_of_a_mixture_is_that_of_a_weighted_mean(weights, drawn, wanted):
    """For independent estimates with the same variance v: v sum_i w_i^2 / (sum_i w_i)^2, and v / 8 of 8 draws."""
    training = dataclasses.replace(
        make(), estimator=Spread(), families=many(len(weights)), weights=weights, families_per_step=drawn
    )
    data = ({},) * len(weights)
    _, metrics = outer_steps(training, training.init(0, data), data, 1)
    np.testing.assert_allclose(metrics["grad_variance"][0], wanted, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Keys:
    """An estimator that answers with its key, and starts from its key."""

    def init(self, problem, theta, key):
        return jax.random.uniform(key)

    def estimate(self, problem, theta, state, key, *, step=None):
        return Estimate(jax.tree.map(jnp.zeros_like, theta), jax.random.uniform(key), {}), jax.random.uniform(key)


def test_every_family_and_every_visit_has_a_key_of_its_own():
    """Else estimates that count as independent are the same one twice, and their mean has too large a variance."""
    training = dataclasses.replace(make(), estimator=Keys(), families_per_step=0)
    state = training.init(0, DATA)
    starts = {float(x) for x in state.estimator_states}
    assert len(starts) == 2
    state, metrics = outer_steps(training, state, DATA, 2)
    answers = {float(metrics[f"meta_loss/{family.name}"][i]) for family in FAMILIES for i in range(2)}
    assert len(answers | starts) == 6
    # Two draws of one of two families: equal answers would make the mean one of them.
    for seed in range(4):
        drawn = dataclasses.replace(training, families_per_step=2)
        _, metrics = outer_steps(drawn, drawn.init(seed, DATA), DATA, 1)
        last = np.array([float(metrics[f"meta_loss/{family.name}"][0]) for family in FAMILIES])
        assert np.abs(float(metrics["meta_loss"][0]) - last[np.isfinite(last)]).min() > 1e-4


def test_a_family_without_any_usable_pair_leaves_the_step_to_the_others():
    @dataclasses.dataclass(frozen=True)
    class Half(Keys):
        def estimate(self, problem, theta, state, key, *, step=None):
            broken = problem.init(theta, key, jnp.asarray(10)).params["p"].shape == (5,)
            loss = jnp.where(broken, jnp.nan, 2.0)
            return Estimate(
                jax.tree.map(lambda x: jnp.full_like(x, jnp.where(broken, jnp.nan, 4.0)), theta), loss, {}
            ), state

    training = dataclasses.replace(make(clip_norm=0.0, name="sgd", learning_rate=1.0), estimator=Half())
    state = training.init(0, DATA)
    before = jax.tree.map(np.asarray, state.theta)
    state, metrics = outer_steps(training, state, DATA, 1)
    assert metrics["meta_loss"][0] == 2.0
    jax.tree.map(lambda new, old: np.testing.assert_allclose(new, old - 2.0, rtol=1e-6), state.theta, before)
