"""The files of a trained optimizer: `theta.safetensors` holds the arrays, `card.json` says what they are.

Reading an export runs nothing that it holds: there are no pickles, and every field is checked before it is used.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from lopt.files import write_atomic
from lopt.names import InputError
from lopt.trained.card import (
    CARD_KEYS,
    FEATURE_CONTRACT,
    FORMAT,
    describe_optimizer,
    optimizer_of,
    write_card,
)
from lopt.trained.folders import CARD_FILE, THETA_FILE, Read, previous_export, read_files, theta_arrays
from lopt.trees import by_name, describe, describe_leaves, differences, map_with_name
from lopt.types import LearnedOptimizer, Theta
from lopt.version import versions


def check_exportable(optimizer: LearnedOptimizer, folder: str | os.PathLike | None = None) -> None:
    """Raises what `save_export` would raise, before anything is paid for.

    Args:
      optimizer: the rule to export.
      folder: where, if known.

    Raises:
      InputError: the rule cannot be described by its settings, or has no theta of float32; or the folder holds
        something else than an export.
    """
    describe_optimizer(optimizer)
    for name, leaf in by_name(theta_template(optimizer)).items():
        if leaf.dtype != jnp.float32:
            raise InputError(f"{optimizer} cannot be exported: theta is float32, and its {name} is {leaf.dtype}")
    if folder is not None:
        try:
            place = Path(folder).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
            raise InputError(f"cannot use the folder {os.fspath(folder)!r} for an export: {error}") from error
        _check_folder(place)


def save_export(
    folder: str | os.PathLike, optimizer: LearnedOptimizer, theta: Theta, *, card: Mapping[str, Any]
) -> Path:
    """Writes an export; the one that `folder` held before stays usable until the new one is complete.

    The same theta gives the same bytes. Files of others in the folder, such as `.DS_Store`, are left there.

    Args:
      folder: is created, or replaced if it holds an export.
      optimizer: the rule with its settings.
      theta: its meta-parameters, float32 arrays.
      card: at least `CARD_KEYS`, where `horizon` is the (shortest, longest) trajectory; further keys are kept.

    Returns:
      The folder's path, without symbolic links.

    Raises:
      InputError: the optimizer, theta or card cannot be exported, or `folder` holds something else.
    """
    for key in CARD_KEYS:
        if key not in card:
            raise InputError(f"the card of an export must hold {key!r}")
    description = describe_optimizer(optimizer)
    theta_bytes = safetensors.numpy.save(_flatten(optimizer, theta))
    full_card = {
        **card,
        **description,
        "format": FORMAT,
        "feature_contract": FEATURE_CONTRACT,
        "theta_sha256": hashlib.sha256(theta_bytes).hexdigest(),
        "versions": versions(),
    }
    folder = Path(folder).resolve()
    _swap_in(folder, {THETA_FILE: theta_bytes, CARD_FILE: write_card(full_card)})
    return folder


def read_export(
    find: Callable[[], Path], optimizer: LearnedOptimizer | None = None
) -> tuple[LearnedOptimizer, Theta, dict[str, Any], Path]:
    """Optimizer, theta, card and folder of an export that a run may be replacing at this moment.

    Args:
      find: gives the export's folder.
      optimizer: the rule, for one that is not part of lopt.

    Raises:
      InputError: it is damaged, of another version, or of another rule.
    """
    return read_files(find, lambda card: optimizer_of(card, optimizer), _read_theta)


def theta_template(optimizer: LearnedOptimizer) -> Theta:
    """Shapes and types of the optimizer's theta, without computing it, and whatever `jax_enable_x64` says."""
    try:
        with jax.enable_x64(False):
            return jax.eval_shape(lambda: optimizer.init_theta(jax.random.key(0)))
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # settings of a wrong type may fail in any way
        raise InputError(f"{optimizer} has no theta: {error}") from error


def _flatten(optimizer: LearnedOptimizer, theta: Theta) -> dict[str, np.ndarray]:
    # safetensors writes memory as it is, so arrays must be in C order.
    arrays = {name: np.array(leaf, order="C") for name, leaf in sorted(by_name(theta).items())}
    _check_arrays(arrays, theta_template(optimizer))
    return arrays


def _read_theta(optimizer: LearnedOptimizer, card: Mapping[str, Any], read: Read) -> Theta:
    template = theta_template(optimizer)
    numbers = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))
    arrays = theta_arrays(card, read, numbers)
    _check_arrays(arrays, template)
    return map_with_name(lambda name, _: jnp.array(arrays[name]), template)


def _check_arrays(arrays: Mapping[str, np.ndarray], template: Theta) -> None:
    found = {name: describe(array) for name, array in arrays.items()}
    if different := differences(found, describe_leaves(template)):
        raise InputError(f"theta does not fit this architecture: {different}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"theta has numbers in {name} that are not finite")


def _check_folder(folder: Path) -> None:
    """Raises InputError if an export would replace what is no export; hidden files of others do not count."""
    held = set(os.listdir(folder)) if folder.is_dir() else set()
    ours = held & {THETA_FILE, CARD_FILE}
    if (folder.exists() and not folder.is_dir()) or (not ours and any(name[0] != "." for name in held)):
        raise InputError(f"{folder} is not replaced by an export: it holds something else")


def _swap_in(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replaces all files of a folder or none: at every moment `find_export` finds a complete export."""
    _check_folder(folder)
    temporary, previous = folder.with_name(f".{folder.name}.tmp"), previous_export(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a writer that was killed
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            write_atomic(temporary / name, data)
        if all((folder / name).is_file() for name in files):
            _move_strangers(previous, folder, files)
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        elif folder.exists():
            _move_strangers(folder, temporary, files)
            shutil.rmtree(folder)  # empty, or half of an export
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise
    _move_strangers(previous, folder, files)
    shutil.rmtree(previous, ignore_errors=True)


def _move_strangers(old: Path, new: Path, files: Mapping[str, bytes]) -> None:
    """Files of others, such as `.DS_Store` or `.nfs0001`, go along; one that vanishes meanwhile is not missed."""
    for name in os.listdir(old) if old.is_dir() else ():
        if name not in files and not (new / name).exists():
            with contextlib.suppress(OSError):
                os.rename(old / name, new / name)
