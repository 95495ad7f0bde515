"""Language modelling of symbols with embeddings alone: a log-bilinear model, which factorises the table of n-grams."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..checks import MOST_LAYERS, check_memory, check_whole
from ..datasets import NUM_SYMBOLS
from .networks import Embedding
from .text_family import TextFamily


class Bilinear(nn.Module):
    """Tokens [B, L] -> logits [B, L, num_symbols]: logits_t = W sum_{k < context} c_k * E[w_{t-k}] + b.

    Symbols in front of a sequence count as embeddings of 0. A. Mnih, G. Hinton, "Three new graphical models for
    statistical language modelling", 2007, with a diagonal matrix c_k for each place of the context.
    """

    num_symbols: int
    rank: int
    context: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embedded = Embedding(self.num_symbols, self.rank, name="embed")(tokens)
        weights = self.param("scale", nn.initializers.ones, (self.context, self.rank))
        padded = jnp.pad(embedded, ((0, 0), (self.context - 1, 0), (0, 0)))
        places = range(self.context - 1, -1, -1)  # where the symbol k places back begins
        shifted = jnp.stack([padded[:, place : place + tokens.shape[1]] for place in places])  # [context, B, L, rank]
        mixed = jnp.einsum("kblr,kr->blr", shifted, weights)
        return nn.Dense(self.num_symbols, name="readout")(mixed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBilinear(TextFamily):
    """Trains embeddings and a linear readout to predict the next symbol from the last few; see `TextFamily`.

    Attributes:
      rank: length of an embedding.
      context: number of symbols that a prediction looks back at, the newest one included.
    """

    head: ClassVar[str] = "text_bilinear"
    rank: int = 16
    context: int = 3

    def _check(self) -> None:
        check_whole(self, rank=1)
        check_whole(self, context=1, most=MOST_LAYERS)
        places = self.batch_size * self.length
        check_memory(self, parameters=2 * NUM_SYMBOLS * self.rank, activations=places * self.rank * self.context)

    def network(self) -> nn.Module:
        return Bilinear(NUM_SYMBOLS, self.rank, self.context)
