"""Runs of an evaluation that need not be made again: one file per optimizer and task, found by what decides it.

In an evaluation by several processes, the first one has the folder, and tells the others what is in it.

The key is a SHA-256 over everything that decides the runs: task, data, optimizer, budget, seeds, versions of the
libraries, and the source files of all of them. Commit, command and clock are no part of it. A file appears when its
entry is complete, so an evaluation that was interrupted goes on where it stopped.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
import sys
import sysconfig
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from lopt import processes
from lopt.evaluation.results import Entry, entry_arrays, entry_of
from lopt.files import check_writable, write_atomic
from lopt.names import InputError
from lopt.npz import pack, unpack
from lopt.types import PyTree

_Kept = TypeVar("_Kept")
PACKAGES = ("lopt",)  # packages whose sources count even where they are installed
LIBRARIES = {"site-packages", "dist-packages"}  # what folders of installed libraries are called


@dataclasses.dataclass(frozen=True)
class EvaluationCache:
    """Entries in a folder.

    Attributes:
      folder: where the entries are; it is made when the first one is written.
    """

    folder: Path

    def read(self, name: str, description: Mapping[str, Any]) -> Entry | None:
        """The entry that was written under the same description, if there is one. Warns of a damaged one."""
        return self._read(name, description, entry_of)

    def read_arrays(self, name: str, description: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """As `read`, of arrays that are no entry."""
        return self._read(name, description, dict)

    def _read(
        self, name: str, description: Mapping[str, Any], convert: Callable[[Mapping[str, np.ndarray]], _Kept]
    ) -> _Kept | None:
        path = self._path(name, description)
        there = processes.is_first() and path.exists()
        data = processes.bytes_of_first(b"+" + path.read_bytes() if there else b"")
        if not data:
            return None
        try:
            arrays = unpack(path, data[1:])
            if arrays.pop("description").item() != _text(description):
                raise ValueError("another description")
            return convert(arrays)
        except (InputError, KeyError, ValueError, TypeError, AttributeError):
            warnings.warn(f"damaged, so it is made again: {path}", stacklevel=3)
            return None

    def write(self, name: str, description: Mapping[str, Any], entry: Entry) -> None:
        """Keeps an entry; warns where that fails, as the entry itself is not lost.

        Args:
          name: begins the file's name, for people who look into the folder.
          description: everything that decides the entry, as plain values.
          entry: the entry.
        """
        self.write_arrays(name, description, entry_arrays(entry))

    def write_arrays(self, name: str, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """As `write`, of arrays that are no entry."""
        if not processes.is_first():
            return
        path = self._path(name, description)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, pack({**arrays, "description": np.array(_text(description))}))
        except OSError as error:
            warnings.warn(f"cannot keep runs in the cache: {error}", stacklevel=2)

    def check(self) -> None:
        """Raises InputError unless entries can be written."""
        processes.first_does(self._check)

    def _check(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_writable(self.folder)
        except OSError as error:
            message = f"cannot write to the cache {self.folder}: {error}"
            raise InputError(f"{message}; choose another with --cache, or none: --cache=") from error

    def _path(self, name: str, description: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(_text(description).encode()).hexdigest()
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')[:80]}-{key[:24]}.npz"


def arrays_sha(tree: PyTree) -> str:
    """SHA-256 of the names, dtypes, shapes and values of a pytree's arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def sources(roots: Iterable[Any]) -> dict[str, str]:
    """SHA-256 of the source files that objects come from, and of all files that those import, directly or not.

    Args:
      roots: modules; or dataclasses, which stand for the modules of their classes and of the dataclasses and functions
        in their fields.

    Returns:
      The checksums by module. Installed libraries are left out: their versions stand for them.

    Raises:
      InputError: the source of a root is not in a file.
    """
    found: dict[str, str] = {}
    waiting = [module for root in roots for module in _modules(root)]
    while waiting:
        module = waiting.pop()
        if module.__name__ in found:
            continue
        source = read_source(_file(module))
        found[module.__name__] = hashlib.sha256(source).hexdigest()
        waiting += [importlib.import_module(name) for name in _imported(source, _package(module))]
    return dict(sorted(found.items()))


def read_source(file: str) -> bytes:
    """The content of a source file."""
    return Path(file).read_bytes()


def _file(module: types.ModuleType) -> str:
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise InputError(
            f"the cache cannot tell whether {module.__name__} has changed, as its source is not in a file: "
            "write it to one and import it, or evaluate without a cache"
        )
    return file


def _package(module: types.ModuleType) -> str:
    return module.__spec__.parent or "" if module.__spec__ else ""


def _modules(value: Any) -> Iterator[types.ModuleType]:
    """The modules of a module, dataclass or function of ours, and of those within its fields."""
    if isinstance(value, types.ModuleType):
        yield value
    elif isinstance(value, functools.partial):
        yield from _modules((value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, tuple):
        for item in value:
            yield from _modules(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield sys.modules[type(value).__module__]
        for field in dataclasses.fields(value):
            yield from _modules(getattr(value, field.name))
    elif callable(value) and _is_ours(value.__module__.partition(".")[0]):
        yield sys.modules[value.__module__]


@functools.cache
def _is_ours(package: str) -> bool:
    """Whether the sources of a top-level package count. Those of installed libraries do not: their versions count."""
    if package in (*PACKAGES, "__main__"):
        return True
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.has_location or spec.origin is None:
        return False
    origin = Path(spec.origin).resolve()
    # By the folder's name, as a virtual environment may see the libraries of another.
    installed = not LIBRARIES.isdisjoint(origin.parts)
    return not installed and not origin.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


@functools.lru_cache(maxsize=256)
def _imported(source: bytes, package: str) -> tuple[str, ...]:
    """The modules of ours from which the source of a module in `package` imports names, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [f"{origin}.{alias.name}" for alias in node.names]
    ours = [name for name in names if _is_ours(name.partition(".")[0])]
    return tuple(name if _is_module(name) else name.rpartition(".")[0] for name in ours)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, and no package
        return False


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)
