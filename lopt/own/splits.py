"""Arrays of a person's own as the splits of a task: checked, in types that JAX has, and cut where one is missing."""

import hashlib
from collections.abc import Mapping

import jax
import numpy as np

from lopt.names import MAX_WHOLE, InputError
from lopt.trees import by_name, map_with_name
from lopt.types import SPLITS, PyTree

SHARES = {"train": 0.8, "meta": 0.05, "valid": 0.05, "test": 0.1}  # of a set that is cut, as of those of tasks/


class Splits:
    """Arrays by split, equal to others of the same content: `{"train": arrays, ...}`, or {} for no data."""

    def __init__(self, arrays: Mapping[str, PyTree]):
        self.arrays = dict(arrays)
        digest = hashlib.sha256()
        for name, leaf in by_name(self.arrays).items():
            digest.update(f"{name} {leaf.dtype} {leaf.shape};".encode())
            digest.update(np.ascontiguousarray(leaf).data)
        self.sha256 = digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Splits) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @staticmethod
    def of(data: PyTree) -> "Splits":
        """Reads what a person gives as data. Raises InputError if it is not as `task` describes it."""
        if data is None:
            return Splits({})
        if not isinstance(data, Mapping) or not (set(data) & set(SPLITS)):
            data = {"train": data}
        if unknown := set(data) - set(SPLITS):
            raise InputError(f"data: {', '.join(map(repr, unknown))} is no split; they are {', '.join(SPLITS)}")
        if "train" not in data:
            raise InputError("data must have the split train")
        arrays = {split: _read_rows(split, data[split]) for split in SPLITS if split in data}
        if len({jax.tree.structure(rows) for rows in arrays.values()}) > 1:
            raise InputError("data: all splits must have arrays of the same names")
        return Splits(_cut(arrays))


def _read_rows(split: str, tree: PyTree) -> PyTree:
    """Arrays with rows, in types that JAX has."""
    arrays = jax.tree.map(np.asarray, tree)
    lengths = {name: leaf.shape[:1] for name, leaf in by_name(arrays).items()}
    if len(set(lengths.values())) != 1 or () in lengths.values() or (0,) in lengths.values():
        shown = ", ".join(f"{name or 'the array'} {list(length)}" for name, length in lengths.items())
        raise InputError(f"data of {split}: arrays must share their first axis, a row per example: {shown or 'none'}")
    return map_with_name(lambda name, leaf: _as_jax_has_it(f"{split} {name}".strip(), leaf), arrays)


def _as_jax_has_it(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise InputError(f"data: {name} has numbers that are not finite")
        return array.astype(np.float32) if array.dtype.itemsize > 4 else array
    if array.dtype.kind in "iu":
        if array.dtype.itemsize > 4 and np.abs(array).max() > MAX_WHOLE:
            raise InputError(f"data: {name} has whole numbers beyond {MAX_WHOLE:,}")
        return array.astype(np.int32) if array.dtype.itemsize > 4 else array
    if array.dtype.kind == "b":
        return array
    raise InputError(f"data: {name} must be numbers, not {array.dtype}")


def _cut(arrays: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Cuts the splits that are missing from train, in the proportions of `SHARES`."""
    if len(arrays) == len(SPLITS):
        return dict(arrays)
    train = arrays["train"]
    number = len(jax.tree.leaves(train)[0])
    missing = [split for split in SPLITS if split == "train" or split not in arrays]
    shares = np.cumsum([SHARES[split] for split in missing])
    ends = np.rint(number * shares / shares[-1]).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    if (ends <= starts).any():
        raise InputError(f"data: {number} rows are too few to cut {', '.join(missing)} from them: give these splits")
    order = np.random.default_rng(0).permutation(number)
    rows = {split: order[a:b] for split, a, b in zip(missing, starts, ends, strict=True)}
    return {
        split: jax.tree.map(lambda x, split=split: x[rows[split]], train) if split in rows else arrays[split]
        for split in SPLITS
    }
