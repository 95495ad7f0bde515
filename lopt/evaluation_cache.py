"""Runs of an evaluation that need not be made again: one file for each optimizer on each task, found by its content.

The key is a SHA-256 over everything that decides the runs: task, data, optimizer, budget, seeds, versions of the
libraries, and the source files of all of them. It has nothing of the commit, the command or the clock. A file appears
when its entry is complete, so an evaluation that was interrupted goes on where it was.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lopt.entries import entry_arrays, entry_of, pack, unpack
from lopt.files import write_atomic
from lopt.names import InputError
from lopt.scores import Entry
from lopt.types import PyTree

PACKAGES = ("tasks", "lopt.optimizers")  # of whose modules those that are imported count as well


@dataclasses.dataclass(frozen=True)
class EvaluationCache:
    """Entries in a folder.

    Attributes:
      folder: is made when the first one is written.
    """

    folder: Path

    def read(self, name: str, description: Mapping[str, Any]) -> Entry | None:
        """The entry that was written under the same description, if there is one; a damaged one warns."""
        path = self._path(name, description)
        if not path.exists():
            return None
        try:
            return entry_of(unpack(path))
        except (InputError, KeyError, ValueError):
            warnings.warn(f"damaged, so it is made again: {path}", stacklevel=2)
            return None

    def write(self, name: str, description: Mapping[str, Any], entry: Entry) -> None:
        """Keeps an entry. `name` is for people who look into the folder.

        Raises:
          InputError: the folder cannot be written.
        """
        path = self._path(name, description)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays = entry_arrays(entry) | {"description": np.array(_text(description))}
            write_atomic(path, pack(arrays))
        except OSError as error:
            message = (
                f"cannot write to the cache {self.folder}: {error}; choose another with --cache, or none: --cache="
            )
            raise InputError(message) from error

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
    """SHA-256 of the source files that objects come from.

    Args:
      roots: modules by name, or dataclasses, which stand for the modules of their classes and of the dataclasses in
        their fields.

    Returns:
      By module: these, and what they import of `PACKAGES`, directly or not.
    """
    found: dict[str, str] = {}
    waiting = [name for root in roots for name in ([root] if isinstance(root, str) else _modules(root))]
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in found or file is None:
            continue
        source = read_source(file)
        found[name] = hashlib.sha256(source).hexdigest()
        waiting += _imported(source)
    return dict(sorted(found.items()))


def read_source(file: str) -> bytes:
    """The content of a source file."""
    return Path(file).read_bytes()


def _modules(value: Any) -> Iterator[str]:
    """The modules of a dataclass and of those in its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__module__
        for field in dataclasses.fields(value):
            yield from _modules(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _modules(item)


@functools.lru_cache(maxsize=256)
def _imported(source: bytes) -> tuple[str, ...]:
    """What a source imports of `PACKAGES`, as modules that are loaded."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = []
    for name in names:
        if any(name.startswith(f"{package}.") for package in PACKAGES):
            found.append(name if name in sys.modules else name.rpartition(".")[0])
    return tuple(found)


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)
