"""The example of the pages on estimators: its closed forms are right, and the methods do what the pages say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs.estimators.closed_form import THETA, T, estimates, exact_gradient, problem
from lopt.estimators import BPTT, PES, TBPTT
from lopt.horizons import Horizon


@pytest.mark.parametrize("final", [False, True])
def test_the_closed_form_is_the_gradient_by_differentiation(final):
    inner = problem(final=final)

    def mean_loss(theta):
        def step(state, key):
            return inner.step(theta, state, key)

        state = inner.init(theta, jax.random.key(0), jnp.int32(T))
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(0), T))[1].sum() / T

    np.testing.assert_allclose(jax.grad(mean_loss)(THETA), exact_gradient(final=final), rtol=1e-5)


@pytest.mark.thorough
def test_backpropagation_is_exact_and_truncated_is_biased_by_what_it_does_not_see():
    exact = estimates(BPTT(num_pairs=1, horizon=Horizon(T, T)))
    np.testing.assert_allclose(exact, np.broadcast_to(exact_gradient(), exact.shape), rtol=1e-5)
    biased = estimates(TBPTT(num_pairs=1, truncation=5, horizon=Horizon(T, T), staggered=False))
    t = np.arange(1, T + 1)
    within = (t - 1) % 5 + 1  # steps since the window's start, through which alone theta is seen to act
    seen = 2 / T * (within[:, None] * (t[:, None] * np.asarray(THETA) - 1)).sum(0)
    np.testing.assert_allclose(biased.mean(0), seen, rtol=1e-4)


@pytest.mark.thorough
def test_pes_is_unbiased():
    found = estimates(PES(num_pairs=1, sigma=0.01, truncation=5, horizon=Horizon(T, T), staggered=False))
    error = found.std(0) / len(found) ** 0.5
    assert (error < 0.1 * np.abs(exact_gradient())).all()
    assert (np.abs(found.mean(0) - exact_gradient()) < 4 * error).all()
