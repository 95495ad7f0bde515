"""What families without data share: nothing to load, and for each split a stream of keys of its own."""

import jax

from lopt.types import SPLITS, Data


class Synthetic:
    """A family whose batches are functions of their keys alone."""

    def load(self, seed: int = 0, block: int = 0) -> Data:
        """There are no data: `{}`."""
        del seed, block
        return {}

    @property
    def streams(self) -> bool:
        """Never: there are no data."""
        return False


def split_key(key: jax.Array, split: str) -> jax.Array:
    """The key of a batch of one split: each split has a stream of its own, so that one key gives each another batch."""
    return jax.random.fold_in(key, SPLITS.index(split))
