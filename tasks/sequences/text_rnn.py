"""Language modelling of symbols with a recurrent network: an LSTM or a GRU."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from lopt.names import check_known

from ..checks import check_memory, check_whole
from ..datasets import NUM_SYMBOLS
from .networks import CELLS, RecurrentNetwork, recurrent_numbers
from .text_family import TextFamily


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRNN(TextFamily):
    """Trains an embedding, one recurrent layer and a linear readout to predict the next symbol; see `TextFamily`.

    Attributes:
      cell: "lstm" (Hochreiter and Schmidhuber 1997) or "gru" (Cho et al. 2014, arXiv:1406.1078).
      width: size of the embedding, and number of units of the layer.
    """

    head: ClassVar[str] = "text_rnn"
    cell: str = "lstm"
    width: int = 64

    def _check(self) -> None:
        check_known("cell", self.cell, CELLS)
        check_whole(self, width=1)
        check_memory(self, **recurrent_numbers(self.width, self.batch_size * self.length))

    def network(self) -> nn.Module:
        return RecurrentNetwork(NUM_SYMBOLS, NUM_SYMBOLS, cell=self.cell, width=self.width)
