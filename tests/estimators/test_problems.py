"""What does not fit is refused in words, by every estimator, when it starts and before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.estimators import ESTIMATORS, problems
from lopt.names import InputError
from lopt.types import InnerProblem
from tests.estimators import toys

THETA, KEY = jnp.asarray([0.3, -0.4], jnp.float32), jax.random.key(0)


def init(theta, key, horizon):
    return {"s": theta.sum(), "t": jnp.zeros((), jnp.int32)}


def step(theta, state, key):
    return {"s": state["s"] + theta.sum(), "t": state["t"] + 1}, state["s"]


def evaluate(theta, state, key):
    return state["s"]


def problem(name, **functions):
    return InnerProblem(**{"init": init, "step": step, "evaluate": evaluate} | functions,
                        final_loss=name == "pes_telescoping")  # fmt: skip


def loss_of(loss):
    return {"step": lambda theta, state, key: (step(theta, state, key)[0], loss(state["s"]))}


def next_state(change):
    return {"step": lambda theta, state, key: (change(state), state["s"])}


WRONG = {
    "loss per example": (loss_of(lambda s: jnp.stack([s, s])), r"the loss of step.* scalar, not float32\[2\]"),
    "loss [1]": (loss_of(lambda s: s[None]), r"not float32\[1\]"),
    "loss counts": (loss_of(lambda s: (s > 0).sum()), r"not int32\[\].*convert counts"),
    "loss bool": (loss_of(lambda s: s > 0), r"not bool\[\]"),
    "loss with aux": (loss_of(lambda s: (s, {})), "not a tuple"),
    "no loss": ({"step": lambda *args: step(*args)[0]}, r"must return \(state, loss\), not a dict"),
    "three results": ({"step": lambda *args: (*step(*args), 1)}, r"must return \(state, loss\), not a tuple"),
    "dtype": (next_state(lambda x: {**x, "t": x["t"] + 1.0}), r"state\['t'\] was int32\[\] and became float32\[\]"),
    "shape": (next_state(lambda x: {**x, "s": x["s"][None]}), r"state\['s'\] was float32\[\] and became float32\[1\]"),
    "structure": (next_state(lambda x: {"s": x["s"]}), r"must return a state like .*'t'"),
    "evaluate": ({"evaluate": lambda theta, state, key: state["s"][None]}, r"evaluate.* not float32\[1\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_problems(case):
    functions, message = WRONG[case]
    for name in ESTIMATORS:
        estimator = toys.make(name)
        with pytest.raises(InputError, match=message):
            jax.eval_shape(lambda key, x=estimator, name=name: x.init(problem(name, **functions), THETA, key), KEY)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_right_one_is_taken_and_the_answer_is_as_documented(name):
    """grad like theta, loss a scalar, info scalars; every leaf of the state has the axis of the pairs."""
    estimator, theta = toys.make(name, num_pairs=3), {"a": THETA, "b": jnp.zeros((), jnp.bfloat16)}

    def run(key):
        own = problem(name, init=lambda theta, key, horizon: init(theta["a"], key, horizon),
                      step=lambda theta, state, key: step(theta["a"], state, key))  # fmt: skip
        state = estimator.init(own, theta, key)
        return state, estimator.estimate(own, theta, state, key)

    before, (answer, after) = jax.eval_shape(run, KEY)
    form = jax.tree.map(lambda x: (x.shape, x.dtype), (theta, before))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (answer.grad, after)) == form
    assert {x.shape for x in jax.tree.leaves((answer.loss, answer.info))} == {()}
    assert {x.shape[0] for x in jax.tree.leaves(after)} == {3}


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        ({"a": jnp.ones(2), "n": jnp.ones(3, jnp.int32)}, r"theta\['n'\] is int32\[3\].*outside of theta"),
        ({"a": jnp.ones(2, jnp.complex64)}, r"theta\['a'\] is complex64\[2\]"),
        ({"a": "word"}, r"theta\['a'\] is a str"),
        ({"a": 3}, r"theta\['a'\] is a int"),
        ({}, "holds no number"),
        ({"a": jnp.zeros((0, 3))}, "holds no number"),
    ],
)
def test_thetas(theta, message):
    for name in ESTIMATORS:
        with pytest.raises(InputError, match=message):
            toys.make(name).init(problem(name), theta, KEY)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_old_keys(name):
    old = jax.random.PRNGKey(0)
    with pytest.raises(InputError, match=r"one key, as jax\.random\.key\(0\) makes it, not uint32\[2\]"):
        toys.make(name).init(problem(name), THETA, old)
    with pytest.raises(InputError, match=r"one key, as jax\.random\.key\(0\) makes it, not uint32\[2\]"):
        toys.make(name).estimate(problem(name), THETA, (), old)


@pytest.mark.parametrize("key", [jax.random.split(KEY), 0, np.uint32(0)])
def test_keys(key):
    with pytest.raises(InputError, match="must be one key"):
        problems.check_key(key)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_state_of_other_pairs(name):
    def run(key):
        state = toys.make(name, num_pairs=2).init(problem(name), THETA, key)
        return toys.make(name, num_pairs=3).estimate(problem(name), THETA, state, key)

    with pytest.raises(InputError, match=r"leading axis of its num_pairs, 3, .*state of this estimator's init"):
        jax.eval_shape(run, KEY)


def test_checks_trace_a_function_once():
    """JAX keeps the shapes that a check has evaluated, so the checks of unrolls cost nothing more."""
    calls = []

    def counted(theta, state, key):
        calls.append(None)
        return step(theta, state, key)

    own = problem("pes", step=counted)
    pes = toys.make("pes")
    jax.eval_shape(lambda key: pes.estimate(own, THETA, pes.init(own, THETA, key), key), KEY)
    assert len(calls) == 2  # the check, and the loop
