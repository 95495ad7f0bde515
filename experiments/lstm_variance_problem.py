"""A small LSTM that predicts each next symbol of a text, and the variance that PES must have on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.text import SYMBOLS, encode, genesis
from lopt.types import InnerProblem, PyTree

UNITS = 5


def symbols(text: str, steps: int) -> np.ndarray:
    """The text, `[steps + 1]`: each symbol but the last is read, each but the first predicted."""
    start = encode(genesis()[: steps + 1])
    if text == "repeated":
        return np.full_like(start, start[0])
    if text == "random":
        return np.random.default_rng(5).integers(len(SYMBOLS), size=steps + 1, dtype=np.int32)
    return start


def init_theta() -> dict[str, np.ndarray]:
    """Embeddings uniform on [-0.1, 0.1], weights normal with variance 1 / UNITS, biases 0."""
    rng = np.random.default_rng(42)
    theta = {
        "embedding": rng.uniform(-0.1, 0.1, (len(SYMBOLS), UNITS)),
        "input": rng.normal(size=(UNITS, 4 * UNITS)) / np.sqrt(UNITS),
        "hidden": rng.normal(size=(UNITS, 4 * UNITS)) / np.sqrt(UNITS),
        "bias": np.zeros(4 * UNITS),
        "decoder": rng.normal(size=(UNITS, len(SYMBOLS))) / np.sqrt(UNITS),
        "decoder_bias": np.zeros(len(SYMBOLS)),
    }
    return {name: x.astype(np.float32) for name, x in theta.items()}


def lstm(theta: PyTree, memory: jax.Array, symbol: jax.Array, following: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(memory, loss)` after reading one symbol; memory is the output and the cell, `[2, UNITS]`."""
    output, cell = memory
    gates = theta["embedding"][symbol] @ theta["input"] + output @ theta["hidden"] + theta["bias"]
    forget, write, read, new = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(write) * jnp.tanh(new)
    output = jax.nn.sigmoid(read) * jnp.tanh(cell)
    logits = output @ theta["decoder"] + theta["decoder_bias"]
    return jnp.stack([output, cell]), jax.nn.logsumexp(logits) - logits[following]


def problem(text: np.ndarray) -> InnerProblem:
    """The state is (memory, t)."""

    def init(theta, key, horizon):
        del key, horizon
        return jnp.zeros((2, UNITS), theta["bias"].dtype), jnp.zeros((), jnp.int32)

    def step(theta, state, key):
        del key
        memory, t = state
        memory, loss = lstm(theta, memory, jnp.asarray(text)[t], jnp.asarray(text)[t + 1])
        return (memory, t + 1), loss

    return InnerProblem(init, step)


@jax.jit
def true_gradient(theta: PyTree, text: jax.Array) -> jax.Array:
    """The gradient of the mean loss over the text, by backpropagation, `[P]`."""

    def mean_loss(theta):
        start = jnp.zeros((2, UNITS), theta["bias"].dtype)
        return jax.lax.scan(lambda memory, pair: lstm(theta, memory, *pair), start, (text[:-1], text[1:]))[1].mean()

    return ravel_pytree(jax.grad(mean_loss)(theta))[0]


@functools.partial(jax.jit, static_argnames="num_windows")
def pair_variance(theta: PyTree, text: jax.Array, num_windows: int) -> jax.Array:
    """Total variance of one pair's PES estimate of an episode, over |g_true|^2, in the limit of small sigma.

    P sum_{r, s} |A[r, s]|^2 + sum_{r, s} A[r, s] . A[s, r], where A[r, s] `[P]` is the gradient with respect to the
    theta of window s of the losses from window max(r, s) on. For every r, one pass backward through the text.
    """
    flat_theta, unravel = ravel_pytree(theta)
    pairs = text[:-1], text[1:]

    def read(flat_theta, memory, pair):
        return lstm(unravel(flat_theta), memory, *pair)

    start = jnp.zeros((2, UNITS), flat_theta.dtype)
    _, memories = jax.lax.scan(lambda memory, pair: (read(flat_theta, memory, pair)[0], memory), start, pairs)
    windows = jnp.arange(num_windows)

    def step_back(carry, step, counts):
        """One step backward for all r at once, `[U, ...]`; `counts` says whether the losses of this window count."""
        of_memory, a = carry
        memory, pair = step
        _, pull = jax.vjp(lambda flat_theta, memory: read(flat_theta, memory, pair), flat_theta, memory)
        of_theta, of_memory = jax.vmap(lambda *cotangents: pull(cotangents))(of_memory, counts)
        return (of_memory, a + of_theta), None

    def window_back(carry, window):
        """Finds A[r, s] of all r, `[U, P]`, and adds all terms with an s in them that no later window has added."""
        of_memory, own, squares, products = carry
        s, steps = window
        counts = (windows <= s).astype(flat_theta.dtype)
        back = functools.partial(step_back, counts=counts)
        (of_memory, a), _ = jax.lax.scan(back, (of_memory, jnp.zeros_like(own)), steps, reverse=True)
        # A[s, r] = A[r, r] for the r > s, which are the rows that `own` has by now.
        products += a[s] @ a[s] + 2 * jnp.vdot(a, own)
        return (of_memory, own.at[s].set(a[s]), squares + jnp.vdot(a, a), products), None

    def zeros(*shape):
        return jnp.zeros(shape, flat_theta.dtype)

    steps = jax.tree.map(lambda x: x.reshape(num_windows, -1, *x.shape[1:]), (memories, pairs))
    first = zeros(num_windows, *start.shape), zeros(num_windows, len(flat_theta)), zeros(), zeros()
    (_, own, squares, products), _ = jax.lax.scan(window_back, first, (windows, steps), reverse=True)
    gradient = own.sum(0)
    return (len(flat_theta) * squares + products) / (gradient @ gradient)
