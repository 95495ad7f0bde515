"""The only door to TensorFlow Datasets (TFDS): image classification sets as numpy arrays, without TensorFlow.

A built-in set (`tasks.builtin`) is prepared into the data directory when it is first loaded. A public set is read if it
lies there already prepared as array_record, the one TFDS format that can be written and read without TensorFlow; it is
never downloaded, as TFDS prepares its public sets with TensorFlow only and waits minutes for a network that is missing.
"""

import contextlib
import difflib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.names import InputError
from lopt.types import SPLITS
from tasks.builtin import BUILTIN, BuiltinSet

# How a public set, which has train and test, is cut into ours. TFDS has shuffled the images when it prepared them.
PUBLIC_SPLITS = {"train": "train[:80%]", "meta": "train[80%:90%]", "valid": "train[90%:]", "test": "test"}


class DatasetInfo(NamedTuple):
    """What a data set holds.

    Attributes:
      name: of the data set.
      num_classes: labels are 0..num_classes-1.
      image_shape: `(height, width, channels)`.
      split_sizes: number of images of each split in `lopt.types.SPLITS`.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    split_sizes: dict[str, int]


def resolve_data_dir(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The directory that data sets lie in: the argument, else the variable TFDS_DATA_DIR, else TFDS's own default."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or Path("~", "tensorflow_datasets")
    return Path(chosen).expanduser().absolute()


def describe(name: str, data_dir: str | os.PathLike[str] | None = None) -> DatasetInfo:
    """What the set `name` holds, at little cost: reads no images and prepares nothing.

    Raises:
      InputError: the set is unknown, not prepared, or not one that `load_images` can read.
    """
    if name in BUILTIN:
        entry = BUILTIN[name]
        return DatasetInfo(name, entry.num_classes, entry.image_shape, dict(entry.split_sizes))
    folder = _find(name, resolve_data_dir(data_dir))
    return _check(name, folder, _open(folder))[0]


def load_images(name: str, data_dir: str | os.PathLike[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Reads the set `name`; prepares a built-in one first if it is not there yet.

    Returns:
      `{split: {"image": uint8 [n, h, w, c], "label": int32 [n]}}` for each split in `lopt.types.SPLITS`.

    Raises:
      InputError: as `describe`; or the files are damaged; or a built-in set cannot be written.
    """
    root = resolve_data_dir(data_dir)
    folder = _prepare(BUILTIN[name], root) if name in BUILTIN else _find(name, root)
    builder = _open(folder)
    info, instructions = _check(name, folder, builder)
    data = {}
    for split, instruction in instructions.items():
        with _damage_reported(folder), _quiet():
            source = builder.as_data_source(instruction)
            examples = source.__getitems__(range(len(source)))  # in one batch: several times faster than one by one
            image = np.stack([example["image"] for example in examples])
            label = np.array([example["label"] for example in examples], np.int32)
        if label.min() < 0:
            raise InputError(f"{name!r} in {folder}: split {instruction!r} holds images without a label")
        data[split] = {"image": image, "label": label}
    assert {split: len(arrays["label"]) for split, arrays in data.items()} == info.split_sizes
    return data


def _find(name: str, root: Path) -> Path:
    """The folder of the newest version of a set that somebody prepared under `root`."""
    if re.fullmatch(r"\w+(/\w[\w.-]*)?", name) and (root / name).is_dir():  # NAME or NAME/CONFIG
        versions = [path for path in (root / name).iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
        if not versions:
            held = ", ".join(sorted(path.name for path in (root / name).iterdir())) or "nothing"
            raise InputError(
                f"{name!r} is not prepared in {root / name}: it should hold a folder named after a version, such as "
                f"3.0.1, but holds {held}. Copy the whole folder {name} again, or name a configuration: {name}/CONFIG."
            )
        return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])

    import tensorflow_datasets as tfds

    # Community sets are left out: to list them TFDS goes to the network.
    public = tfds.list_builders(with_community_datasets=False)
    if name.partition("/")[0] in public:
        raise InputError(
            f"data set {name!r} is not prepared in {root}. On a machine with network: pip install tensorflow "
            f"tensorflow-datasets; tfds build {name} --file_format=array_record --data_dir=DIR; then copy the folder "
            f"DIR/{name} to {root / name}. Sets that need no network: {', '.join(BUILTIN)}."
        )
    prepared = sorted(path.parent.name for path in root.glob("*/[0-9]*.*.*") if path.parent.name not in BUILTIN)
    near = difflib.get_close_matches(name, [*BUILTIN, *prepared, *public], n=1, cutoff=0.5)
    raise InputError(
        f"unknown data set {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} Built in: {', '.join(BUILTIN)}. "
        f"Prepared in {root}: {', '.join(dict.fromkeys(prepared)) or 'none'}. Any image classification set of "
        f"TensorFlow Datasets can be prepared there."
    )


def _open(folder: Path) -> Any:
    """TFDS's read-only builder of a prepared set."""
    import tensorflow_datasets as tfds

    with _damage_reported(folder), _quiet():
        return tfds.builder_from_directory(folder)


def _check(name: str, folder: Path, builder: Any) -> tuple[DatasetInfo, dict[str, str]]:
    """What a prepared set holds, and TFDS's name for each of our splits; refuses what cannot be read."""
    import tensorflow_datasets as tfds

    def refuse(reason: str) -> InputError:
        return InputError(f"cannot use data set {name!r} in {folder}: {reason}")

    formats = {form.value for form in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise refuse(
            f"it was prepared as {', '.join(sorted(formats)) or 'no known format'}, which needs TensorFlow to be read. "
            f"Prepare it again with tfds build {name} --file_format=array_record."
        )

    features = builder.info.features
    missing = [feature for feature in ("image", "label") if feature not in features]
    if missing:
        raise refuse(f"it has no feature {' or '.join(missing)}, but {', '.join(features)}")
    image, label = features["image"], features["label"]
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise refuse(f"its label is no class label: {label}")
    shape = image.shape
    if type(image) not in (tfds.features.Image, tfds.features.Tensor) or len(shape) != 3 or image.np_dtype != np.uint8:
        raise refuse(f"its image is not an array of bytes [height, width, channels]: {image}")
    if None in shape or shape[-1] not in (1, 3):
        raise refuse(f"its images must share one size and have 1 or 3 channels: {shape}")

    splits = builder.info.splits
    if set(SPLITS) <= set(splits):
        instructions = {split: split for split in SPLITS}
    elif {"train", "test"} <= set(splits):
        instructions = PUBLIC_SPLITS
    else:
        raise refuse(f"it has no splits train and test, but {', '.join(splits) or 'none'}")
    sizes = {split: splits[instruction].num_examples for split, instruction in instructions.items()}
    if not all(sizes.values()):
        raise refuse(f"a split is empty: {sizes}")
    used = {instruction.partition("[")[0] for instruction in instructions.values()}
    absent = [path.name for split in used for path in splits[split].filepaths if not path.exists()]
    if absent:
        raise refuse(f"it is incomplete: {', '.join(sorted(absent))} missing. {_REPAIR}")
    return DatasetInfo(name, label.num_classes, shape, sizes), instructions


_REPAIR = "Copy the folder again; a built-in set is made anew once its folder is deleted."


@contextlib.contextmanager
def _damage_reported(folder: Path) -> Iterator[None]:
    """Turns what TFDS raises about unreadable files into an InputError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # TFDS and array_record raise nearly every type there is, depending on the damage
        raise InputError(f"the data set in {folder} is damaged or half prepared: {error}. {_REPAIR}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what TFDS prints and logs, such as its advice to install OpenCV."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)


def _prepare(entry: BuiltinSet, root: Path) -> Path:
    """The folder of a built-in set, made if it is not there. Safe against interruption and a second process."""
    folder = root / entry.name / entry.version
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made under a name that nothing reads, then renamed, which happens wholly or not at all.
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=root) as scratch:
            _write(entry, Path(scratch))
            try:
                Path(scratch, entry.name, entry.version).rename(folder)
            except OSError:
                if not folder.is_dir():  # where it is, another process was faster, and made the same files
                    raise
    except OSError as error:
        raise InputError(
            f"cannot write data set {entry.name!r} to {root}: {error}. Choose another --data_dir."
        ) from error
    except ModuleNotFoundError as error:
        raise InputError(f"data set {entry.name!r} is part of a package that is not installed: {error}") from error
    return folder


def _write(entry: BuiltinSet, root: Path) -> None:
    """Writes a built-in set as a TFDS data set under `root`."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            # Tensor, not Image: encoding an Image needs TensorFlow.
            "image": tfds.features.Tensor(shape=entry.image_shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=entry.num_classes),
        }
    )

    # Not registered: TFDS may have a set of the same name.
    class Builtin(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = entry.name
        VERSION = tfds.core.Version(entry.version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=entry.description,
                features=features,
                license=entry.licence,
                citation=entry.citation,
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager
            return {split: self._generate_examples(*arrays) for split, arrays in entry.load().items()}

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": image, "label": int(label)}

    tfds.disable_progress_bar()
    with _quiet():
        Builtin(data_dir=root, file_format="array_record").download_and_prepare()
