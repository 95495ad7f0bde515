"""Preparing a built-in set: written once as a TFDS data set, wholly or not at all."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lopt.extras import explained
from lopt.names import InputError

from .prepared import quiet
from .sources import BuiltinSet, Splits

# Folders that preparations write to. One whose process was killed stays, and the next preparation deletes it.
_SCRATCH = ".preparing-"
_SCRATCH_NAME = re.compile(re.escape(_SCRATCH) + "[a-z0-9_]{8}")


def prepare_builtin(entry: BuiltinSet, root: Path) -> Path:
    """The folder of a built-in set, made if it is not there. Safe against interruption and a second process.

    Raises:
      InputError: the package that the set comes from is missing or another, or the folder cannot be written.
    """
    folder = root / entry.folder
    try:
        if folder.is_dir():
            return folder
        splits = _read(entry)  # before anything is written
        root.mkdir(parents=True, exist_ok=True)
        _delete_left_overs(root)
        # Written under a name that nothing reads, then renamed: a rename happens wholly or not at all.
        with _scratch_folder(root) as scratch:
            _write(entry, splits, scratch)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                Path(scratch, entry.folder).rename(folder)
            except OSError:
                if not folder.is_dir():  # if it is, another process was faster, and made the same files
                    raise
    except OSError as error:
        raise InputError(
            f"cannot write data set {entry.name!r} to {root}: {error.strerror or error}. Choose another --data_dir."
        ) from error
    return folder


def _read(entry: BuiltinSet) -> Splits:
    """The set, out of its package."""
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if not entry.package:
            raise InputError(f"data set {entry.name!r} is part of Python itself, which lacks it: {error}") from error
        raise explained(f"data set {entry.name!r}", error) from error
    except OSError as error:
        raise InputError(
            f"cannot read data set {entry.name!r} out of {entry.package or 'Python'}: {error}. Install that again."
        ) from error


@contextlib.contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A new folder under `root`, locked as long as it is in use, and then deleted."""
    while True:
        made = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=root, ignore_cleanup_errors=True)
        with made as name, _locked(Path(name)) as lock:
            if lock is not False:  # else another process took it for a left-over before it was locked
                yield Path(name)
                return


def _delete_left_overs(root: Path) -> None:
    """Deletes the folders of preparations whose processes are gone: nobody holds their locks."""
    for path in root.iterdir():
        if _SCRATCH_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with _locked(path) as lock:
                if lock:
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool | None]:
    """Locks a folder against other processes; the system unlocks it when this one ends, however it does.

    Yields:
      True; False if another process holds it or it is gone; None if the file system has no locks.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _try_lock(descriptor, folder)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, folder: Path) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return None


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
    try:
        with quiet():
            Builtin(data_dir=root, file_format="array_record").download_and_prepare()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # array_record raises RuntimeError where the disk is full
        raise OSError(str(error).partition("; ")[0]) from error
