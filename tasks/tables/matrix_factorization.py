"""Low-rank factorisation of a table: its entries, some of them hidden, from factors of rows and columns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lopt.names import InputError
from lopt.types import SPLITS, Batch, Config, Data, Params, Task

from .. import datasets
from ..checks import check_memory, check_whole
from ..naming import UNNAMED, family_name
from .family import draw, standardise

# Shares of the entries in 16ths, in the order of SPLITS.
SHARES = (10, 2, 2, 2)

# Variance of a prediction at the start, where entries have variance 1.
START_VARIANCE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixFactorization:
    """Fits u_i^T v_j to entry (i, j) of a standardised table of R rows and d columns, by mean squared error.

    The rows are those of all four splits of the table, without the target. The entries are split by a fixed hash of
    their places. A loss of 1 is that of predicting the column's mean.

    Attributes:
      dataset: a name that `datasets.describe` knows.
      rank: length r of u_i and v_j.
      batch_size: entries per batch, B below.
      num_rows: number of rows of the table, in all its splits, R.
      num_features: number of columns, d.
      data_dir: directory that holds the data set; None for the default.
    """

    dataset: str = dataclasses.field(default="autompg", metadata=UNNAMED)
    rank: int = 2
    batch_size: int = 256
    num_rows: int = dataclasses.field(default=392, metadata=UNNAMED)
    num_features: int = dataclasses.field(default=7, metadata=UNNAMED)
    data_dir: str | None = dataclasses.field(default=None, compare=False, repr=False, metadata=UNNAMED)

    def __post_init__(self):
        check_whole(self, rank=1, batch_size=1)
        parameters = (self.num_rows + self.num_features) * self.rank
        check_memory(self, parameters=parameters, activations=2 * self.batch_size * self.rank)

    @property
    def name(self) -> str:
        """`matrix_factorization/DATASET`, followed by `:setting=value` for each setting that is not the default."""
        return family_name(self, f"matrix_factorization/{self.dataset}")

    @property
    def streams(self) -> bool:
        """Never: tables are small enough to be held."""
        return False

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """Reads the table and splits its entries; columns are standardised by the entries of the train split.

        Returns:
          `{split: {"row": int32 [n], "column": int32 [n], "value": float32 [n]}}`.
        """
        del seed, block
        table = datasets.load_table(self.dataset, self.data_dir)
        x = np.concatenate([table[split]["x"] for split in SPLITS])
        if x.shape != (self.num_rows, self.num_features):
            sizes = (self.num_rows, self.num_features)
            raise InputError(f"{self.dataset!r} has (rows, columns) = {x.shape}, and the family has {sizes}")
        if not np.isfinite(x).all():
            raise InputError(f"{self.dataset!r} has missing or infinite values: fill them first")
        split_of = split_entries(*x.shape)
        for j, column in enumerate(x.T):
            x[:, j] = standardise(column, column[split_of[:, j] == 0])
        return {split: _entries(x, split_of == i) for i, split in enumerate(SPLITS)}

    def sample(self, key: jax.Array) -> Config:
        """There is one task: `{}`."""
        del key
        return {}

    def task(self, config: Config) -> Task:
        """The task's functions. A batch is as `sample_batch` has it, of any B."""
        del config
        return Task(self._init, self._loss, lambda loss: loss, lambda params, key, batch: {})

    def sample_batch(self, data: Data, key: jax.Array, config: Config, split: str) -> Batch:
        """`{"row": int32 [B], "column": int32 [B], "value": float32 [B]}`."""
        del config
        return draw(data[split], key, self.batch_size)

    def _init(self, key: jax.Array) -> Params:
        """`{"rows": float32 [R, r], "columns": float32 [d, r]}`: normal, so that products have START_VARIANCE."""
        normal = jax.random.normal(key, (self.num_rows + self.num_features, self.rank))
        factors = normal * (START_VARIANCE / self.rank) ** 0.25
        return {"rows": factors[: self.num_rows], "columns": factors[self.num_rows :]}

    def _loss(self, params: Params, key: jax.Array, batch: Batch) -> jax.Array:
        """Mean squared error."""
        del key
        predicted = jnp.sum(params["rows"][batch["row"]] * params["columns"][batch["column"]], axis=-1)
        return jnp.mean(jnp.square(predicted - batch["value"]))


def split_entries(rows: int, columns: int) -> np.ndarray:
    """int [rows, columns]: the place in SPLITS of the split that an entry belongs to, in the proportions of SHARES.

    By the SplitMix64 hash (Steele et al. 2014) of the entry's number in reading order.
    """
    x = np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    top = (x ^ (x >> np.uint64(31))) >> np.uint64(60)  # 4 bits
    return np.searchsorted(np.cumsum(SHARES), top.astype(np.int64), side="right").reshape(rows, columns)


def _entries(x: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    row, column = (index.astype(np.int32) for index in np.nonzero(chosen))
    return {"row": row, "column": column, "value": x[row, column].astype(np.float32)}
