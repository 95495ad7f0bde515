"""What the pictures are made of, against rules whose answers are known in closed form; and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import inspect
from lopt.optimizers.learnable_sgd import LearnableSGD

RATE, MOMENTUM = 0.3, 0.8
SGD = LearnableSGD(learning_rate=RATE, momentum=MOMENTUM)
THETA = SGD.init_theta(jax.random.key(0))


def test_response_of_momentum_is_linear():
    means, now = jnp.asarray([-1.0, 0.0, 2.0]), jnp.asarray([-2.0, 0.0, 1.0])
    updates = np.asarray(inspect.response(SGD, THETA, means, now))
    noise = np.asarray(jax.jit(lambda: jax.random.normal(jax.random.key(0), (inspect.HISTORY, 3, 3)))(), np.float64)
    past = np.asarray(means)[None, :, None] + noise
    weights = MOMENTUM ** np.arange(inspect.HISTORY, 0, -1)
    expected = -RATE * (np.tensordot(weights, past, 1) + np.asarray(now)[None])
    np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-5)


def test_memory_of_momentum_decays_as_its_power():
    memory = inspect.remember(SGD, THETA)
    np.testing.assert_allclose(memory.past, -RATE * MOMENTUM ** np.arange(inspect.HISTORY), rtol=1e-4, atol=1e-9)
    assert (memory.param, memory.loss) == (0.0, 0.0)


def test_effective_rate_of_plain_gradient_descent_is_its_rate():
    plain = LearnableSGD(learning_rate=0.1, momentum=1e-6)
    training = inspect.train(plain, plain.init_theta(jax.random.key(0)), 20)
    np.testing.assert_allclose(training.rate, 0.1, rtol=1e-4)
    start = np.asarray(jax.random.normal(jax.random.key(0), (inspect.DIMENSION,)), np.float64)
    np.testing.assert_allclose(training.loss[0], np.logspace(-2, 0, inspect.DIMENSION) @ start**2 / 2, rtol=1e-5)
    assert training.loss[-1] < training.loss[0]


def test_command_draws_three_pictures(tmp_path, capsys):
    assert inspect.main(["demo_mlp", f"--out={tmp_path}", "--steps=20"]) == 0
    assert "mlp, 1,762 weights" in capsys.readouterr().out
    for name in ("response", "training", "memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nothing"], "unknown path"), (["demo_mlp", "--steps=0"], "at least 1")]
)
def test_wrong_arguments_say_what_to_do(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inspect.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
