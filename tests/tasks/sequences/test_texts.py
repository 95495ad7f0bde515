"""Language models: what is read and drawn, the networks against numpy in float64, and none sees what is to come."""

import math

import jax
import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks.sequences import text_family as texts
from tasks.sequences.networks import NUM_HEADS
from tasks.sequences.text_rnn import TextRNN
from tasks.sequences.text_transformer import TextTransformer

SMALL = [
    TextRNN(width=5, length=7, batch_size=3),
    TextRNN(width=5, length=7, batch_size=3, cell="gru"),
    TextTransformer(width=8, length=7, batch_size=3),
]
NAMES = ["lstm", "gru", "transformer"]


@pytest.fixture
def made_up(monkeypatch):
    """Stands in for the texts: a function that sets the symbols of each split."""

    def use(**symbols):
        monkeypatch.setattr(texts.datasets, "load_text", lambda name, data_dir, seed, block: symbols)

    return use


def params_and_tokens(family):
    """Params in which nothing is 0 or 1, and two sequences of random symbols."""
    params = jax.jit(family.task({}).init)(jax.random.key(1))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: np.asarray(x) + rng.normal(0, 0.3, x.shape).astype(np.float32), params)
    return params, rng.integers(0, 97, (2, family.length + 1)).astype(np.int32)


def test_batches_are_stretches_of_their_split(made_up):
    made_up(**{split: (np.arange(10 + i, dtype=np.uint8) + 20 * i) for i, split in enumerate(SPLITS)})
    family = TextRNN(length=4, batch_size=6000)
    data = family.load()
    draw = jax.jit(family.sample_batch, static_argnames="split")
    for i, split in enumerate(SPLITS):
        tokens = np.asarray(draw(data, jax.random.key(3), {}, split=split)["tokens"])
        assert (tokens.shape, tokens.dtype) == ((6000, 5), np.int32)
        first = tokens[:, 0] - 20 * i
        np.testing.assert_array_equal(tokens, 20 * i + first[:, None] + np.arange(5))
        counts = np.bincount(first)
        assert len(counts) == 6 + i  # the last sequence ends with the text
        np.testing.assert_allclose(counts, 6000 / len(counts), atol=4 * 30)  # standard deviation at most 29
    np.testing.assert_array_equal(draw(data, jax.random.key(3), {}, split="test")["tokens"], tokens)


def test_load_passes_the_block_on_and_refuses_a_short_text(monkeypatch):
    asked = []

    def load_text(name, data_dir, *, seed, block):
        asked.append((name, data_dir, seed, block))
        return {split: np.zeros(33 if split == "train" else 20, np.uint8) for split in SPLITS}

    monkeypatch.setattr(texts.datasets, "load_text", load_text)
    assert TextRNN(length=19, data_dir="there").load(3, 4)["train"].shape == (33,)
    assert asked == [("python_docs", "there", 3, 4)]
    message = r"split 'meta' of 'python_docs' has 20 symbols, and length=20 needs 21.*choose a smaller length"
    with pytest.raises(InputError, match=message):
        TextTransformer(length=20).load()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def lstm(params, tokens):
    """[L] -> [L, 97], one sequence and one gate at a time."""
    width = len(params["embed"]["embedding"][0])
    hidden, memory, outputs = np.zeros(width), np.zeros(width), []
    for token in tokens:
        x = dense(params["input"], params["embed"]["embedding"][token]) + hidden @ params["recurrent"]["kernel"]
        i, f, g, o = (x[k * width : (k + 1) * width] for k in range(4))
        memory = sigmoid(f + 1) * memory + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(memory)
        outputs.append(dense(params["readout"], hidden))
    return np.stack(outputs)


def gru(params, tokens):
    width = len(params["embed"]["embedding"][0])
    hidden, outputs = np.zeros(width), []
    for token in tokens:
        x = dense(params["input"], params["embed"]["embedding"][token]).reshape(3, width)
        h = (hidden @ params["recurrent"]["kernel"]).reshape(3, width)
        r, z = sigmoid(x[0] + h[0]), sigmoid(x[1] + h[1])
        hidden = z * hidden + (1 - z) * np.tanh(x[2] + r * h[2])
        outputs.append(dense(params["readout"], hidden))
    return np.stack(outputs)


def layer_norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return layer["scale"] * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + layer["bias"]


def transformer(params, tokens):
    x = params["embed"]["embedding"][tokens] + params["embedding"][: len(tokens)]
    width = x.shape[1]
    size = width // NUM_HEADS
    for layer in range(2):
        attention = params[f"attention_{layer}"]
        projected = dense(attention["query_key_value"], layer_norm(params[f"attention_norm_{layer}"], x))
        mixed = np.zeros_like(x)
        for head in range(NUM_HEADS):
            columns = slice(head * size, (head + 1) * size)
            q, k, v = (projected[:, part * width : (part + 1) * width][:, columns] for part in range(3))
            for t in range(len(tokens)):
                weights = np.exp(k[: t + 1] @ q[t] / math.sqrt(size))
                mixed[t, columns] = weights @ v[: t + 1] / weights.sum()
        x = x + dense(attention["out"], mixed)
        y = dense(params[f"expand_{layer}"], layer_norm(params[f"mlp_norm_{layer}"], x))
        gelu = y / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + dense(params[f"contract_{layer}"], gelu)
    return dense(params["readout"], layer_norm(params["norm"], x))


@pytest.mark.parametrize(("family", "forward"), [*zip(SMALL, (lstm, gru, transformer), strict=True)], ids=NAMES)
def test_networks_agree_with_numpy_and_are_causal(family, forward):
    params, tokens = params_and_tokens(family)
    task = family.task({})

    @jax.jit
    def run(params, tokens):
        key, batch = jax.random.key(0), {"tokens": tokens}
        logits = family.network().apply({"params": params}, tokens[:, :-1])
        return logits, task.loss(params, key, batch), task.metrics(params, key, batch)["accuracy"]

    exact = jax.tree.map(lambda x: x.astype(np.float64), params)
    expected = np.stack([forward(exact, row) for row in tokens[:, :-1]])
    got, loss, _ = (np.asarray(x) for x in run(params, tokens))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)

    # Another symbol at place 4 changes what is said from there on, and nothing before.
    changed = tokens.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 97
    other = np.asarray(run(params, changed)[0])
    np.testing.assert_array_equal(other[:, :4], got[:, :4])
    assert (np.abs(other[:, 4:] - got[:, 4:]).max(-1) > 1e-3).all()

    probability = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    picked = np.take_along_axis(probability, tokens[:, 1:, None], -1)
    np.testing.assert_allclose(loss, -np.log(picked).mean(), rtol=1e-4)
    tokens[0, 1:4] = expected[0, :3].argmax(-1)  # the network reads other symbols after the first: one hit is sure
    logits, _, accuracy = run(params, tokens)
    right = (np.asarray(logits).argmax(-1) == tokens[:, 1:]).mean()
    assert right > 0
    np.testing.assert_allclose(accuracy, right, rtol=1e-6)


@pytest.mark.parametrize("family", [TextRNN(width=64), TextRNN(cell="gru"), TextTransformer()], ids=NAMES)
def test_initial_params(family):
    task = family.task({})
    params = jax.jit(task.init)(jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kind = path[-1].key
        if kind in ("kernel", "embedding"):
            recurrent = isinstance(family, TextRNN)
            std = leaf.shape[0] ** -0.5 if kind == "kernel" else 1.0 if recurrent else 0.02
            np.testing.assert_allclose(leaf.std(), std, rtol=0.1)  # at least 1024 entries: 2 % a standard deviation
            assert abs(float(leaf.mean())) < 0.15 * std
        else:
            np.testing.assert_array_equal(leaf, float(kind == "scale"))
    assert task.normalize(math.log(97)) == pytest.approx(1)


def test_names_and_bad_settings():
    assert TextRNN().name == "text_rnn/python_docs"
    assert TextRNN(dataset="kjv", cell="gru", length=8).name == "text_rnn/kjv:length=8:cell=gru"
    assert TextTransformer(width=64, data_dir="x").name == "text_transformer/python_docs:width=64"
    with pytest.raises(InputError, match=r"unknown cell 'ltsm'. Did you mean 'lstm'"):
        TextRNN(cell="ltsm")
    with pytest.raises(InputError, match=r"length must be a whole number of at least 1, not 0"):
        TextRNN(length=0)
    with pytest.raises(InputError, match=r"width must be a multiple of the 4 heads, not 30"):
        TextTransformer(width=30)


def test_reads_a_real_text(tmp_path):
    family = TextTransformer(length=100, batch_size=2, data_dir=str(tmp_path))
    assert family.streams is False
    tokens = np.asarray(family.sample_batch(family.load(), jax.random.key(0), {}, "train")["tokens"])
    assert tokens.shape == (2, 101)
    words = texts.datasets.decode(tokens.astype(np.uint8).ravel())
    assert 0.5 < np.mean([letter.isalpha() for letter in words]) < 0.95
