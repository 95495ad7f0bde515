"""Networks that read sequences of symbols and predict one at each place: an LSTM, a GRU and a transformer decoder."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.types import Params

from ..networks import EMBEDDING_STD, init_params

NUM_HEADS = 4


def check_heads(width: int) -> None:
    """Raises InputError unless a transformer of this width can be cut into its heads."""
    if width % NUM_HEADS:
        raise InputError(f"width must be a multiple of the {NUM_HEADS} heads, not {width}")


class Embedding(nn.Module):
    """Looks up rows of a learned table by a matrix product: the gradient of an indexing is a scatter, which is slow."""

    num_symbols: int
    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        table = self.param("embedding", nn.initializers.zeros, (self.num_symbols, self.width))
        return (tokens[..., None] == jnp.arange(self.num_symbols)[None, None, :]).astype(table.dtype) @ table


class Kernel(nn.Module):
    """The matrix of a linear map that a scan applies."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("kernel", nn.initializers.zeros, self.shape)


class RecurrentNetwork(nn.Module):
    """Embedding, one recurrent layer of `width` units that starts at 0, linear readout.

    The input's part of the gates is one product for all times, so that a step of the scan has only one product.
    """

    num_symbols: int
    num_outputs: int
    cell: str = "lstm"
    width: int = 64

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        gates, step, num_states = CELLS[self.cell]
        embedded = Embedding(self.num_symbols, self.width, name="embed")(tokens.T)  # [L, B, width]
        from_input = nn.Dense(gates * self.width, name="input")(embedded)
        recurrent = Kernel((self.width, gates * self.width), name="recurrent")()
        start = tuple(jnp.zeros_like(embedded[0]) for _ in range(num_states))
        _, outputs = jax.lax.scan(lambda state, x: step(state, x, recurrent), start, from_input)
        return nn.Dense(self.num_outputs, name="readout")(jnp.swapaxes(outputs, 0, 1))


State = tuple[jax.Array, ...]


def lstm_step(state: State, x: jax.Array, recurrent: jax.Array) -> tuple[State, jax.Array]:
    """c' = s(f + 1) c + s(i) tanh(g), h' = s(o) tanh(c'), with [i, f, g, o] = x + h R and s the logistic function.

    Hochreiter and Schmidhuber 1997; with a forget gate, and 1 on it so that it starts open (Gers et al. 2000).

    Args:
      state: (h, c), each [B, H].
      x: the input's part of the gates, [B, 4 H].
      recurrent: R, [H, 4 H].

    Returns:
      The new state, and h'.
    """
    hidden, memory = state
    i, f, g, o = jnp.split(x + hidden @ recurrent, 4, axis=-1)
    memory = jax.nn.sigmoid(f + 1) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)
    return (hidden, memory), hidden


def gru_step(state: State, x: jax.Array, recurrent: jax.Array) -> tuple[State, jax.Array]:
    """h' = z h + (1 - z) tanh(x_n + r (h R_n)), with [r, z] = s(x_rz + h R_rz) and s the logistic function.

    Cho et al. 2014, arXiv:1406.1078; the reset gate r acts after the product, so that a step needs only one product.

    Args:
      state: (h,), [B, H].
      x: the input's part, [B, 3 H], in the order r, z, n.
      recurrent: R, [H, 3 H].

    Returns:
      The new state, and h'.
    """
    (hidden,) = state
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(hidden @ recurrent, 3, axis=-1)
    candidate = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
    z = jax.nn.sigmoid(x_z + h_z)
    hidden = z * hidden + (1 - z) * candidate
    return (hidden,), hidden


# Number of gates, step, number of state arrays.
CELLS: dict[str, tuple[int, Callable[..., Any], int]] = {"lstm": (4, lstm_step, 2), "gru": (3, gru_step, 1)}


class Transformer(nn.Module):
    """A decoder (Vaswani et al. 2017, arXiv:1706.03762), normalised before each block (Xiong et al. 2020,
    arXiv:2002.04745), with learned positions and GELU in blocks of 4 times the width.
    """

    num_symbols: int
    num_outputs: int
    length: int
    width: int = 32
    depth: int = 2

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        positions = self.param("embedding", nn.initializers.zeros, (self.length, self.width))
        x = Embedding(self.num_symbols, self.width, name="embed")(tokens) + positions[None, : tokens.shape[1]]
        for layer in range(self.depth):
            attended = nn.LayerNorm(name=f"attention_norm_{layer}")(x)
            x = x + CausalAttention(self.width, name=f"attention_{layer}")(attended)
            hidden = nn.Dense(4 * self.width, name=f"expand_{layer}")(nn.LayerNorm(name=f"mlp_norm_{layer}")(x))
            x = x + nn.Dense(self.width, name=f"contract_{layer}")(nn.gelu(hidden))
        return nn.Dense(self.num_outputs, name="readout")(nn.LayerNorm(name="norm")(x))


class CausalAttention(nn.Module):
    """softmax(q k^T / sqrt(width / heads)) v in each of `NUM_HEADS` heads, over the place itself and those before."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, _ = x.shape
        heads = nn.Dense(3 * self.width, name="query_key_value")(x).reshape(batch, length, 3, NUM_HEADS, -1)
        query, key, value = (heads[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(self.width / NUM_HEADS)
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, self.width)
        return nn.Dense(self.width, name="out")(mixed)


def init_sequence_params(module: nn.Module, key: jax.Array, length: int) -> Params:
    """As `init_params`, but a recurrent network's embeddings have standard deviation 1: no norm layer follows them."""
    params = init_params(module, key, (1, length))
    if isinstance(module, RecurrentNetwork):
        table = params["embed"]["embedding"]
        params = {**params, "embed": {"embedding": table / EMBEDDING_STD}}
    return params


def recurrent_numbers(width: int, places: int) -> dict[str, int]:
    """For `check_memory`: the least numbers of a recurrent network that reads so many places of a batch."""
    return {"parameters": 6 * width**2, "activations": 3 * places * width}


def transformer_numbers(width: int, depth: int, batch_size: int, length: int) -> dict[str, int]:
    """For `check_memory`: the least numbers of a transformer that reads a batch of sequences."""
    activations = batch_size * length * max(4 * width, NUM_HEADS * length)
    return {"parameters": 12 * depth * width**2, "activations": activations}
