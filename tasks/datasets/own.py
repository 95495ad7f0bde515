"""Arrays of a person's own, written once as a set that every family of its kind reads by name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt.extras import need
from lopt.names import InputError
from lopt.npz import unpack
from lopt.types import SPLITS

from .builtin import BUILTIN
from .sources import BuiltinSet, Splits
from .writing import prepare_builtin

FORM = (
    "a folder FOLDER with train.npz, and meta.npz, valid.npz, test.npz or none of them, each with the arrays image, "
    "uint8 [N, height, width, 1 or 3], and label, whole numbers from 0; or x, float32 [N, features], and y, labels or "
    "float32; or, for text, with train.txt"
)


def write_set(name: str, splits: Mapping[str, Mapping[str, Any]], root: Path) -> Path:
    """Writes your own set into the data directory; returns its folder.

    Args:
      name: what `--tasks=FAMILY/NAME` calls it: small letters, digits and underscores.
      splits: `{"train": {"image": ..., "label": ...}}`, with `meta`, `valid` and `test` or without: see `FORM`. Without
        them, they are cut from train when the set is read, in the order in which TFDS has shuffled it.
      root: the data directory.

    Raises:
      InputError: the name is taken or no name, or the arrays are not of this form.
    """
    need(f"data set {name!r}", "tensorflow_datasets", "importlib_resources")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in BUILTIN:
        taken = "is built in" if name in BUILTIN else "must be small letters, digits and underscores"
        raise InputError(f"the name {name!r} of a data set {taken}: choose another")
    if (root / name).exists():
        raise InputError(f"there is a data set {name!r} in {root / name}: delete that folder, or choose another name")
    if not set(splits) <= set(SPLITS) or "train" not in splits:
        raise InputError(f"data set {name!r} has the splits {', '.join(splits) or 'none'}: it must be {FORM}")
    if len(splits) not in (1, len(SPLITS)):
        raise InputError(f"data set {name!r} must have train alone, or all of {', '.join(SPLITS)}")
    read = {split: _read(f"{name}, {split}", arrays) for split, arrays in splits.items()}
    kinds = {(kind, shape) for kind, shape, _ in read.values()}
    if len(kinds) > 1:
        raise InputError(f"data set {name!r}: its splits differ in the shape of an example: {sorted(map(str, kinds))}")
    ((kind, shape),) = kinds
    arrays: Splits = {split: found for split, (*_, found) in read.items()}
    target = {"image": "label", "table": "y", "text": ""}[kind]
    classes = bool(target) and arrays["train"][target].dtype.kind in "iu"
    num_classes = 1 + max(int(found[target].max()) for found in arrays.values()) if classes else 0
    sizes = {split: len(next(iter(found.values()))) for split, found in arrays.items()}
    row = BuiltinSet(
        name, kind, "1.0.0", f"{name}, a set of your own", "", "", "", num_classes, shape, sizes, lambda _: arrays
    )
    return prepare_builtin(row, root)


def write_folder(folder: Path, root: Path) -> Path:
    """Writes the arrays in a folder as the set of the folder's name. Raises InputError if it is not as in `FORM`."""
    splits: dict[str, Mapping[str, Any]] = {}
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.txt")]):
        try:
            if path.suffix == ".txt":
                splits[path.stem] = {"text": path.read_text()}
            else:
                splits[path.stem] = unpack(path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
    return write_set(folder.resolve().name, splits, root)


def _read(where: str, arrays: Mapping[str, Any]) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """Kind, shape of an example, and arrays in the types of TFDS."""
    if any(np.size(x) == 0 for x in arrays.values()):
        raise InputError(f"data set {where} has an empty array: it must be {FORM}")
    match sorted(arrays):
        case ["text"]:
            return "text", (), {"text": str(arrays["text"])}
        case ["image", "label"]:
            image, label = np.asarray(arrays["image"]), np.asarray(arrays["label"])
            if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] not in (1, 3):
                raise InputError(
                    f"data set {where}: image must be uint8 [N, height, width, 1 or 3], and is {image.dtype}"
                    f"{list(image.shape)}"
                )
            return "image", image.shape[1:], {"image": image, "label": _labels(where, label, len(image))}
        case ["x", "y"]:
            x, y = np.asarray(arrays["x"]), np.asarray(arrays["y"])
            if x.dtype.kind not in "fiu" or x.ndim != 2 or not np.isfinite(x).all():
                raise InputError(
                    f"data set {where}: x must be finite numbers [N, features], and is {x.dtype}{list(x.shape)}"
                )
            target = (
                y.astype(np.float32) if y.dtype.kind == "f" and y.shape == x.shape[:1] else _labels(where, y, len(x))
            )
            return "table", x.shape[1:], {"x": x.astype(np.float32), "y": target}
    raise InputError(f"data set {where} has {', '.join(sorted(arrays)) or 'no arrays'}: it must be {FORM}")


def _labels(where: str, label: np.ndarray, number: int) -> np.ndarray:
    if label.dtype.kind not in "iu" or label.shape != (number,) or label.min(initial=0) < 0:
        found = f"{label.dtype}{list(label.shape)}"
        raise InputError(f"data set {where}: labels must be whole numbers from 0, [{number}], and are {found}")
    return label.astype(np.int64)
