"""Types through a run of estimates stay, in single and in double precision: a second call finds what the first did."""

import jax
import jax.numpy as jnp
import pytest

from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.types import InnerProblem
from tests.estimators import toys
from tests.estimators.test_restarts import RESTARTING

F32, F64 = jnp.float32, jnp.float64
# All that depends on the number of estimates: schedules compute in the widest type that is switched on.
SCHEDULES = {"horizon": Horizon(2, 8, growth=5), "sigma_last": 0.1, "sigma_steps": 3}


def problem(dtype, *, final) -> InnerProblem:
    """A state and a loss of this dtype, whatever theta's is; a key, an integer and a flag move along."""

    def init(theta, key, horizon):
        start = {"s": theta["a"].sum().astype(dtype) * jnp.ones(3, dtype), "flag": horizon > 3, "key": key}
        return {**start, "t": jnp.zeros((), jnp.int32)}

    def step(theta, state, key):
        s = jnp.tanh(state["s"] / 2 + theta["a"].astype(dtype).sum() + theta["b"].astype(dtype))
        return {"s": s, "flag": ~state["flag"], "key": key, "t": state["t"] + 1}, (s**2).sum()

    return InnerProblem(init, step, evaluate=lambda theta, state, key: (state["s"] ** 2).sum(), final_loss=final)


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def check_types(name, theta_dtype, problem_dtype, **settings):
    """One trace: `init`, then estimates in a `scan` and in a `while_loop`, both of which refuse a type that changes."""
    estimator = toys.make(name, num_pairs=2, **SCHEDULES, **settings)
    own = problem(problem_dtype, final=name == "pes_telescoping")
    theta = {"a": jnp.ones(2, theta_dtype), "b": jnp.ones((), theta_dtype)}

    def run(theta, key):
        before = estimator.init(own, theta, key)

        def one(state, key):
            answer, state = estimator.estimate(own, theta, state, key)
            return state, answer

        after, answers = jax.lax.scan(one, before, jax.random.split(key, 2))
        return before, jax.lax.while_loop(lambda _: True, lambda x: one(x, key)[0], after), answers

    before, after, answers = jax.eval_shape(run, theta, jax.random.key(0))
    assert described(before) == described(after)
    assert jax.tree.map(lambda x: x.dtype, answers.grad) == jax.tree.map(lambda x: x.dtype, theta)
    assert not any(x.weak_type for x in jax.tree.leaves(answers))
    inner = {x.dtype for x in jax.tree.leaves(before) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert inner <= {jnp.dtype(theta_dtype), jnp.dtype(problem_dtype)}
    counts = {x.dtype for x in jax.tree.leaves(before) if jnp.issubdtype(x.dtype, jnp.integer)}
    assert counts == {jnp.dtype(jnp.int32)}
    assert answers.loss.dtype == problem_dtype


@pytest.mark.parametrize("name", ESTIMATORS)
def test_types_stay(name):
    check_types(name, F32, F32)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("theta_dtype", "problem_dtype"), [(F32, F32), (F64, F64), (F64, F32), (F32, F64)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_types_stay_under_x64(name, theta_dtype, problem_dtype):
    """Both thetas, with inner problems of their own dtype and of the other."""
    check_types(name, theta_dtype, problem_dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("theta_dtype", "problem_dtype"), [(F32, F32), (F64, F32), (F32, F64)])
@pytest.mark.parametrize("name", RESTARTING)
def test_types_stay_with_restarts(name, theta_dtype, problem_dtype):
    check_types(name, theta_dtype, problem_dtype, restarts=0.5)
