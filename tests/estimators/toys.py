"""Small inner problems whose gradients are known, and trajectories of one pair under chosen noise."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.estimators import ESTIMATORS, evolution, pairs
from lopt.horizons import Horizon
from lopt.testing.estimators import Dials, cheap_noise, dialled, three_estimates
from lopt.types import InnerProblem

__all__ = ["Dials", "cheap_noise", "dialled", "three_estimates"]  # of lopt.testing, and below


def make(name: str, *, horizon: Horizon = Horizon(4, 4), **settings: Any) -> Any:
    """The estimator of this name, with windows of two steps; settings that it does not have are left out."""
    kind = ESTIMATORS[name]
    known = {field.name for field in dataclasses.fields(kind)}
    settings = {"truncation": 2, "horizon": horizon} | settings
    return kind(**{key: value for key, value in settings.items() if key in known})


def linear(**fields: Any) -> InnerProblem:
    """s' = s + theta, loss s before the update: J = theta (T - 1) / 2 for a fixed horizon."""

    def init(theta, key, horizon):
        del key, horizon
        return jnp.zeros_like(theta)

    def step(theta, state, key):
        del key
        return state + theta, state

    return InnerProblem(init, step, **fields)


def chain(*, final: bool) -> InnerProblem:
    """s_t = theta s_{t-1}, s_0 = 1, loss s_t after the update, or only at the horizon (check 8)."""

    def init(theta, key, horizon):
        del key
        return jnp.ones_like(theta), jnp.zeros((), jnp.int32), horizon

    def step(theta, state, key):
        del key
        s, t, horizon = state
        s, t = theta * s, t + 1
        loss = jnp.where(t == horizon, s, 0) if final else s
        return (s, t, horizon), loss

    return InnerProblem(init, step, evaluate=lambda theta, state, key: state[0], final_loss=final)


def linear_quadratic() -> InnerProblem:
    """s' = A s + B theta + noise(key), s_0 = C theta, loss |s'|^2: quadratic in all copies of theta; s has size 3."""
    generator = np.random.default_rng(2)
    a, b, c = (jnp.asarray(generator.standard_normal(shape), float) for shape in ((3, 3), (3, 2), (3, 2)))

    def init(theta, key, horizon):
        del key, horizon
        return c @ theta

    def step(theta, state, key):
        state = 0.5 * a @ state + b @ theta + 2 * cheap_noise(key) - 2
        return state, state @ state

    return InnerProblem(init, step)


@functools.partial(jax.jit, static_argnums=1)
def exact_gradient(theta: jax.Array, horizon: int, key: jax.Array) -> jax.Array:
    """d/dtheta of the mean loss of a trajectory of `linear_quadratic`, by reverse mode; step t uses fold_in(key, t)."""
    problem = linear_quadratic()

    def mean_loss(theta):
        def body(state, t):
            return problem.step(theta, state, jax.random.fold_in(key, t))

        return jax.lax.scan(body, problem.init(theta, key, jnp.asarray(horizon)), jnp.arange(horizon))[1].mean()

    return jax.grad(mean_loss)(theta)


def windows_under(
    estimator: Any, problem: InnerProblem, theta: jax.Array, steps_key: jax.Array, monkeypatch
) -> Callable[[jax.Array], jax.Array]:
    """`noises [num_windows, P] -> estimates [num_windows, P]` of one pair's first windows, under chosen noise.

    The steps of window w use fold_in(steps_key, w K + i), so that a whole trajectory has the data of `exact_gradient`.
    """
    truncation = estimator.truncation

    def unroll(problem, theta, state, key, num_steps):
        def body(i, carry):
            state, loss = problem.step(theta, carry[0], jax.random.fold_in(steps_key, key + i))
            return state, carry[1] + loss

        state, loss = jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(())))
        return pairs.Unrolled(state, loss, jnp.zeros((), jnp.int32))

    def window(state, window):
        w, noise = window
        keys = pairs.WindowKeys(steps_key, steps_key, w * truncation, steps_key, steps_key)
        monkeypatch.setattr(pairs, "unroll", unroll)
        monkeypatch.setattr(pairs, "window_keys", lambda _: keys)
        monkeypatch.setattr(evolution, "draw_noise", lambda *_: noise)
        terms, state = estimator._window(problem, theta, state, None)
        return state, terms.grad

    @jax.jit
    def run(noises):
        start = jax.tree.map(lambda x: x[0], estimator.init(problem, theta, jax.random.key(0)))
        return jax.lax.scan(window, start, (jnp.arange(len(noises)), noises))[1]

    return run


def gauss_hermite_mean(
    function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], sigma: float, num_nodes: int = 4
) -> jax.Array:
    """E[function(noise)] over noise ~ N(0, sigma^2) of this shape, exact for polynomials of degree 2 num_nodes - 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    size = int(np.prod(shape))
    grid = np.stack(np.meshgrid(*[sigma * nodes] * size, indexing="ij"), -1).reshape(-1, *shape)
    product = np.stack(np.meshgrid(*[weights / weights.sum()] * size, indexing="ij"), -1).reshape(-1, size).prod(-1)
    values = jax.jit(lambda noises: jax.lax.map(function, noises, batch_size=256))(jnp.asarray(grid))
    return jnp.tensordot(jnp.asarray(product), values, 1)


def slow_but_for(names, *fast):
    """Parameters of a costly test: the ones named are fast tests, the others slow ones."""
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in names]
