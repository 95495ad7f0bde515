"""Sets too large to be held: how large that is, and which examples a block of such a set takes.

A block is a function of (seed, block) and has the same shapes whatever these are. Its splits valid and test are the
same in every block of every seed, so that losses on them compare.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lopt.types import SPLITS

# A set is held whole up to this many bytes of images or text, and this many examples: reading one takes 0.1 ms.
HELD_BYTES = {"image": 256 << 20, "text": 16 << 20, "table": 256 << 20}
HELD_EXAMPLES = 300_000

# Images, or symbols of text, in a block's part of each split; fewer if the split has fewer.
BLOCK_IMAGES = {"train": 8_192, "meta": 2_048, "valid": 2_048, "test": 2_048}
BLOCK_SYMBOLS = {"train": 2 << 20, "meta": 1 << 18, "valid": 1 << 18, "test": 1 << 18}


def too_large(kind: str, num_bytes: int, num_examples: int) -> bool:
    """Whether a set of this size is read in blocks."""
    return num_bytes > HELD_BYTES[kind] or num_examples > HELD_EXAMPLES


def draw_examples(split: str, num_examples: int, *, seed: int, block: int) -> np.ndarray:
    """int64 [min(num_examples, BLOCK_IMAGES[split])], ascending: the examples of a block, without replacement."""
    return np.sort(_draw(split, num_examples, BLOCK_IMAGES[split], seed, block))


def draw_text(
    split: str,
    num_examples: int,
    bytes_per_example: float,
    read: Callable[[Sequence[int]], np.ndarray],
    *,
    seed: int,
    block: int,
) -> np.ndarray:
    """uint8 [min(symbols of the split, BLOCK_SYMBOLS[split])]: the text of examples drawn without replacement.

    Args:
      split: one of `lopt.types.SPLITS`.
      num_examples: number of examples of the split.
      bytes_per_example: mean length of an example; a wrong value costs only time.
      read: `(examples) -> symbols uint8 [n]`.
      seed: decides, together with the block, which examples are drawn.
      block: 0, 1, ...
    """
    length = BLOCK_SYMBOLS[split]
    count = math.ceil(1.2 * length / max(bytes_per_example, 1)) + 8
    while True:
        text = read(_draw(split, num_examples, count, seed, block).tolist())
        if len(text) >= length or count >= num_examples:
            return text[:length]
        count *= 2


def _draw(split: str, num_examples: int, count: int, seed: int, block: int) -> np.ndarray:
    """`count` of the numbers 0..num_examples-1, or all of them where there are fewer, shuffled."""
    index = SPLITS.index(split)
    rng = np.random.default_rng((0, index) if split in ("valid", "test") else (1, index, seed, block))
    return rng.choice(num_examples, min(count, num_examples), replace=False)
