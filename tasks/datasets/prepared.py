"""Data sets that lie prepared in the data directory: finding one, opening it, checking what it holds.

They are read as array_record, the one TFDS format that can be written and read without TensorFlow. A public set is
never downloaded, because TFDS prepares its public sets only with TensorFlow, and waits minutes for a missing network.
"""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.names import InputError

from . import blocks, bounds
from .builtin import BUILTIN
from .layout import Part, read_features, read_parts

KINDS = ("image", "text", "table")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_REPAIR = "Copy the folder again; a built-in set is made anew once its folder is deleted."


class DatasetInfo(NamedTuple):
    """What a data set holds.

    Attributes:
      name: name of the data set.
      kind: `"image"`, `"text"` or `"table"`.
      num_classes: labels are 0..num_classes-1; 0 for text and regression.
      shape: of an image `(height, width, channels)`; of a row `(features,)`; of a text `()`.
      split_sizes: images, rows or characters of each split in `lopt.types.SPLITS`, whether it streams or not. For a
        public text the number is approximate, because the text is not read for it.
      streams: whether it is too large to be held and is read in blocks.
    """

    name: str
    kind: str
    num_classes: int
    shape: tuple[int, ...]
    split_sizes: dict[str, int]
    streams: bool


class Prepared(NamedTuple):
    """A prepared set.

    Attributes:
      info: what it holds.
      folder: where it lies.
      builder: TFDS's read-only builder of it.
      parts: where our splits are found in it.
    """

    info: DatasetInfo
    folder: Path
    builder: Any
    parts: dict[str, Part]


def resolve_data_dir(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The directory that data sets lie in: the argument, else the variable TFDS_DATA_DIR, else TFDS's own default.

    Raises:
      InputError: an address such as gs://...
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or Path("~", "tensorflow_datasets")
    if "://" in str(chosen):
        raise InputError(f"the data directory must be a folder of this machine, not {str(chosen)!r}: copy or mount it")
    # Not Path.expanduser, which takes ./~ for ~; and ~NAME of no user is a folder, as in shells.
    return Path(os.path.expanduser(chosen)).absolute()


def list_public(root: Path) -> list[str]:
    """NAME or NAME/CONFIG of the sets under `root` that are not built in."""
    with readable(root):
        versions = [*root.glob("[!.]*/[0-9]*.*.*"), *root.glob("[!.]*/[!.]*/[0-9]*.*.*")]
        versions = [path for path in versions if _VERSION.fullmatch(path.name) and path.is_dir()]
    folders = {path.parent.relative_to(root) for path in versions}
    return sorted(str(folder) for folder in folders if folder.parts[0] not in BUILTIN)


def find(name: str, root: Path) -> Path:
    """The folder of the newest version of a set that somebody prepared under `root`."""
    with readable(root):
        known = re.fullmatch(r"\w+(/\w[\w.-]*)?", name) and (root / name).is_dir()  # NAME or NAME/CONFIG
        entries = sorted((root / name).iterdir()) if known else []
    if known:
        versions = [path for path in entries if _VERSION.fullmatch(path.name)]
        if not versions:
            held = ", ".join(path.name for path in entries) or "nothing"
            raise InputError(
                f"{name!r} is not prepared in {root / name}: it should hold a folder named after a version, such as "
                f"3.0.1, but holds {held}. Copy the whole folder {name} again, or name a configuration: {name}/CONFIG."
            )
        return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])

    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # so that wikipedia and other texts are listed

    # Community sets are left out: TFDS would list them from the network.
    public = tfds.list_builders(with_community_datasets=False)
    if name.partition("/")[0] in public:
        raise InputError(
            f"data set {name!r} is not prepared in {root}. On a machine with network: pip install tensorflow "
            f"tensorflow-datasets; tfds build {name} --file_format=array_record --data_dir=DIR; then copy the folder "
            f"DIR/{name} to {root / name}. Sets that need no network: {', '.join(BUILTIN)}."
        )
    held = list_public(root)
    near = difflib.get_close_matches(name, [*BUILTIN, *held, *public], n=1, cutoff=0.5)
    raise InputError(
        f"unknown data set {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} Built in: {', '.join(BUILTIN)}. "
        f"Prepared in {root}: {', '.join(held) or 'none'}. Any set of labelled images or of text of TensorFlow "
        f"Datasets can be prepared there, and a folder with your own train.npz (image, label; or x, y) "
        f"by python -m lopt tasks prepare FOLDER: docs/own_data.md."
    )


def open_folder(name: str, folder: Path) -> Prepared:
    """Opens a prepared set; refuses what cannot be read. Reads no examples."""
    import tensorflow_datasets as tfds

    with damage_reported(folder), quiet():
        bounds.check_files(folder)
        builder = tfds.builder_from_directory(folder)

    def refuse(reason: str) -> InputError:
        return InputError(f"cannot use data set {name!r} in {folder}: {reason}")

    formats = {form.value for form in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise refuse(
            f"it was prepared as {', '.join(sorted(formats)) or 'no known format'}, which needs TensorFlow to be read. "
            f"Prepare it again with tfds build {name} --file_format=array_record."
        )
    try:
        kind, num_classes, shape = read_features(builder.info.features)
        parts = read_parts(set(builder.info.splits))
    except ValueError as error:
        raise refuse(str(error)) from None

    splits = {source: builder.info.splits[source] for source in {part.source for part in parts.values()}}
    with readable(folder):
        absent = [path.name for split in splits.values() for path in split.filepaths if not path.exists()]
    if absent:
        raise refuse(f"it is incomplete: {', '.join(sorted(absent))} missing. {_REPAIR}")
    examples = {source: split.num_examples for source, split in splits.items()}
    num_bytes = sum(split.num_bytes for split in splits.values())
    if kind != "text":
        num_bytes = sum(examples.values()) * int(np.prod(shape))
    streams = blocks.too_large(kind, num_bytes, sum(examples.values()))
    lengths = examples  # the unit in which a split is cut
    if kind == "text" and not streams:
        lengths = {source: split.num_bytes for source, split in splits.items()}
    sizes = _sizes(parts, lengths)
    if not all(sizes.values()):
        raise refuse(f"a split is empty: {sizes}")
    try:
        bounds.check_claims(kind, num_classes, shape, sizes, streams)
    except ValueError as error:
        raise refuse(str(error)) from None
    if kind == "text":
        sizes = _sizes(parts, {source: split.num_bytes for source, split in splits.items()})
    return Prepared(DatasetInfo(name, kind, num_classes, shape, sizes, streams), folder, builder, parts)


def _sizes(parts: dict[str, Part], lengths: dict[str, int]) -> dict[str, int]:
    bounds = {split: part.bounds(lengths[part.source]) for split, part in parts.items()}
    return {split: stop - start for split, (start, stop) in bounds.items()}


@contextlib.contextmanager
def readable(place: Path) -> Iterator[None]:
    """Turns what the operating system refuses about the data directory, or a folder in it, into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror or error}. Choose another --data_dir.") from error


@contextlib.contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Turns what TFDS raises about unreadable files into an InputError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # TFDS and array_record raise nearly every type there is, depending on the damage
        raise InputError(f"the data set in {folder} is damaged or half prepared: {error}. {_REPAIR}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what TFDS prints and logs, such as its advice to install OpenCV."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
