"""The only door to TensorFlow Datasets (TFDS): images, texts and tables as numpy arrays, without TensorFlow.

A built-in set (`BUILTIN`) is prepared into the data directory when it is first loaded. A public set is read if it lies
there already prepared. A set too large to be held is read one block at a time (`blocks`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.extras import need
from lopt.names import InputError
from lopt.types import SPLITS

from . import blocks
from .blocks import BLOCK_IMAGES
from .builtin import BUILTIN
from .own import write_folder, write_set
from .prepared import (
    DatasetInfo,
    Prepared,
    damage_reported,
    find,
    list_public,
    open_folder,
    quiet,
    readable,
    resolve_data_dir,
)
from .symbols import NUM_SYMBOLS, decode, encode
from .writing import prepare_builtin

__all__ = [
    "BLOCK_IMAGES",
    "BUILTIN",
    "NUM_SYMBOLS",
    "BuiltinListing",
    "DatasetInfo",
    "check_kind",
    "decode",
    "describe",
    "list_builtin",
    "list_prepared",
    "load_images",
    "load_table",
    "load_text",
    "prepare",
    "resolve_data_dir",
    "write_folder",
    "write_set",
]

DataDir = str | os.PathLike[str] | None

# What a set of each kind is to a person, and a family that reads it.
_KINDS = {"image": ("labelled images", "image_mlp"), "text": ("a text", "text_rnn"), "table": ("a table", "table_mlp")}


class BuiltinListing(NamedTuple):
    """A built-in set, for people.

    Attributes:
      info: what it holds.
      description: one line.
      licence: licence of the data.
      prepared: whether it lies in the data directory.
    """

    info: DatasetInfo
    description: str
    licence: str
    prepared: bool


def list_builtin(data_dir: DataDir = None) -> list[BuiltinListing]:
    """Every built-in set."""
    root = resolve_data_dir(data_dir)
    with readable(root):
        return [
            BuiltinListing(describe(name), entry.description, entry.licence, (root / entry.folder).is_dir())
            for name, entry in BUILTIN.items()
        ]


def list_prepared(data_dir: DataDir = None) -> list[str]:
    """NAME or NAME/CONFIG of the other sets in the data directory, whether they can be read or not."""
    return list_public(resolve_data_dir(data_dir))


def prepare(name: str, data_dir: DataDir = None) -> Path:
    """Writes a built-in set into the data directory unless it is there, and returns the folder of the set.

    Raises:
      InputError: the set is unknown, a public one that is not prepared, or cannot be read or written.
    """
    _need_tfds(name)
    root = resolve_data_dir(data_dir)
    folder = prepare_builtin(BUILTIN[name], root) if name in BUILTIN else find(name, root)
    return open_folder(name, folder).folder


def describe(name: str, data_dir: DataDir = None) -> DatasetInfo:
    """Tells what the set `name` holds; reads no examples and prepares nothing.

    Raises:
      InputError: the set is unknown, not prepared, or not one that can be read.
    """
    if name in BUILTIN:
        entry = BUILTIN[name]
        return DatasetInfo(name, entry.kind, entry.num_classes, entry.shape, dict(entry.split_sizes), False)
    _need_tfds(name)
    return open_folder(name, find(name, resolve_data_dir(data_dir))).info


def check_kind(info: DatasetInfo, kind: str) -> None:
    """Raises InputError, naming a family that reads the set, unless it is an `"image"`, `"text"` or `"table"` set."""
    if info.kind != kind:
        what, family = _KINDS[info.kind]
        raise InputError(
            f"data set {info.name!r} is {what}, not {_KINDS[kind][0]}: it is read by families such as "
            f"{family}/{info.name}"
        )


def load_images(
    name: str, data_dir: DataDir = None, *, seed: int = 0, block: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Reads the images of the set `name`; prepares a built-in one first if it is not there yet.

    Args:
      name: name of the set.
      data_dir: directory that holds it; None for the default.
      seed: for a set that streams, decides together with `block` which images are read; else ignored.
      block: 0, 1, ...

    Returns:
      `{split: {"image": uint8 [n, h, w, c], "label": int32 [n]}}` for each split in `lopt.types.SPLITS`.

    Raises:
      InputError: as `describe`; the set holds no images; its files are damaged; or a built-in one cannot be written.
    """
    return _load_rows(_open(name, data_dir, "image"), "image", "label", seed, block)


def load_table(name: str, data_dir: DataDir = None) -> dict[str, dict[str, np.ndarray]]:
    """Reads the table `name`, not standardised; prepares a built-in one first if it is not there yet.

    Returns:
      `{split: {"x": float32 [n, d], "y": [n]}}` for each split; `y` is int32 for classes, float32 for regression.

    Raises:
      InputError: as `load_images`.
    """
    return _load_rows(_open(name, data_dir, "table"), "x", "y", 0, 0)


def load_text(name: str, data_dir: DataDir = None, *, seed: int = 0, block: int = 0) -> dict[str, np.ndarray]:
    """Reads the text `name`; prepares a built-in one first if it is not there yet.

    Examples are joined by newlines. A text that is held is cut into splits between characters, one that
    streams between examples.

    Args:
      name: name of the set.
      data_dir: directory that holds it; None for the default.
      seed: for a set that streams, decides together with `block` which stretches are read; else ignored.
      block: 0, 1, ...

    Returns:
      `{split: uint8 [n]}`, symbols in 0..NUM_SYMBOLS-1: 0..94 are ASCII 32..126, 95 is newline, 96 anything else.

    Raises:
      InputError: as `load_images`; or the text is so short that a split is empty.
    """
    found = _open(name, data_dir, "text")
    whole = {}  # of a text that is held, each split that TFDS has
    data = {}
    for split, part in found.parts.items():
        source = _Source(found, part.source)
        if found.info.streams:
            start, stop = part.bounds(len(source))
            mean = found.builder.info.splits[part.source].num_bytes / len(source)
            data[split] = blocks.draw_text(
                split,
                stop - start,
                mean,
                lambda chosen, source=source, start=start: source.text([start + i for i in chosen]),
                seed=seed,
                block=block,
            )
        else:
            if part.source not in whole:
                whole[part.source] = source.text(range(len(source)))
            start, stop = part.bounds(len(whole[part.source]))
            data[split] = whole[part.source][start:stop]
    short = [split for split in SPLITS if not len(data[split])]
    if short:
        raise InputError(f"{name!r} in {found.folder} is too short a text: nothing is left for {', '.join(short)}")
    return data


def _open(name: str, data_dir: DataDir, kind: str) -> Prepared:
    """The set, once it is known to be of this kind; a built-in one is prepared."""
    _need_tfds(name)
    root = resolve_data_dir(data_dir)
    if name in BUILTIN:
        check_kind(describe(name), kind)
        return open_folder(name, prepare_builtin(BUILTIN[name], root))
    found = open_folder(name, find(name, root))
    check_kind(found.info, kind)
    return found


def _need_tfds(name: str) -> None:
    need(f"data set {name!r}", "tensorflow_datasets", "importlib_resources")


class _Source:
    """Random access to a split that TFDS has. Unreadable files are InputErrors."""

    def __init__(self, found: Prepared, source: str):
        self.folder = found.folder
        with damage_reported(self.folder), quiet():
            self.examples = found.builder.as_data_source(source)

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, chosen: Sequence[int], *features: str) -> list[dict[str, Any]]:
        """These examples, each with these features."""
        with damage_reported(self.folder), quiet():
            examples = self.examples.__getitems__(chosen)  # in one batch: several times faster than one by one
            if any(example[feature] is None for example in examples for feature in features):
                raise ValueError("an example is empty")  # as TFDS gives one that it cannot read
            return examples

    def text(self, chosen: Sequence[int]) -> np.ndarray:
        """Symbols uint8 [n] of these examples, joined by newlines."""
        return encode(b"\n".join(example["text"] for example in self.read(chosen, "text")))


def _load_rows(found: Prepared, x: str, y: str, seed: int, block: int) -> dict[str, dict[str, np.ndarray]]:
    """`{split: {x: [n, ...], y: [n]}}`, the whole set, or a block of one that streams."""
    data = {}
    for split, part in found.parts.items():
        source = _Source(found, part.source)
        start, stop = part.bounds(len(source))
        chosen = range(start, stop)
        if found.info.streams:
            chosen = (start + blocks.draw_examples(split, stop - start, seed=seed, block=block)).tolist()
        examples = source.read(chosen, x, y)
        with damage_reported(found.folder):  # an image may not be of the size that is promised
            inputs = np.stack([example[x] for example in examples])
        targets = np.array([example[y] for example in examples], np.int32 if found.info.num_classes else np.float32)
        if found.info.num_classes and not 0 <= targets.min() <= targets.max() < found.info.num_classes:
            what = "images" if x == "image" else "rows"
            raise InputError(
                f"{found.info.name!r} in {found.folder}: split {part.source!r} holds {what} without a label, or with "
                f"one that is not below {found.info.num_classes}"
            )
        data[split] = {x: inputs, y: targets}
    return data
