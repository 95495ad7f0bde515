"""The methods that differentiate, and a small network as their inner problem."""

import jax
import jax.numpy as jnp
import numpy as np

from lopt.estimators import ESTIMATORS
from lopt.types import InnerProblem
from tests.estimators import toys

METHODS = [name for name, kind in ESTIMATORS.items() if not hasattr(kind, "sigma")]


def estimate(estimator, problem, theta, *, seed=0, num_estimates=1):
    """The mean of the first estimates at a fixed theta, and the last answer."""

    @jax.jit
    def run(theta):
        def one(state, key):
            answer, state = estimator.estimate(problem, theta, state, key)
            return state, answer

        keys = jax.random.split(jax.random.key(1000 + seed), num_estimates)
        _, answers = jax.lax.scan(one, estimator.init(problem, theta, jax.random.key(seed)), keys)
        return jax.tree.map(lambda x: x.mean(0), answers.grad), jax.tree.map(lambda x: x[-1], answers)

    return run(theta)


def network() -> InnerProblem:
    """s' = tanh(A s + B theta + noise) of size 3, s_0 = tanh(C theta + noise); a key, an integer and a flag move along.

    The loss reads theta, the state before and the state after.
    """
    generator = np.random.default_rng(0)
    a, b, c = (jnp.asarray(generator.standard_normal(shape), float) for shape in ((3, 3), (3, 2), (3, 2)))
    noise = toys.cheap_noise

    def init(theta, key, horizon):
        start = jnp.tanh(c @ theta + noise(key))
        count, flag = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return {"count": count, "flag": flag, "horizon": horizon, "key": key, "s": start}

    def step(theta, state, key):
        own = jax.random.fold_in(state["key"], state["count"])
        s = jnp.tanh(a @ state["s"] + b @ theta + noise(key) - noise(own))
        moved = {"count": state["count"] + 1, "flag": ~state["flag"], "horizon": state["horizon"], "key": own, "s": s}
        return moved, s @ s + state["s"][0] * theta[0] + jnp.where(state["flag"], theta[1] ** 2, 0)

    return InnerProblem(init, step)
