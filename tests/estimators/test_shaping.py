"""The shaping of pairs: three pairs by hand in numpy, and what every evolution strategy keeps under it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS, FullES, evolution, pairs, shaping
from lopt.horizons import Horizon
from tests.estimators import toys

pytestmark = pytest.mark.usefixtures("x64")
VMAPPED = PairLayout(sequential=False)
SHAPED = shaping.PAIR_SHAPINGS[1:]
NAMES = [name for name, kind in ESTIMATORS.items() if hasattr(kind, "sigma") and name != "pes_analytic"]


def by_hand(kind, differences):
    """s_i of the used pairs, from the definition."""
    d = np.asarray(differences, float)
    if kind == "none":
        return d
    if kind == "signed":
        return np.sign(d)
    if kind == "standardised":
        return d / np.sqrt((d**2).mean())
    smaller = (np.abs(d)[None] < np.abs(d)[:, None]).sum(1)
    equal = (np.abs(d)[None] == np.abs(d)[:, None]).sum(1)
    return np.sign(d) * (smaller + (equal + 1) / 2 - 1 / 2) / len(d)


def shaped(kind, differences, used=None):
    differences = jnp.asarray(differences, float)
    used = jnp.ones(len(differences)) if used is None else jnp.asarray(used, float)
    if kind in shaping.ACROSS_PAIRS:
        return shaping.shape_all(kind, differences, used)
    return jax.vmap(lambda d: shaping.shape_one(kind, d))(differences)


def test_three_differences():
    d = [0.5, -2.0, 1.0]
    np.testing.assert_allclose(shaped("none", d), d)
    np.testing.assert_allclose(shaped("signed", d), [1, -1, 1])
    np.testing.assert_allclose(shaped("standardised", d), np.divide(d, np.sqrt(5.25 / 3)), rtol=1e-12)
    np.testing.assert_allclose(shaped("rank", d), [1 / 6, -5 / 6, 3 / 6], rtol=1e-12)


@pytest.mark.parametrize("kind", SHAPED)
def test_ties_zeros_and_pairs_that_are_left_out(kind):
    for d in ([1.0, -1.0, 2.0], [0.0, 0.0, 3.0], [-0.1, 7.0, 7.0, -7.0, 0.0]):
        np.testing.assert_allclose(shaped(kind, d), by_hand(kind, d), rtol=1e-12)
    np.testing.assert_array_equal(shaped(kind, [0.0, 0.0]), 0)
    np.testing.assert_allclose(shaped(kind, [5.0]), by_hand(kind, [5.0]), rtol=1e-12)
    if kind in shaping.ACROSS_PAIRS:  # a pair that is left out has a difference of 0
        some = shaped(kind, [0.0, 0.5, -2.0, 0.0, 1.0], used=[0, 1, 1, 0, 1])
        np.testing.assert_allclose(some[jnp.asarray([1, 2, 4])], by_hand(kind, [0.5, -2.0, 1.0]), rtol=1e-12)
        np.testing.assert_array_equal(some[jnp.asarray([0, 3])], 0)


def noises(key, sigma):
    """The scalar noises that three pairs draw in an estimate with this key."""
    keys = [pairs.window_keys(pair_key).noise for pair_key in pairs.pair_keys(key, 3)]
    return np.array([float(evolution.draw_noise(noise_key, sigma, jnp.zeros(1))[0]) for noise_key in keys])


def test_three_pairs_of_pes_by_hand():
    """Two windows of the linear toy, whose losses are linear in the noises; the second has the credit of both."""
    sigma, theta, keys = 0.3, jnp.asarray(0.7), jax.random.split(jax.random.key(8))
    settings = {"num_pairs": 3, "sigma": sigma, "staggered": False, "layout": VMAPPED}

    def two_windows(kind, keys):
        estimator, problem = toys.make("pes", pair_shaping=kind, **settings), toys.linear()
        first, state = estimator.estimate(problem, theta, estimator.init(problem, theta, keys[0]), keys[0])
        return first, estimator.estimate(problem, theta, state, keys[1])[0]

    answers = jax.jit(lambda keys: {kind: two_windows(kind, keys) for kind in shaping.PAIR_SHAPINGS})(keys)
    eps, later = (noises(key, sigma) for key in keys)
    # Losses of a trajectory with copies a, b of theta: 0, a | 2a, 2a + b; means a / 2 and 2a + b / 2.
    windows = ((eps, eps / 2), (eps + later, 2 * eps + later / 2))
    for kind, estimates in answers.items():
        for answer, (credit, differences) in zip(estimates, windows, strict=True):
            each = credit * by_hand(kind, differences) / sigma**2
            np.testing.assert_allclose(answer.grad, each.mean(), rtol=1e-9)
            np.testing.assert_allclose(answer.info["grad_variance"], each.var(ddof=1) / 3, rtol=1e-9)


@pytest.mark.parametrize("name", toys.slow_but_for(NAMES, "truncated_es", "pes_telescoping", "gpes"))
def test_shaped_estimates_forget_the_size_of_the_loss_and_not_its_sign(name):
    """Three pairs with losses times 100 and times -1; and without shaping, as a check, the size counts."""

    def first(kind, scale):
        estimator = toys.make(name, num_pairs=3, sigma=0.1, pair_shaping=kind, staggered=False, layout=VMAPPED)
        problem = toys.dialled(toys.Dials(scale=scale), final_loss=name == "pes_telescoping")
        problem = problem._replace(evaluate=lambda theta, state, key: scale * state["s"])
        state = estimator.init(problem, jnp.asarray(0.7), jax.random.key(0))
        return estimator.estimate(problem, jnp.asarray(0.7), state, jax.random.key(5))[0].grad

    run = jax.jit(lambda scale: {kind: first(kind, scale) for kind in shaping.PAIR_SHAPINGS})
    one, hundred, negative = (run(jnp.asarray(scale)) for scale in (1.0, 100.0, -1.0))
    for kind in SHAPED:
        np.testing.assert_allclose(hundred[kind], one[kind], rtol=1e-9)
        np.testing.assert_allclose(negative[kind], -one[kind], rtol=1e-9)
        assert 0.05 < abs(one[kind]) * 0.1 < 5  # |eps| / sigma of standard normals; a fixed key
    np.testing.assert_allclose(hundred["none"], 100 * one["none"], rtol=1e-9)
    assert len({round(float(one[kind]), 6) for kind in shaping.PAIR_SHAPINGS}) == 4


@pytest.mark.parametrize("kind", shaping.ACROSS_PAIRS)
def test_an_exploding_pair_has_no_rank(kind):
    """The mean is that over the others, shaped among themselves."""
    directions = np.asarray([[1.0, 2.0], [9.0, 9.0], [-3.0, 0.5], [0.2, -1.0]])
    losses = np.asarray([[2.0, 1.0], [np.inf, 0.0], [0.0, 4.0], [5.0, 4.8]])

    def one_pair(state, key):
        direction, loss = state
        zero, no = jnp.zeros(()), jnp.zeros((), bool)
        terms = pairs.pair_terms(direction, loss, final=loss, ended=no, capped=zero, started=no, position=zero, steps=1)
        return terms, state

    used = [0, 2, 3]
    each = directions[used] * by_hand(kind, (losses[used, 0] - losses[used, 1]) / 2)[:, None]
    for layout in (PairLayout(1), PairLayout(2), PairLayout(2, sequential=False)):
        state = (jnp.asarray(directions), jnp.asarray(losses))
        answer, (_, after) = jax.jit(
            lambda state, layout=layout: pairs.estimate(
                one_pair, toys.linear(), jnp.zeros(2), state, jax.random.key(0), num_pairs=4, layout=layout,
                pair_shaping=kind,
            )
        )(state)  # fmt: skip
        np.testing.assert_allclose(answer.grad, each.mean(0), rtol=1e-9)
        assert answer.info["left_out"] == 1 / 4
        np.testing.assert_array_equal(after, losses)


def test_whole_trajectories_are_shaped_too():
    estimator = FullES(num_pairs=3, sigma=0.1, pair_shaping="rank", horizon=Horizon(4, 4), layout=VMAPPED)
    key = jax.random.key(2)
    state = estimator.init(toys.linear(), jnp.asarray(0.7), key)
    answer, _ = jax.jit(lambda key: estimator.estimate(toys.linear(), jnp.asarray(0.7), state, key))(key)
    eps = noises(key, 0.1)
    np.testing.assert_allclose(answer.grad, (eps * by_hand("rank", 1.5 * eps)).mean() / 0.1**2, rtol=1e-9)
