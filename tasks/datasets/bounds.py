"""What a prepared set from elsewhere may say of itself, looked at before TFDS believes it.

TFDS imports whatever module `features.json` names for a feature, and numbers in the two JSON files decide how much
memory is taken: so names, sizes and depths are compared with what a set can be before it is opened.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopt.types import SPLITS

from .blocks import BLOCK_IMAGES

MAX_JSON_BYTES = 2**24  # of dataset_info.json or features.json; those of TFDS have kilobytes
MAX_DEPTH = 32  # of brackets in them
MAX_CLASSES = 100_000  # ImageNet-21k has 21,841
MAX_EXAMPLE_BYTES = 2**26  # of one image or row
MAX_BLOCK_BYTES = 2**35  # of what is read at once of a set that streams
_OURS = "tensorflow_datasets.core.features."  # where the features of TFDS itself are
_NAMES = ("pythonClassName", "python_class_name", "type")  # keys under which it looks for the name of a class


def check_files(folder: Path) -> None:
    """Raises ValueError unless both JSON files of a set can be given to TFDS; one that is missing passes.

    Args:
      folder: of the set, named after its version.
    """
    for name in ("dataset_info.json", "features.json"):
        path = folder / name
        if not path.is_file():
            continue
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ValueError(f"{name} has {size:,} bytes, where at most {MAX_JSON_BYTES:,} are possible")
        try:
            content = json.loads(path.read_bytes())
        except RecursionError as error:
            raise ValueError(f"{name} is nested too deeply") from error
        _check_names(content, name, MAX_DEPTH)


def check_claims(kind: str, num_classes: int, shape: tuple[int, ...], sizes: Mapping[str, int], streams: bool) -> None:
    """Raises ValueError where a set claims more than is ever read or trained on.

    Args:
      kind: `"image"`, `"text"` or `"table"`.
      num_classes: labels are 0..num_classes-1.
      shape: of an example; `()` of a text.
      sizes: examples of each split in `lopt.types.SPLITS`.
      streams: whether the set is read in blocks.
    """
    if num_classes > MAX_CLASSES:
        raise ValueError(f"it has {num_classes:,} classes, and at most {MAX_CLASSES:,} are read")
    if kind == "text":
        return
    example = math.prod(shape) * (1 if kind == "image" else 4)
    if min(shape) < 1 or example > MAX_EXAMPLE_BYTES:
        raise ValueError(f"an example of shape {shape} has {example:,} bytes, of 1 to {MAX_EXAMPLE_BYTES:,} possible")
    block = sum(min(sizes[split], BLOCK_IMAGES[split]) for split in SPLITS) * example
    if streams and block > MAX_BLOCK_BYTES:
        raise ValueError(f"a block of it has {block:,} bytes, and at most {MAX_BLOCK_BYTES:,} are read at once")


def _check_names(value: Any, file: str, depth: int) -> None:
    if not depth:
        raise ValueError(f"{file} is nested too deeply")
    if isinstance(value, list):
        for item in value:
            _check_names(item, file, depth - 1)
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _NAMES and file == "features.json" and isinstance(item, str) and not item.startswith(_OURS):
                raise ValueError(f"{file} names {item[:200]!r}, which is no feature of TFDS: it is not imported")
            _check_names(item, file, depth - 1)
