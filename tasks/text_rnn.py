"""Language modelling of symbols with a recurrent network: an LSTM or a GRU."""

import dataclasses

import flax.linen as nn

from lopt.names import check_known
from tasks.checks import check_whole
from tasks.datasets import NUM_SYMBOLS
from tasks.naming import family_name
from tasks.sequence_models import CELLS, RecurrentNetwork
from tasks.texts import TextFamily


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRNN(TextFamily):
    """Trains an embedding, one recurrent layer and a linear readout to predict the next symbol; see `TextFamily`.

    Attributes:
      cell: "lstm" (Hochreiter and Schmidhuber 1997) or "gru" (Cho et al. 2014, arXiv:1406.1078).
      width: entries of the embedding, and units of the layer.
    """

    cell: str = "lstm"
    width: int = 64

    def __post_init__(self):
        check_known("cell", self.cell, CELLS)
        check_whole(self, length=1, batch_size=1, width=1)

    @property
    def name(self) -> str:
        """`text_rnn/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, f"text_rnn/{self.dataset}")

    def network(self) -> nn.Module:
        return RecurrentNetwork(NUM_SYMBOLS, NUM_SYMBOLS, cell=self.cell, width=self.width)
