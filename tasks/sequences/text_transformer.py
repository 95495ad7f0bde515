"""Language modelling of symbols with a small transformer decoder."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from ..checks import MOST_LAYERS, check_memory, check_whole
from ..datasets import NUM_SYMBOLS
from .networks import Transformer, check_heads, transformer_numbers
from .text_family import TextFamily


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTransformer(TextFamily):
    """Trains a decoder with causal attention to predict the next symbol; see `TextFamily` and `Transformer`.

    Attributes:
      width: size of the embedding; a multiple of 4, the number of heads.
      depth: blocks of attention and MLP.
    """

    head: ClassVar[str] = "text_transformer"
    width: int = 32
    depth: int = 2

    def _check(self) -> None:
        check_whole(self, width=1)
        check_whole(self, depth=1, most=MOST_LAYERS)
        check_heads(self.width)
        check_memory(self, **transformer_numbers(self.width, self.depth, self.batch_size, self.length))

    def network(self) -> nn.Module:
        return Transformer(NUM_SYMBOLS, NUM_SYMBOLS, length=self.length, width=self.width, depth=self.depth)
