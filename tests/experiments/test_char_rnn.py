"""Training an RNN: its step against numpy, the copy task's chance and floor, exact gradients, a short run's finding."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments import char_rnn
from experiments.char_rnn import LAG, SYMBOLS, UNITS
from experiments.char_rnn_problem import copy_loss, copy_problem, init_theta, text_problem, texts, unigram_loss
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon

HORIZON = jnp.asarray(32)


def numpy_rnn(theta, memory, symbol, target):
    memory = np.tanh(theta["input"][symbol] + theta["hidden"].T @ memory + theta["bias"])
    weights = np.exp(theta["output"].T @ memory + theta["output_bias"])
    return memory, -np.log(weights[target] / weights.sum())


def delay_line(units: int, lag: int) -> dict[str, jax.Array]:
    """Unit i holds the sign of the symbol read i steps before, and unit `lag` is read out."""
    gain = 20.0
    return {
        "input": jnp.zeros((2, units)).at[:, 0].set(jnp.asarray([-gain, gain])),
        "hidden": gain * jnp.eye(units, k=1),
        "bias": jnp.zeros(units),
        "output": jnp.zeros((units, 2)).at[lag].set(jnp.asarray([-gain, gain])),
        "output_bias": jnp.zeros(2),
    }


@pytest.mark.usefixtures("x64")
def test_steps_of_the_copy_task_equal_numpys():
    theta = jax.tree.map(lambda x: x + 0.1, init_theta(jax.random.key(0), 3, UNITS))
    arrays = jax.tree.map(np.asarray, theta)
    problem = copy_problem(3, LAG)
    step = jax.jit(problem.step)
    state = problem.init(theta, jax.random.key(1), HORIZON)
    memory, seen = np.zeros(UNITS), []
    for t in range(6 * LAG):
        state, loss = step(theta, state, jax.random.fold_in(jax.random.key(2), t))
        seen.append(int(state.recent[0]))
        memory, expected = numpy_rnn(arrays, memory, seen[-1], seen[t - LAG] if t >= LAG else 0)
        np.testing.assert_allclose(loss, expected if t >= LAG else 0, rtol=1e-12)
    np.testing.assert_allclose(state.memory, memory, rtol=1e-12)
    assert set(seen) == {0, 1, 2}


def test_chance_and_floor_of_the_copy_task():
    judge = jax.jit(lambda theta: copy_loss(theta, LAG, 16, 40))
    perfect = delay_line(UNITS, LAG)
    np.testing.assert_allclose(judge(jax.tree.map(jnp.zeros_like, perfect)), np.log(SYMBOLS), rtol=1e-6)
    assert float(judge(perfect)) < 1e-6
    assert float(judge(delay_line(UNITS, LAG - 1))) > 5  # sure of the wrong symbol half of the time


def gradients(name: str, num_estimates: int, **settings) -> np.ndarray:
    """Estimates one after another on the copy task from 12 steps long trajectories, `[num_estimates, P]`."""
    problem, theta = copy_problem(SYMBOLS, LAG), init_theta(jax.random.key(0), SYMBOLS, UNITS)
    estimator = ESTIMATORS[name](num_pairs=2, horizon=Horizon(12, 12), **settings)

    def body(state, key):
        estimate, state = estimator.estimate(problem, theta, state, key)
        return state, ravel_pytree(estimate.grad)[0]

    state = estimator.init(problem, theta, jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), num_estimates)
    return np.asarray(jax.jit(lambda state: jax.lax.scan(body, state, keys))(state)[1])


@pytest.mark.usefixtures("x64")
def test_rtrl_is_exact_and_one_step_of_backpropagation_is_not():
    exact = gradients("bptt", 1)
    np.testing.assert_allclose(gradients("rtrl", 1, truncation=12, staggered=False), exact, rtol=1e-9, atol=1e-14)
    # In windows of one step both see the same symbols; before the lag is over nothing is to be told.
    rtrl, short = (gradients(name, 12, truncation=1, staggered=False) for name in ("rtrl", "tbptt"))
    assert not rtrl[:LAG].any()
    assert not short[:LAG].any()
    missed = np.linalg.norm((rtrl - short)[LAG:], axis=1) / np.linalg.norm(rtrl[LAG:], axis=1)
    assert missed.min() > 0.1


def test_text_is_read_symbol_by_symbol_and_around_its_end():
    text, valid = texts()
    problem = text_problem()
    theta = init_theta(jax.random.key(0), 37, UNITS)
    state = problem.init(theta, jax.random.key(1), HORIZON)
    step, memory = jax.jit(problem.step), np.zeros(UNITS)
    state = state._replace(place=jnp.asarray(len(text) - 2))
    for place in (-2, -1, 0):
        state, loss = step(theta, state, jax.random.key(2))
        memory, expected = numpy_rnn(jax.tree.map(np.asarray, theta), memory, text[place], text[place + 1])
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert text.max() == 36
    assert 8 < len(text) / len(valid) < 10
    assert 2.5 < unigram_loss() < 3.0  # English letters with spaces have about 2.8 nats


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert char_rnn.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    median = {label.split()[1]: method["findings"][1]["reached"] for label, method in numbers["methods"].items()}
    assert median["rtrl"] < 0.1
    assert max(median["rtrl"], median["pes"]) < median["tbptt"]
