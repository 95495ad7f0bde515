"""The files of a trained optimizer: `theta.safetensors` holds the arrays, `card.json` says what they are.

Reading an export runs nothing that it holds: there are no pickles, and every field is checked before it is used.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from lopt.files import write_atomic
from lopt.names import InputError, Spec, build
from lopt.trees import by_name, describe, describe_leaves, differences, map_with_name
from lopt.types import LearnedOptimizer, Theta
from lopt.version import versions

FORMAT = 1  # the names and the layout of an export's files
# How the inputs of the rules are computed from gradients, parameters, losses and time: which features, their order,
# decays, epsilons and normalization. Theta has meaning only with the inputs it was trained on, and no shape reveals a
# change of them: raise this number with every change that would feed an exported theta other inputs.
FEATURE_CONTRACT = 1

THETA_FILE, CARD_FILE = "theta.safetensors", "card.json"
# What the trainer says about a theta; `save_export` fills in the rest of the card.
CARD_KEYS = ("tasks", "horizon", "meta_loss", "estimator", "outer_steps", "seed", "command")


def save_export(
    folder: str | os.PathLike, optimizer: LearnedOptimizer, theta: Theta, *, card: Mapping[str, Any]
) -> Path:
    """Writes an export; the one that `folder` held before stays usable until the new one is complete.

    The same theta gives the same bytes.

    Args:
      folder: is created, or replaced if it holds an export and nothing else.
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
    description = _describe(optimizer)
    theta_bytes = safetensors.numpy.save(_flatten(optimizer, theta))
    full_card = {
        **card,
        **description,
        "format": FORMAT,
        "feature_contract": FEATURE_CONTRACT,
        "theta_sha256": hashlib.sha256(theta_bytes).hexdigest(),
        "versions": versions(),
    }
    try:
        card_text = json.dumps(full_card, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the card of an export must be plain JSON: {error}") from error
    _check_card(json.loads(card_text))
    folder = Path(folder).resolve()
    _swap_in(folder, {THETA_FILE: theta_bytes, CARD_FILE: card_text.encode()})
    return folder


def read_export(folder: Path) -> tuple[LearnedOptimizer, Theta, dict[str, Any]]:
    """Optimizer, theta and card of an export. Raises InputError if it is damaged or of another version."""
    card = _read_card(folder / CARD_FILE)
    try:
        optimizer = build("architecture", Spec(card["architecture"], _tuples(card["settings"])), _architectures())
    except InputError as error:
        raise InputError(f"{folder / CARD_FILE}: {error}") from error
    return optimizer, _read_theta(folder / THETA_FILE, optimizer, card["theta_sha256"]), card


def _architectures() -> Mapping[str, Any]:
    from lopt.optimizers import OPTIMIZERS  # here, so that `import lopt` does not import Flax

    return OPTIMIZERS


def _describe(optimizer: Any) -> dict[str, Any]:
    """The architecture's name and settings, checked to give back the same optimizer."""
    kind = type(optimizer)
    name = next((name for name, known in _architectures().items() if known is kind), None)
    if name is None:
        raise InputError(f"{kind.__name__} cannot be exported: it is not in the table of lopt.optimizers")
    settings = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
    try:
        again = kind(**_tuples(json.loads(json.dumps(settings, allow_nan=False))))
    except (TypeError, ValueError) as error:
        raise InputError(f"{optimizer} cannot be exported: {error}") from error
    if again != optimizer:
        raise InputError(f"{optimizer} cannot be exported: its settings read back as {again}")
    return {"architecture": name, "settings": settings}


def _tuples(value: Any) -> Any:
    """Turns lists into tuples: JSON has only lists, and settings are hashable."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_bytes())
        _check_card(card)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return card


def _check_card(card: Any) -> None:
    if not isinstance(card, dict):
        raise InputError("a card is a JSON object")
    for key, ours in (("format", FORMAT), ("feature_contract", FEATURE_CONTRACT)):
        version = card.get(key)
        if version != ours:
            newer = " It comes from a newer lopt: upgrade." if isinstance(version, int) and version > ours else ""
            raise InputError(f"{key} must be {ours} for this version of lopt, and is {version!r}.{newer}")
    for key, kind in (("architecture", str), ("settings", dict), ("theta_sha256", str)):
        if not isinstance(card.get(key), kind):
            raise InputError(f"{key} must be a {kind.__name__}, not {card.get(key)!r}")
    match card.get("horizon"):
        case [int(shortest), int(longest)] if 1 <= shortest <= longest:
            return
        case other:
            raise InputError(f"horizon must be the least and the greatest number of inner steps, not {other!r}")


def _template(optimizer: LearnedOptimizer) -> Theta:
    """Shapes and types of the optimizer's theta, without computing it."""
    try:
        return jax.eval_shape(lambda: optimizer.init_theta(jax.random.key(0)))
    except Exception as error:  # settings of a wrong type may fail in any way
        raise InputError(f"{optimizer} has no theta: {error}") from error


def _flatten(optimizer: LearnedOptimizer, theta: Theta) -> dict[str, np.ndarray]:
    # safetensors writes memory as it is, so arrays must be in C order.
    arrays = {name: np.array(leaf, order="C") for name, leaf in sorted(by_name(theta).items())}
    _check_arrays(arrays, _template(optimizer))
    return arrays


def _read_theta(path: Path, optimizer: LearnedOptimizer, sha256: str) -> Theta:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise InputError("the file is damaged, or the card describes another one (the SHA-256 differs)")
        arrays = safetensors.numpy.load(data)
        template = _template(optimizer)
        _check_arrays(arrays, template)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:  # KeyError: a dtype that numpy lacks
        raise InputError(f"cannot read {path}: {error}") from error
    return map_with_name(lambda name, _: jnp.array(arrays[name]), template)


def _check_arrays(arrays: Mapping[str, np.ndarray], template: Theta) -> None:
    found = {name: describe(array) for name, array in arrays.items()}
    if different := differences(found, describe_leaves(template)):
        raise InputError(f"theta does not fit this architecture: {different}")


def previous_export(folder: Path) -> Path:
    """Where `_swap_in` puts the export that it replaces, which stays there if it is killed between two renames."""
    return folder.with_name(f".{folder.name}.previous")


def _swap_in(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replaces all files of a folder or none: at every moment `find_export` finds a complete export."""
    if folder.exists() and (not folder.is_dir() or set(os.listdir(folder)) - files.keys()):
        raise InputError(f"{folder} is not replaced by an export: it holds something else")
    temporary, previous = folder.with_name(f".{folder.name}.tmp"), previous_export(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a writer that was killed
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            write_atomic(temporary / name, data)
        if all((folder / name).is_file() for name in files):
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        elif folder.exists():
            shutil.rmtree(folder)  # empty, or half of an export
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)
