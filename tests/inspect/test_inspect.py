"""The numbers behind the pictures, for rules whose answers are known in closed form; and the command."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.inspect import __main__ as inspect
from lopt.inspect import probes
from lopt.optimizers.learnable_sgd import LearnableSGD
from lopt.trained.folders import shipped_folders
from lopt.trained.pretrained import load_pretrained

RATE, MOMENTUM = 0.3, 0.8
SGD = LearnableSGD(learning_rate=RATE, momentum=MOMENTUM)
THETA = SGD.init_theta(jax.random.key(0))
FAST = ("adafac_mlp_digits", "celo2_digits")


class SignDescent:
    """Update = -sign(gradient) - parameter - loss."""

    requires = frozenset({"params", "value"})

    def init(self, theta, params, *, num_steps):
        return ()

    def update(self, theta, grads, state, params, *, value):
        return jax.tree.map(lambda g, p: -jnp.sign(g) - p - value, grads, params), state


def test_response_of_momentum_is_linear():
    means, now = np.asarray([-1.0, 0.0, 2.0], np.float32), np.asarray([-2.0, 0.0, 1.0], np.float32)
    updates = probes.response(SGD, THETA, means, now)
    shape = (probes.HISTORY, 3, 3)
    noise = np.mean([probes.normal(0, draw, shape=shape) for draw in range(probes.DRAWS)], axis=0, dtype=np.float64)
    weights = MOMENTUM ** np.arange(probes.HISTORY, 0, -1)
    expected = -RATE * (np.tensordot(weights, means[None, :, None] + noise, 1) + now[None])
    np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-5)


def test_memory_of_momentum_decays_as_its_power():
    memory = probes.remember(SGD, THETA)
    np.testing.assert_allclose(memory.past, -RATE * MOMENTUM ** np.arange(probes.HISTORY), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(memory.param, 0, atol=1e-7)
    assert not memory.loss.any()


def test_memory_counts_the_jump_of_a_sign():
    """E[d sign(g) / dg] = 2 density(0) for g ~ N(0, 1), though the derivative is 0 wherever there is one."""
    memory = probes.remember(SignDescent(), {})  # type: ignore[arg-type]
    jump = math.sqrt(2 / math.pi)
    assert abs(memory.past[0] + jump) < 4 * memory.past_error[0] < 0.05
    # The residual of the line has the variance 1 - jump^2.
    np.testing.assert_allclose(memory.past_error, math.sqrt((1 - jump**2) / 4096), rtol=0.1)
    assert np.all(np.abs(memory.past[1:]) < 4 * memory.past_error[1:])
    assert abs(memory.param + 1) < 4 * memory.param_error
    np.testing.assert_allclose(memory.loss, -1, rtol=1e-5)


def test_effective_rate_of_plain_gradient_descent_is_its_rate():
    plain = LearnableSGD(learning_rate=0.1, momentum=1e-6)
    training = probes.train(plain, plain.init_theta(jax.random.key(0)), 20)
    np.testing.assert_allclose(training.rate, 0.1, rtol=1e-4)
    start = probes.normal(3, shape=probes.TRAINED).reshape(-1).astype(np.float64)
    np.testing.assert_allclose(training.loss[0], np.logspace(-2, 0, start.size) @ start**2 / 2, rtol=1e-5)
    assert training.loss[-1] < training.loss[0]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in shipped_folders()]
)
def test_every_picture_depends_on_theta(name):
    """No architecture is probed only with tensors that it leaves to Adam."""
    optimizer, theta = load_pretrained(name)[:2]
    random = np.random.default_rng(0)
    other = jax.tree.map(lambda x: x + 0.3 * random.standard_normal(x.shape, np.float32), theta)
    values = np.linspace(-2, 2, 5, dtype=np.float32)
    pictures = (
        lambda theta: probes.response(optimizer, theta, values, values),
        lambda theta: probes.train(optimizer, theta, 10).rate,
        lambda theta: probes.remember(optimizer, theta).past,
    )
    for data in pictures:
        ours, others = data(theta), data(other)
        assert np.abs(ours - others).max() > 1e-2 * np.abs(ours).max()


def test_command_draws_three_pictures(tmp_path, capsys):
    assert inspect.main(["demo_mlp", f"--out={tmp_path}", "--steps=20"]) == 0
    assert "mlp, 1,762 weights" in capsys.readouterr().out
    for name in ("response", "training", "memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("requires", [frozenset(), frozenset({"params", "value"})])
def test_memory_says_what_is_not_read(requires):
    memory = probes.Memory(np.zeros(probes.HISTORY), 0.0, np.zeros(probes.HISTORY), 0.0, np.zeros(4))
    texts = [text.get_text() for axes in inspect.draw_memory(memory, requires).axes for text in axes.texts]
    assert texts == ([] if requires else ["parameter:\nnot read", "loss:\nnot read"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown path"),
        (["demo_mlp", "--optimizer=absent.py:Rule"], "unknown file 'absent.py'"),
        (["demo_mlp", "--steps=0"], "at least 1"),
        (["demo_mlp", "--steps=1000000000"], "at most 1,000,000"),
        (["file.txt"], "another format, or is damaged; to load a run or an export, give its folder"),
        (["demo_mlp", "--out=file.txt"], "--out=file.txt: this is, or lies in, a file; give a folder"),
        (["demo_mlp", "--out=file.txt/inner"], "--out=file.txt/inner: this is, or lies in, a file; give a folder"),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("nothing of this kind")
    assert inspect.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
