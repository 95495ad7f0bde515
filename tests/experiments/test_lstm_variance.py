"""The variance of PES on an LSTM: its theory against every window's exact gradients, and a short run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments import lstm_variance
from experiments.lstm_variance import TEXTS
from experiments.lstm_variance_problem import init_theta, lstm, pair_variance, problem, symbols, true_gradient
from experiments.text import SYMBOLS, encode, genesis

STEPS, WINDOWS = 12, 4


def test_text():
    assert len(set(SYMBOLS)) == len(SYMBOLS) == 50
    text = genesis()
    assert text.startswith("in the beginning god created the heaven and the earth. and the earth was")
    assert 50_000 < len(text) < 100_000
    assert "".join(SYMBOLS[i] for i in encode(text)) == text
    with pytest.raises(KeyError, match="A"):
        encode("An")


def test_three_texts():
    texts = {name: symbols(name, 1000) for name in TEXTS}
    assert {text.shape for text in texts.values()} == {(1001,)}
    assert len(set(texts["repeated"])) == 1
    counts = np.bincount(texts["random"], minlength=50)
    assert len(counts) == 50
    assert ((counts - 20.02) ** 2 / 20.02).sum() < 85  # chi-squared with 49 degrees of freedom: P = 0.001
    assert sum(x.size for x in init_theta().values()) == 770


@pytest.mark.usefixtures("x64")
def test_lstm_by_numpy():
    theta = {name: x.astype(np.float64) for name, x in init_theta().items()}
    text = symbols("genesis", STEPS)
    unrolled, key = problem(text), jax.random.key(0)
    state = unrolled.init(theta, key, jnp.asarray(STEPS))
    h, c = np.zeros(5), np.zeros(5)
    for t in range(STEPS):
        state, loss = unrolled.step(theta, state, key)
        gates = theta["embedding"][text[t]] @ theta["input"] + h @ theta["hidden"] + theta["bias"]
        f, i, o = 1 / (1 + np.exp(-gates[:15].reshape(3, 5)))
        c = f * c + i * np.tanh(gates[15:])
        h = o * np.tanh(c)
        logits = h @ theta["decoder"] + theta["decoder_bias"]
        np.testing.assert_allclose(loss, -np.log(np.exp(logits)[text[t + 1]] / np.exp(logits).sum()), rtol=1e-12)
    np.testing.assert_allclose(state[0], np.stack([h, c]), rtol=1e-12)


def window_gradients(theta: dict, text: np.ndarray) -> np.ndarray:
    """g[w, s], of the sum loss of window w with respect to the theta of window s, by forward over all of them."""
    flat_theta, unravel = ravel_pytree(theta)

    def losses(thetas):
        memory, sums = jnp.zeros((2, 5)), [jnp.zeros(())] * WINDOWS
        for t in range(STEPS):
            w = t * WINDOWS // STEPS
            memory, loss = lstm(unravel(thetas[w]), memory, text[t], text[t + 1])
            sums[w] += loss
        return jnp.stack(sums)

    return np.asarray(jax.jit(jax.jacrev(losses))(jnp.tile(flat_theta, (WINDOWS, 1))))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("text", ["genesis", "repeated"])
def test_theory_is_the_sum_over_pairs_of_windows(text):
    """sum_{v,w} P m sum_{s<=m} g[v,s] . g[w,s] + G[v,m] . G[w,m], with m = min(v, w), G[w,m] = sum_{s<=m} g[w,s]."""
    theta = {name: x.astype(np.float64) for name, x in init_theta().items()}
    g = window_gradients(theta, symbols(text, STEPS))
    total = 0.0
    for v in range(WINDOWS):
        for w in range(WINDOWS):
            m = min(v, w) + 1
            total += 770 * m * (g[v, :m] * g[w, :m]).sum() + g[v, :m].sum(0) @ g[w, :m].sum(0)
    gradient = g.sum((0, 1))
    predicted = pair_variance(theta, symbols(text, STEPS), WINDOWS)
    np.testing.assert_allclose(predicted, total / (gradient @ gradient), rtol=1e-10)
    np.testing.assert_allclose(true_gradient(theta, symbols(text, STEPS)), gradient / STEPS, rtol=1e-10, atol=1e-14)


def test_one_window():
    theta = init_theta()
    np.testing.assert_allclose(pair_variance(theta, symbols("random", STEPS), 1), 771, rtol=1e-5)


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert lstm_variance.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    reached = {label: method["findings"][0]["reached"] for label, method in numbers["methods"].items()}
    start = 771 / 40
    np.testing.assert_allclose([reached[f"pes {text} 1"] for text in TEXTS], start, rtol=0.3)
    assert reached["pes genesis 50"] > 3 * start
    assert reached["pes repeated 50"] < 0.7 * start
    assert reached["pes random 50"] > 10 * start
    assert numbers["methods"]["pes random 1"]["settings"]["theta"]["embedding"] == "float32[1, 50, 5]"
