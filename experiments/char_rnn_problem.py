"""A small recurrent network as an inner problem: theta is its weights, the inner state holds its memory.

There are two streams of symbols: random ones, which the network must repeat after a lag, and English, whose next symbol
it must predict. A step reads one symbol; its loss is the cross-entropy in nats.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.text import genesis
from lopt.types import InnerProblem, PyTree


def init_theta(key: jax.Array, num_symbols: int, units: int) -> dict[str, jax.Array]:
    """Weights N(0, 1 / inputs), biases 0."""
    keys = jax.random.split(key, 3)
    normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return {
        "input": jax.random.normal(keys[0], (num_symbols, units)),  # a one-hot input has one entry that counts
        "hidden": normal(keys[1], (units, units)),
        "bias": jnp.zeros(units),
        "output": normal(keys[2], (units, num_symbols)),
        "output_bias": jnp.zeros(num_symbols),
    }


def rnn(theta: PyTree, memory: jax.Array, symbol: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """m' = tanh(input[symbol] + m hidden + bias), and -log softmax(m' output + output bias)[target]."""
    memory = jnp.tanh(theta["input"][symbol] + memory @ theta["hidden"] + theta["bias"])
    logits = memory @ theta["output"] + theta["output_bias"]
    return memory, jax.nn.logsumexp(logits) - logits[target]


def no_memory(theta: PyTree) -> jax.Array:
    return jnp.zeros_like(theta["bias"])


class CopyState(NamedTuple):
    """The state of the copy task.

    Attributes:
      memory: `[units]`.
      recent: the symbols read last, newest first, int32 `[lag]`.
      t: number of symbols read, int32.
    """

    memory: jax.Array
    recent: jax.Array
    t: jax.Array


def copy_problem(num_symbols: int, lag: int) -> InnerProblem:
    """Symbols are uniform and independent; after x_t, x_{t - lag} is the target. The first `lag` steps have loss 0."""

    def init(theta, key, horizon):
        del key, horizon
        return CopyState(no_memory(theta), jnp.zeros(lag, jnp.int32), jnp.zeros((), jnp.int32))

    def step(theta, state, key):
        symbol = jax.random.randint(key, (), 0, num_symbols, jnp.int32)
        memory, loss = rnn(theta, state.memory, symbol, state.recent[-1])
        recent = jnp.concatenate([symbol[None], state.recent[:-1]])
        return CopyState(memory, recent, state.t + 1), jnp.where(state.t >= lag, loss, 0)

    return InnerProblem(init, step)


@functools.cache
def texts() -> tuple[np.ndarray, np.ndarray]:
    """Genesis but its last tenth, for training, and that tenth, for judging; a number per distinct symbol, uint8."""
    symbols = np.unique(list(genesis()), return_inverse=True)[1].astype(np.uint8)
    cut = 9 * len(symbols) // 10
    return symbols[:cut], symbols[cut:]


def num_text_symbols() -> int:
    return 1 + int(max(part.max() for part in texts()))


class TextState(NamedTuple):
    """The state of the text task.

    Attributes:
      memory: `[units]`.
      place: index of the symbol that is read next, int32.
    """

    memory: jax.Array
    place: jax.Array


def text_problem() -> InnerProblem:
    """Each trajectory reads on from a place drawn at random; at the end of the text it goes on with the beginning."""
    text = texts()[0]

    def init(theta, key, horizon):
        del horizon
        return TextState(no_memory(theta), jax.random.randint(key, (), 0, len(text), jnp.int32))

    def step(theta, state, key):
        del key
        following = (state.place + 1) % len(text)
        symbol, target = jnp.asarray(text)[jnp.stack([state.place, following])].astype(jnp.int32)
        memory, loss = rnn(theta, state.memory, symbol, target)
        return TextState(memory, following), loss

    return InnerProblem(init, step)


def copy_loss(theta: PyTree, lag: int, num_streams: int, num_steps: int) -> jax.Array:
    """Nats per symbol over the steps that have a target, mean over fresh streams: the same ones for every theta."""
    problem = copy_problem(len(theta["output_bias"]), lag)

    def stream(key):
        def body(state, i):
            return problem.step(theta, state, jax.random.fold_in(key, i))

        start = problem.init(theta, key, jnp.asarray(num_steps))
        return jax.lax.scan(body, start, jnp.arange(num_steps))[1][lag:].mean()

    return jax.vmap(stream)(jax.random.split(jax.random.key(2024), num_streams)).mean()


def text_loss(theta: PyTree) -> jax.Array:
    """Nats per symbol on the text for judging, read in one go."""
    text = jnp.asarray(texts()[1]).astype(jnp.int32)

    def body(memory, pair):
        return rnn(theta, memory, *pair)

    return jax.lax.scan(body, no_memory(theta), (text[:-1], text[1:]))[1].mean()


def unigram_loss() -> float:
    """Nats per symbol on the text for judging, by the frequencies in the training text, each count raised by one."""
    train, valid = texts()
    counts = np.bincount(train, minlength=num_text_symbols()) + 1
    return float(-np.log(counts[valid] / counts.sum()).mean())
