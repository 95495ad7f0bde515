"""What built-in sets share: the rows of their table, where a package lies, how a set without splits is cut.

Splits are disjoint and the same on every machine.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.names import InputError
from lopt.types import SPLITS

Splits = dict[str, dict[str, Any]]  # split -> what it holds, by feature


class BuiltinSet(NamedTuple):
    """A data set that can be made on the spot.

    Attributes:
      name: what `--tasks` and the folder in the data directory call it.
      kind: `"image"`, `"text"` or `"table"`.
      version: part of the folder's name; raise it whenever the arrays or the splits change.
      description: one line on what it holds.
      licence: licence of the data.
      citation: what to cite for the data.
      package: what pip installs for it; empty if Python itself has it.
      num_classes: labels are 0..num_classes-1; 0 for text and regression.
      shape: of an image `(height, width, channels)`; of a row `(features,)`; of a text `()`.
      split_sizes: images, rows or characters of each split in `SPLITS`.
      read: `(split_sizes) -> {split: {feature: array or text}}`.
      config: what the arrays depend on; part of the folder's name, between the name and the version.
    """

    name: str
    kind: str
    version: str
    description: str
    licence: str
    citation: str
    package: str
    num_classes: int
    shape: tuple[int, ...]
    split_sizes: dict[str, int]
    read: Callable[[dict[str, int]], Splits]
    config: str = ""

    @property
    def folder(self) -> Path:
        """Relative to the data directory."""
        return Path(self.name, self.config, self.version)

    def load(self) -> Splits:
        """`{split: {feature: array or text}}`: disjoint splits.

        Raises:
          ModuleNotFoundError: the package is not installed.
          InputError: the installed copy is not what the row says.
        """
        try:
            splits = self.read(self.split_sizes)
        except InputError as error:
            raise InputError(f"cannot make data set {self.name!r}: {error}") from error
        feature = {"image": "image", "text": "text", "table": "x"}[self.kind]
        for split, size in self.split_sizes.items():
            held = splits[split][feature]
            shape = (len(held), *getattr(held, "shape", (0,))[1:])
            if shape != (size, *self.shape):
                raise InputError(
                    f"cannot make data set {self.name!r}: the installed copy of {self.package} has {shape} "
                    f"for split {split!r}, not {(size, *self.shape)}"
                )
        return splits


def package_folder(package: str) -> Path:
    """Where an installed package lies; does not import it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).parent


def split_rows(arrays: dict[str, np.ndarray], sizes: dict[str, int], *, classes: np.ndarray | None = None) -> Splits:
    """Cuts rows into shuffled splits; with `classes` int [n], each split has nearly the same share of every class.

    Within a shuffled class, the i-th of its n rows gets the place (i + 1/2) / n; sorted by place, any stretch of the
    set holds the classes in proportion.
    """
    (total,) = {len(array) for array in arrays.values()}
    if total != sum(sizes.values()):
        raise InputError(f"the installed copy has {total} rows, not {sum(sizes.values())}")
    shuffled = np.random.default_rng(0).permutation(total)
    classes = np.zeros(total, np.int32) if classes is None else classes
    place = np.empty(total)
    for label in np.unique(classes):
        members = shuffled[classes[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Stable, so that equal places keep the shuffled order rather than the order of the classes.
    order = shuffled[np.argsort(place[shuffled], kind="stable")]
    parts = np.split(order, np.cumsum([sizes[split] for split in SPLITS])[:-1])
    return {
        split: {feature: array[part] for feature, array in arrays.items()}
        for split, part in zip(SPLITS, parts, strict=True)
    }


def split_text(text: str, sizes: dict[str, int]) -> Splits:
    """Cuts a text into stretches of the given numbers of characters, `train` first; the rest is left out."""
    if len(text) < sum(sizes.values()):
        raise InputError(f"the installed text has {len(text)} characters, fewer than its splits {sizes} need")
    ends = np.cumsum([sizes[split] for split in SPLITS]).tolist()
    return {split: {"text": text[end - sizes[split] : end]} for split, end in zip(SPLITS, ends, strict=True)}
