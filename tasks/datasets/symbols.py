"""The alphabet of every text set: one symbol per character."""

import numpy as np

# 0..94: printable ASCII, codes 32..126; 95: newline; 96: any other character.
NUM_SYMBOLS = 97
NEWLINE, OTHER = 95, 96

_SYMBOLS = np.full(256, OTHER, np.uint8)
_SYMBOLS[32:127] = np.arange(95)
_SYMBOLS[ord("\n")] = NEWLINE


def encode(text: bytes) -> np.ndarray:
    """UTF-8 of n characters -> uint8 [n] symbols in 0..NUM_SYMBOLS-1."""
    codes = np.frombuffer(text, np.uint8)
    if not text.isascii():
        codes = codes[codes & 0xC0 != 0x80]  # a character's first byte stands for it; the rest are 0b10xxxxxx
    return _SYMBOLS[codes]


def decode(symbols: np.ndarray) -> str:
    """uint8 [n] symbols -> the text, with `�` for any other character."""
    alphabet = np.array([*map(chr, range(32, 127)), "\n", "�"])
    return "".join(alphabet[symbols])
