"""What the families on tables share: reading a table, standardising it, drawing rows."""

import dataclasses

import jax
import numpy as np

from lopt.names import InputError
from lopt.types import SPLITS, Batch, Config, Data

from .. import datasets
from ..naming import UNNAMED
from ..sampling import sample_indices


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableFamily:
    """One task on a table; its columns, and targets that are numbers, are standardised by the train split's moments.

    Attributes:
      dataset: a name that `datasets.describe` knows.
      num_classes: number of classes of the target, C below; 0 if it is a number.
      num_features: number of columns, d below.
      data_dir: directory that holds the data set; None for the default.
    """

    dataset: str = dataclasses.field(default="breast_cancer", metadata=UNNAMED)
    num_classes: int = dataclasses.field(default=2, metadata=UNNAMED)
    num_features: int = dataclasses.field(default=30, metadata=UNNAMED)
    data_dir: str | None = dataclasses.field(default=None, compare=False, repr=False, metadata=UNNAMED)

    @property
    def streams(self) -> bool:
        """Never: tables are small enough to be held."""
        return False

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """Reads and standardises the table.

        Returns:
          `{split: {"x": float32 [n, d], "label": int32 [n]}}` with classes; else, in place of the label, `"y"`:
          float32 [n], of train mean 0 and variance 1.
        """
        del seed, block
        info = datasets.describe(self.dataset, self.data_dir)
        found, wanted = (info.num_classes, *info.shape), (self.num_classes, self.num_features)
        if found != wanted:
            raise InputError(f"{self.dataset!r} has (classes, columns) = {found}, and the family has {wanted}")
        table = datasets.load_table(self.dataset, self.data_dir)
        result = {}
        for split in SPLITS:
            x = standardise(table[split]["x"], table["train"]["x"])
            y = table[split]["y"]
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise InputError(f"{self.dataset!r} has missing or infinite values in split {split!r}: fill them first")
            target = {"label": y} if self.num_classes else {"y": standardise(y, table["train"]["y"])}
            result[split] = {"x": x, **target}
        return result

    def sample(self, key: jax.Array) -> Config:
        """There is one task: `{}`."""
        del key
        return {}


def standardise(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(x - mean of train) / standard deviation of train, by column, float32; a constant column is only shifted."""
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    # Rounding leaves a constant column some deviation.
    constant = std <= 1e-6 * np.abs(mean)
    return ((x - mean) / np.where(constant, 1, std)).astype(np.float32)


def draw(arrays: dict[str, jax.Array], key: jax.Array, count: int) -> Batch:
    """The same `count` rows, drawn with replacement, of each array [n, ...]."""
    chosen = sample_indices(key, count, len(next(iter(arrays.values()))))
    return {name: array[chosen] for name, array in arrays.items()}
