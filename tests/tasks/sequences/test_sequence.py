"""Problems without data: each against its own statement, and a loss on the answers alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks.sequences.sequence import NO_ANSWER, PROBLEMS, Sequence


def batch_of(problem, length=5, key=0, split="train"):
    family = Sequence(problem=problem, length=length, batch_size=400)
    batch = jax.tree.map(np.asarray, family.sample_batch({}, jax.random.key(key), {}, split))
    assert batch["tokens"].dtype == batch["answers"].dtype == np.int32
    assert batch["tokens"].shape == batch["answers"].shape
    assert set(np.unique(batch["tokens"])) == set(range(PROBLEMS[problem].num_symbols))
    assert set(np.unique(batch["answers"])) - {NO_ANSWER} == set(range(PROBLEMS[problem].num_answers))
    return batch["tokens"], batch["answers"]


def test_copy():
    tokens, answers = batch_of("copy")
    assert tokens.shape == (400, 10)
    assert (tokens[:, 5] == 8).all()
    assert (answers[:, :5] == NO_ANSWER).all()
    np.testing.assert_array_equal(answers[:, 5:], tokens[:, :5])
    np.testing.assert_array_equal(tokens[:, 6:], answers[:, 5:-1])  # what was to be told is read next
    np.testing.assert_allclose(np.bincount(tokens[:, :5].ravel()), 250, atol=4 * 15)


def test_addition():
    tokens, answers = batch_of("addition")
    assert tokens.shape == (400, 17)
    assert (tokens[:, 5] == 10).all()
    assert (tokens[:, 11] == 11).all()
    powers = 10 ** np.arange(6)
    first, second = tokens[:, :5] @ powers[:5], tokens[:, 6:11] @ powers[:5]
    assert (answers[:, :11] == NO_ANSWER).all()
    np.testing.assert_array_equal(answers[:, 11:] @ powers, first + second)
    np.testing.assert_array_equal(tokens[:, 12:], answers[:, 11:-1])


def test_parity():
    bits, answers = batch_of("parity")
    assert bits.shape == (400, 5)
    for row, told in zip(bits, answers, strict=True):
        assert told.tolist() == [sum(row[: t + 1]) % 2 for t in range(5)]


def test_modular():
    tokens, answers = batch_of("modular")
    assert tokens.shape == (400, 9)
    assert (answers[:, 1::2] == NO_ANSWER).all()
    for row, told in zip(tokens.tolist(), answers.tolist(), strict=True):
        value = row[0]
        assert told[0] == value
        for t in range(2, 9, 2):
            value = {5: value + row[t], 6: value - row[t], 7: value * row[t]}[row[t - 1]] % 5
            assert told[t] == value


def test_splits_and_keys_give_other_batches():
    tokens = [batch_of("copy", length=12, split=split)[0] for split in SPLITS]
    tokens.append(batch_of("copy", length=12, key=1)[0])
    rows = np.concatenate([batch[:, :12] for batch in tokens])
    assert len(np.unique(rows, axis=0)) == len(rows)  # of 8^12 sequences
    np.testing.assert_array_equal(batch_of("copy", length=12)[0], tokens[0])


@pytest.mark.parametrize("model", ["lstm", "gru", "transformer"])
def test_only_answers_count(model):
    family = Sequence(problem="addition", model=model, length=3, width=8, batch_size=4)
    task, key = family.task({}), jax.random.key(1)

    @jax.jit
    def run(key):
        params, batch = task.init(key), family.sample_batch({}, key, {}, "train")
        logits = family._network().apply({"params": params}, batch["tokens"])
        return batch, logits, task.loss(params, key, batch), task.metrics(params, key, batch)["accuracy"]

    batch, logits, loss, accuracy = jax.tree.map(np.asarray, run(key))
    logits = logits.astype(np.float64)
    assert logits.shape == (4, 11, 10)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    asked = np.argwhere(batch["answers"] != NO_ANSWER)
    assert len(asked) == 4 * 4
    expected = np.mean([-np.log(probability[i, t, batch["answers"][i, t]]) for i, t in asked])
    right = np.mean([logits[i, t].argmax() == batch["answers"][i, t] for i, t in asked])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(task.normalize(jnp.float32(expected)), expected / math.log(10), rtol=1e-5)
    assert accuracy == pytest.approx(right)


def test_names_and_bad_settings():
    assert Sequence().name == "sequence"
    assert Sequence(problem="parity", model="gru", length=20).name == "sequence:problem=parity:model=gru:length=20"
    assert Sequence().load() == {}
    assert Sequence().streams is False
    with pytest.raises(InputError, match=r"unknown problem 'party'. Did you mean 'parity'"):
        Sequence(problem="party")
    with pytest.raises(InputError, match=r"unknown model 'rnn'. .*Known: gru, lstm, transformer"):
        Sequence(model="rnn")
    with pytest.raises(InputError, match="length must be a whole number of at least 2, not 1"):
        Sequence(length=1)
    with pytest.raises(InputError, match="width must be a multiple of the 4 heads"):
        Sequence(model="transformer", width=6)
