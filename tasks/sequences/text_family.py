"""What the language-model families share: reading a text, drawing sequences from it, predicting the next symbol."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.names import InputError
from lopt.types import SPLITS, Batch, Config, Data, Params, Task

from .. import datasets
from ..checks import check_whole
from ..naming import UNNAMED, family_name
from ..networks import accuracy, apply, cross_entropy
from .networks import init_sequence_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFamily(abc.ABC):
    """A language model of one text: it predicts which of 97 symbols comes next, given those before it in the sequence.

    A batch is `{"tokens": int32 [B, L + 1]}`: the first symbol of a sequence is only read, the last only predicted.

    Attributes:
      head: what the name begins with.
      dataset: a name that `datasets.describe` knows.
      length: symbols read in a sequence, L below.
      batch_size: sequences per batch, B below.
      data_dir: directory that holds the data set; None for the default.
    """

    head: ClassVar[str]
    dataset: str = dataclasses.field(default="python_docs", metadata=UNNAMED)
    length: int = 32
    batch_size: int = 16
    data_dir: str | None = dataclasses.field(default=None, compare=False, repr=False, metadata=UNNAMED)

    def __post_init__(self):
        check_whole(self, length=1, batch_size=1)
        self._check()

    @abc.abstractmethod
    def _check(self) -> None:
        """Raises InputError unless the settings of the network make sense."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """Tokens int32 [B, L] -> logits [B, L, 97]."""

    @property
    def name(self) -> str:
        """`HEAD/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, f"{self.head}/{self.dataset}")

    @property
    def streams(self) -> bool:
        """Whether the text is read one block at a time."""
        return datasets.describe(self.dataset, self.data_dir).streams

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """Reads the text, or one block of it.

        Returns:
          `{split: uint8 [n]}`, numbers of symbols.

        Raises:
          InputError: a split is shorter than one sequence.
        """
        data = datasets.load_text(self.dataset, self.data_dir, seed=seed, block=block)
        for split in SPLITS:
            if len(data[split]) <= self.length:
                raise InputError(
                    f"split {split!r} of {self.dataset!r} has {len(data[split])} symbols, and length={self.length} "
                    f"needs {self.length + 1} per sequence: choose a smaller length, or a longer text"
                )
        return {split: data[split] for split in SPLITS}

    def sample(self, key: jax.Array) -> Config:
        """There is one task: `{}`."""
        del key
        return {}

    def task(self, config: Config) -> Task:
        """The task's functions. A batch has any number of sequences, of at most L + 1 symbols."""
        del config
        return Task(self._init, self._loss, self._normalize, self._metrics)

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"tokens": int32 [B, L + 1]}`, each sequence from a place drawn at random."""
        del config
        text = data[split]
        # Random bits, because a text may have more places than `uniform` has values. The remainder favours the first
        # places, by a factor of at most 1 + n / 2^32.
        places = jax.random.bits(key, (self.batch_size,)) % jnp.uint32(len(text) - self.length)
        offsets = jnp.arange(self.length + 1, dtype=jnp.uint32)
        return {"tokens": text[places[:, None] + offsets[None, :]].astype(jnp.int32)}

    def _init(self, key: jax.Array) -> Params:
        return init_sequence_params(self.network(), key, self.length)

    def _logits(self, params: Params, batch: Batch) -> jax.Array:
        """[B, L, 97]."""
        return apply(self.network(), params, batch["tokens"][:, :-1])

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean cross-entropy of the symbol after each one read, in nats."""
        del key
        return jnp.mean(cross_entropy(self._logits(params, batch), batch["tokens"][:, 1:]))

    def _normalize(self, loss: jax.Array) -> jax.Array:
        """In units of the loss of uniform guessing."""
        return loss / math.log(datasets.NUM_SYMBOLS)

    def _metrics(self, params: Params, key: jax.Array, batch: Batch) -> Mapping[str, jax.Array]:
        """`accuracy`: fraction of the symbols that have the largest logit."""
        del key
        return {"accuracy": accuracy(self._logits(params, batch), batch["tokens"][:, 1:])}
