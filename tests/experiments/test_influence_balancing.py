"""Influence balancing: its closed forms, its loss at the end of windows, and the weaker finding of a short run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import influence_balancing
from experiments.influence_balancing import OPTIMUM, SIZE, A, V, influence, problem, true_loss
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon


def test_the_limit_is_minus_six_thetas():
    np.testing.assert_allclose(np.linalg.solve(np.eye(SIZE) - A, V)[0], -6, rtol=1e-12)


def test_short_windows_see_the_opposite_sign():
    influences = {k: influence(k) for k in (1, 10, 40, 41, 100)}
    assert influences[40] > 0 > influences[41]
    expected = {1: 1.0, 10: 10.0, 40: 0.566, 41: -0.219, 100: -6.0}
    assert influences == pytest.approx(expected, abs=1e-3)
    assert max(range(1, 60), key=influence) in range(18, 23)


@pytest.mark.usefixtures("x64")
def test_true_loss_is_that_of_the_limit():
    thetas = jnp.asarray([0.5, 0.0, OPTIMUM])
    np.testing.assert_allclose(true_loss(thetas), 0.5 * (6 * thetas + 1) ** 2, rtol=1e-10, atol=1e-20)
    np.testing.assert_allclose(jax.grad(true_loss)(jnp.asarray(0.5)), 24, rtol=1e-8)


def test_only_the_last_step_of_a_window_has_a_loss():
    balancing = problem(4)
    key = jax.random.key(0)
    theta = jnp.asarray(0.5)
    state = balancing.init(theta, key, jnp.asarray(100))
    losses, expected, s = [], [], np.ones(SIZE)
    for t in range(1, 9):
        state, loss = balancing.step(theta, state, key)
        losses.append(float(loss))
        s = A @ s + 0.5 * V
        expected.append(0.5 * (s[0] - 1) ** 2 if t % 4 == 0 else 0.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[3] > 0
    assert losses[7] > 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("truncation", [1, 10, 100])
def test_tbptt_estimates_the_closed_form(truncation):
    """At the steady state of theta the gradient of a window's mean loss is (s[0] - 1) S_K / K."""
    theta = jnp.asarray(0.5)
    # From ones, the state is within 1e-12 of its limit after 400 steps.
    estimator = ESTIMATORS["tbptt"](
        num_pairs=1, truncation=truncation, horizon=Horizon(10_000, 10_000), staggered=False
    )
    balancing = problem(truncation)
    state = estimator.init(balancing, theta, jax.random.key(0))
    estimate = jax.jit(lambda state: estimator.estimate(balancing, theta, state, jax.random.key(1)))
    for _ in range(400 // truncation + 1):
        answer, state = estimate(state)
    np.testing.assert_allclose(answer.grad, (-6 * 0.5 - 1) * influence(truncation) / truncation, rtol=1e-9)


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert influence_balancing.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    final = {label: method["findings"][0]["reached"] for label, method in numbers["methods"].items()}
    assert max(final[label] for label in ("pes", "nres", "rtrl")) < 0.1
    assert min(final[label] for label in ("truncated_es", "tbptt 1")) > 8
    assert final["truncated_es"] == pytest.approx(final["tbptt 1"], rel=0.2)
    assert numbers["precision"] == "float64"
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert jnp.ones(()).dtype == jnp.float32  # the command's precision is its own
