"""Evolution strategies that use backpropagation beside: by hand in numpy, and their expectations by quadrature."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import GuidedES, InverseVariance, TruncatedES, evolution, guided_es, pairs
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import InnerProblem
from tests.estimators import toys
from tests.estimators.differentiating import network

pytestmark = pytest.mark.usefixtures("x64")
VMAPPED, THETA, SIGMA = PairLayout(sequential=False), np.array([0.3, -0.7]), 0.4
ONE_STEP = {"truncation": 1, "horizon": Horizon(1, 1), "staggered": False, "layout": VMAPPED}


def loss(x):
    return x[0] ** 2 + 3 * x[1] + x[0] * x[1] ** 3


def slope(x):
    return np.array([2 * x[0] + x[1] ** 3, 3 + 3 * x[0] * x[1] ** 2])


SMOOTH = InnerProblem(lambda theta, key, horizon: jnp.zeros(()), lambda theta, state, key: (state, loss(theta)))


def noises(key, num_pairs):
    keys = [pairs.window_keys(pair_key).noise for pair_key in pairs.pair_keys(key, num_pairs)]
    return np.array([evolution.draw_noise(key, SIGMA, jnp.zeros(2)) for key in keys])


def answer_of(estimator, problem, key):
    def run(key):
        state = estimator.init(problem, jnp.asarray(THETA), key)
        return estimator.estimate(problem, jnp.asarray(THETA), state, key)[0]

    return jax.jit(run)(key)


@pytest.mark.parametrize("layout", [VMAPPED, PairLayout(1)])
def test_three_pairs_are_combined_by_inverse_variance(layout):
    key = jax.random.key(3)
    answer = answer_of(InverseVariance(num_pairs=3, sigma=SIGMA, **{**ONE_STEP, "layout": layout}), SMOOTH, key)
    eps = noises(key, 3)
    es = np.array([e * (loss(THETA + e) - loss(THETA - e)) / (2 * SIGMA**2) for e in eps])
    bp = np.array([(slope(THETA + e) + slope(THETA - e)) / 2 for e in eps])
    v_es, v_bp = es.var(0, ddof=1), bp.var(0, ddof=1)
    wanted = (bp.mean(0) / v_bp + es.mean(0) / v_es) / (1 / v_bp + 1 / v_es)
    np.testing.assert_allclose(answer.grad, wanted, rtol=1e-9)
    each = (bp / v_bp + es / v_es) / (1 / v_bp + 1 / v_es)
    np.testing.assert_allclose(answer.info["grad_variance"], each.var(0, ddof=1).sum() / 3, rtol=1e-9)
    np.testing.assert_allclose(answer.loss, np.mean([[loss(THETA + e), loss(THETA - e)] for e in eps]), rtol=1e-9)


def test_a_gradient_without_variance_counts_alone_and_of_one_pair_both_alike():
    linear = SMOOTH._replace(step=lambda theta, state, key: (state, 2 * theta[0] - theta[1]))
    key = jax.random.key(3)
    for num_pairs in (3, 1):
        answer = answer_of(InverseVariance(num_pairs=num_pairs, sigma=SIGMA, **ONE_STEP), linear, key)
        eps = noises(key, num_pairs)
        es = (eps @ [2, -1])[:, None] * eps / SIGMA**2
        wanted = [2, -1] if num_pairs == 3 else ([2, -1] + es[0]) / 2
        np.testing.assert_allclose(answer.grad, wanted, rtol=1e-9)


def test_both_rows_have_the_gradient_of_the_smoothed_window_as_their_mean(monkeypatch):
    """The scalar chain with K = T = 3: of (theta + theta^2 + theta^3) / 3, smoothed."""
    estimator = InverseVariance(
        num_pairs=1, sigma=SIGMA, truncation=3, horizon=Horizon(3, 3), staggered=False, layout=VMAPPED
    )
    theta, problem = jnp.asarray(1.3), toys.chain(final=False)
    state = jax.tree.map(lambda x: x[0], estimator.init(problem, theta, jax.random.key(0)))

    def rows(noise):
        monkeypatch.setattr(evolution, "draw_noise", lambda *_: noise)
        return estimator._window(problem, theta, state, jax.random.key(1))[0].grad[:2, 0]

    exact = (1 + 2 * 1.3 + 3 * 1.3**2 + 3 * SIGMA**2) / 3
    np.testing.assert_allclose(toys.gauss_hermite_mean(rows, (1,), SIGMA), exact, rtol=1e-12)


WINDOWS: Any = {"truncation": 2, "horizon": Horizon(4, 6), "staggered": False, "layout": VMAPPED}


@functools.cache
def five_windows(kind, **settings):
    """Gradients of two pairs in five windows of trajectories of the network, and the state after them."""
    estimator = kind(**settings, num_pairs=2, sigma=SIGMA, **WINDOWS)

    def one(state, key):
        answer, state = estimator.estimate(network(), jnp.asarray(THETA), state, key)
        return state, (answer.grad, state)

    def run(keys):
        return jax.lax.scan(one, estimator.init(network(), jnp.asarray(THETA), keys[0]), keys)[1]

    return jax.jit(run)(jax.random.split(jax.random.key(7), 5))


@pytest.mark.xdist_group("with gradients")
def test_guided_es_with_isotropic_noise_is_truncated_es():
    np.testing.assert_allclose(five_windows(GuidedES, isotropic=1.0)[0], five_windows(TruncatedES)[0], rtol=1e-12)


@pytest.mark.xdist_group("with gradients")
def test_the_guides_are_the_latest_gradients_of_the_unperturbed_windows():
    """Those of tbptt, whose single trajectory is the unperturbed one; the keys are the same."""
    _, states = five_windows(GuidedES, isotropic=1.0)
    tbptt = toys.make("tbptt", num_pairs=2, **WINDOWS)
    problem, keys = network(), jax.random.split(jax.random.key(7), 5)

    def each(state, key):
        """The gradient of each trajectory on its own."""
        terms, state = jax.vmap(lambda s, k: tbptt._window(problem, jnp.asarray(THETA), s, k))(
            state, pairs.pair_keys(key, 2)
        )
        return state, terms.grad

    def run(keys):
        return jax.lax.scan(each, tbptt.init(problem, jnp.asarray(THETA), keys[0]), keys)[1]

    grads = np.asarray(jax.jit(run)(keys))
    units = grads / np.linalg.norm(grads, axis=-1, keepdims=True)
    for window in (3, 4):
        wanted = units[[window, window - 1, window - 2, window - 3]].swapaxes(0, 1)
        np.testing.assert_allclose(states.recent[window], wanted, rtol=1e-9)


VECTORS = np.random.default_rng(0).standard_normal((3, 5))


@pytest.mark.parametrize(
    ("vectors", "rank"),
    [
        (VECTORS, 3),
        (VECTORS[[0, 0, 1]], 2),
        (VECTORS[[0, 0, 1]] + 1e-6 * VECTORS[[2, 0, 0]], 2),  # nearly dependent
        (np.concatenate([VECTORS[:1], np.zeros((2, 5))]), 1),
        (0 * VECTORS, 0),
    ],
)
def test_the_covariance_of_guided_noise(vectors, rank):
    """a I + (1 - a) (P / k) U U^T, from what the noise makes of each unit vector; I where there is no guide."""
    a, k, p = 0.3, *vectors.shape
    on_each = jax.vmap(lambda x, y: guided_es.guide(x, y, jnp.asarray(vectors), a))
    columns = on_each(jnp.eye(p + k)[:, :p], jnp.eye(p + k)[:, p:])
    basis = np.linalg.svd(vectors)[2][:rank]
    wanted = a * np.eye(p) + (1 - a) * p / rank * basis.T @ basis if rank else np.eye(p)
    np.testing.assert_allclose(columns.T @ columns, wanted, atol=1e-5)
    np.testing.assert_allclose(np.trace(columns.T @ columns), p, rtol=1e-9)  # as large as isotropic noise


def test_rounding_does_not_turn_the_noise():
    """The eigenvectors of two vectors at a right angle turn with their last digits; layouts must agree all the same."""
    vectors, noise = np.eye(3)[:2], jnp.asarray([0.5, -2.0])
    tiny = 1e-12 * np.array([[0, 1, 0], [1, 0, 0]])
    one, other = (guided_es.guide(jnp.zeros(3), noise, jnp.asarray(vectors + sign * tiny), 0.5) for sign in (1, -1))
    np.testing.assert_allclose(one, other, atol=1e-9)
    np.testing.assert_allclose(one, np.sqrt(0.5 * 3 / 2) * np.array([0.5, -2, 0]), atol=1e-9)


def test_the_mean_of_guided_es_is_the_covariance_times_the_gradient(monkeypatch):
    """For a linear loss, with the guide (3, 4) / 5 of P = 2 numbers."""
    estimator = GuidedES(num_pairs=1, sigma=SIGMA, isotropic=0.3, num_gradients=1, **ONE_STEP)
    gradient, guide = np.array([2.0, -1.0]), np.array([0.6, 0.8])
    problem = SMOOTH._replace(step=lambda theta, state, key: (state, theta @ gradient))
    state = jax.tree.map(lambda x: x[0], estimator.init(problem, jnp.asarray(THETA), jax.random.key(0)))
    state = state._replace(recent=jnp.asarray(guide)[None])

    def grad(noise):
        monkeypatch.setattr(
            evolution, "draw_noise", lambda key, sigma, like: noise[:2] if like.size == 2 else noise[2:]
        )
        return estimator._window(problem, jnp.asarray(THETA), state, jax.random.key(1))[0].grad

    mean = toys.gauss_hermite_mean(grad, (3,), SIGMA)
    covariance = 0.3 * np.eye(2) + 0.7 * 2 / 1 * np.outer(guide, guide)
    np.testing.assert_allclose(mean, covariance @ gradient, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GuidedES, {"isotropic": 0.0}, "above 0 and at most 1"),
        (GuidedES, {"isotropic": 1.5}, "above 0 and at most 1"),
        (GuidedES, {"num_gradients": 0}, "num_gradients must be at least 1"),
        (InverseVariance, {"pair_shaping": "rank"}, "needs their size"),
    ],
)
def test_settings_that_make_no_sense(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)


@pytest.mark.parametrize("name", ["inverse_variance", "guided_es"])
def test_a_final_loss_and_a_problem_without_derivative_are_refused(name):
    for fields, message in (({"final_loss": True}, "final-loss"), ({"differentiable": False}, "follows derivatives")):
        with pytest.raises(InputError, match=f"^{name} .*{message}"):
            toys.make(name).init(toys.linear(**fields), jnp.asarray(0.7), jax.random.key(0))
