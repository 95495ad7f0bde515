"""Small inner problems whose gradients are known, and trajectories of one pair under chosen noise."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.estimators import ESTIMATORS, evolution, pairs
from lopt.horizons import Horizon
from lopt.types import InnerProblem


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


class Dials(NamedTuple):
    """What `dialled` does, as numbers, so that one compiled program serves many tests.

    Attributes:
      slope, curve, noise: s_0 = 0, s' = s + slope theta + curve theta^2 + noise(own key) noise.
      direct, scale, shift: the loss is scale (s + direct theta) + shift, of s before the update.
      final: 1 where the loss is 0 but for the last step's, which is of s after the update.
      bound: for a theta above it the loss is NaN.
      bad: share of the trajectories whose loss is NaN, and share of those whose gradient is not finite.
    """

    slope: Any = 1.0
    curve: Any = 0.0
    noise: Any = 0.0
    direct: Any = 0.0
    scale: Any = 1.0
    shift: Any = 0.0
    final: Any = 0.0
    bound: Any = np.inf
    bad: Any = 0.0


def cheap_noise(key: jax.Array) -> jax.Array:
    """A number in [0, 2) that is quick to compile."""
    return (jax.random.key_data(key) / 2.0**32).sum()


def dialled(dials: Dials, **fields: Any) -> InnerProblem:
    """A scalar problem that its `dials` turn into several; the state has a key, integers and flags in it."""

    def init(theta, key, horizon):
        bad = jax.random.key_data(key) / 2.0**32 < dials.bad
        return {"s": 0 * theta, "t": jnp.zeros((), jnp.int32), "horizon": horizon, "key": key, "bad": bad}

    def step(theta, state, key):
        bad_loss, bad_gradient = state["bad"]
        moved = dials.slope * theta + dials.curve * theta**2 + dials.noise * cheap_noise(state["key"])
        s, t = state["s"] + moved, state["t"] + 1
        loss = jnp.where(dials.final > 0, jnp.where(t == state["horizon"], s, 0), state["s"])
        loss += (
            dials.direct * theta + jnp.sqrt(jnp.where(bad_gradient, 0 * theta, 1)) - 1
        )  # at 0 the slope is infinite, times 0
        loss = jnp.where(bad_loss | (theta > dials.bound), jnp.nan, dials.scale * loss + dials.shift)
        return {**state, "s": s, "t": t, "key": key}, loss

    return InnerProblem(init, step, evaluate=lambda theta, state, key: state["s"], **fields)


def three_estimates(estimator: Any, **fields: Any) -> Callable[..., Any]:
    """Jitted `(theta, **dials) -> answers`, the first three at a fixed theta on the problem with these dials."""

    @jax.jit
    def run(theta, dials):
        problem = dialled(dials, **fields)

        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer

        state = estimator.init(problem, theta, jax.random.key(0))
        return jax.lax.scan(one, state, jax.random.split(jax.random.key(1000), 3))[1]

    return lambda theta, **dials: run(jnp.float32(theta), jax.tree.map(jnp.float32, Dials(**dials)))


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
