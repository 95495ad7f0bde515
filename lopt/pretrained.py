"""Trained optimizers on disk: a folder with `theta.safetensors`, the arrays, and `card.json`, what they are.

An export is read without running anything of it: no pickles, and every field is checked before it is used.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy

from lopt.files import write_atomic
from lopt.names import InputError, Spec, build, check_known
from lopt.transform import as_optax
from lopt.types import LearnedOptimizer, Theta
from lopt.version import __version__

FORMAT = 1  # what the files of an export are called and hold

# How the inputs of the rules are computed from gradients, parameters, losses and time: which features, their order,
# decays, epsilons and normalisation. Theta has meaning only with the inputs it was trained on, and no shape gives a
# change of them away: raise this number with every change that would feed an exported theta other inputs.
FEATURE_CONTRACT = 1

THETA_FILE, CARD_FILE = "theta.safetensors", "card.json"

# What the trainer tells of a theta; the rest of the card is filled in by `save_export`.
CARD_KEYS = ("tasks", "horizon", "meta_loss", "estimator", "outer_steps", "seed", "command")


class Pretrained(NamedTuple):
    """A trained optimizer.

    Attributes:
      optimizer: the rule with the settings that it was trained with.
      theta: float32 arrays, structure of `optimizer.init_theta`.
      card: the content of card.json.
      path: the folder that it was read from.
    """

    optimizer: LearnedOptimizer
    theta: Theta
    card: Mapping[str, Any]
    path: Path

    @property
    def name(self) -> str:
        """What it is called: its folder, or that of its run."""
        path = self.path
        return path.parent.name if path.name == "export" else path.stem if path.is_file() else path.name


def load(path_or_name: str | os.PathLike, *, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an optax transformation: `tx.update(grads, state, params, value=loss)`; see `as_optax`.

    Args:
      path_or_name: as for `load_pretrained`.
      num_steps: length of your training in updates, for a rule that reads it. Left out, such a rule is told the longest
        training that it was meta-trained on, with a warning.
    """
    pretrained = load_pretrained(path_or_name)
    if num_steps is None and "num_steps" in pretrained.optimizer.requires:
        num_steps = pretrained.card["horizon"][1]
        warnings.warn(
            f"{os.fspath(path_or_name)} reads the length of the training, which is taken to be {num_steps} updates, as "
            "in its meta-training; give num_steps",
            stacklevel=2,
        )
    return as_optax(pretrained.optimizer, pretrained.theta, num_steps=num_steps)


def scale_by_learned(
    path_or_name: str | os.PathLike, *, num_steps: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """What `load` gives, with the sign that optax's `scale_by_*` have: a direction to go on with in a chain.

    `optax.chain(scale_by_learned(...), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate))` adds
    -rate (direction + decay params): decoupled weight decay, and a rate of 1, or a schedule from it, for the rule's own
    step size.

    Args: as of `load`.
    """
    rule = load(path_or_name, num_steps=num_steps)
    return optax.with_extra_args_support(optax.chain(rule, optax.scale(-1.0)))


def load_pretrained(path_or_name: str | os.PathLike) -> Pretrained:
    """Reads an export folder, a run directory (the export in it), or an optimizer that ships with lopt, by its name.

    A file is read as weights that others have published: see `lopt.released`.

    Raises:
      InputError: there is no such thing, or it is damaged, or this version of lopt cannot run it.
    """
    if Path(path_or_name).is_file():
        from lopt.released import read_released  # here, so that `import lopt` does not import Flax

        return Pretrained(*read_released(path_or_name), Path(path_or_name).resolve())
    path = find_export(path_or_name)
    card = _read_card(path / CARD_FILE)
    try:
        optimizer = build("architecture", Spec(card["architecture"], _tuples(card["settings"])), _architectures())
    except InputError as error:
        raise InputError(f"{path / CARD_FILE}: {error}") from error
    return Pretrained(optimizer, _read_theta(path / THETA_FILE, optimizer, card["theta_sha256"]), card, path)


def save_export(
    folder: str | os.PathLike, optimizer: LearnedOptimizer, theta: Theta, *, card: Mapping[str, Any]
) -> Path:
    """Writes an export; the one that was in `folder` before stays usable until the new one is complete.

    The same theta gives the same bytes.

    Args:
      folder: is created, or replaced if it holds an export and nothing else.
      card: at least `CARD_KEYS`, `horizon` being the (shortest, longest) trajectory; more is kept as it is.

    Returns:
      The folder's path, without symbolic links.
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


def shipped() -> dict[str, Path]:
    """The optimizers that come with lopt: inside of the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    root = next((root for root in (package / "checkpoints", package.parent / "checkpoints") if root.is_dir()), package)
    return {card.parent.name: card.parent for card in sorted(root.glob(f"[!.]*/{CARD_FILE}"))}


def find_export(path_or_name: str | os.PathLike) -> Path:
    """The export folder that a person means: see `load_pretrained`."""
    text = os.fspath(path_or_name)
    for folder in (Path(text).resolve(), Path(text, "export").resolve()):
        for candidate in (folder, _previous(folder)):
            if (candidate / CARD_FILE).is_file() or (candidate / THETA_FILE).is_file():
                return candidate
    known = shipped()
    if text not in known and Path(text).exists():
        raise InputError(f"{text} is neither an export ({CARD_FILE}, {THETA_FILE}) nor a run directory with export/")
    check_known("path or trained optimizer", text, known)
    return known[text]


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    installed = {name: importlib.metadata.version(name) for name in ("flax", "jax", "numpy", "optax")}
    return {**installed, "lopt": __version__}


def _architectures() -> Mapping[str, Any]:
    from lopt.optimizers import OPTIMIZERS  # here, so that `import lopt` does not import Flax

    return OPTIMIZERS


def _describe(optimizer: Any) -> dict[str, Any]:
    """The architecture's name and settings, checked to give the same optimizer back."""
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
    """JSON knows no tuples, and settings no lists: they are hashable."""
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
            raise InputError(f"horizon must be the shortest and the longest number of inner steps, not {other!r}")


def _template(optimizer: LearnedOptimizer) -> tuple[dict[str, jax.ShapeDtypeStruct], Any]:
    """Names, shapes and dtypes of the optimizer's theta, without computing one; and its tree structure."""
    try:
        shapes = jax.eval_shape(lambda: optimizer.init_theta(jax.random.key(0)))
    except Exception as error:  # anything may come of settings of the wrong kind
        raise InputError(f"{optimizer} has no theta: {error}") from error
    return _by_name(shapes), jax.tree.structure(shapes)


def _by_name(theta: Theta) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(theta)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _flatten(optimizer: LearnedOptimizer, theta: Theta) -> dict[str, np.ndarray]:
    # safetensors writes the memory as it lies, so it must be in C order.
    arrays = {name: np.array(leaf, order="C") for name, leaf in sorted(_by_name(theta).items())}
    _check_arrays(arrays, _template(optimizer)[0])
    return arrays


def _read_theta(path: Path, optimizer: LearnedOptimizer, sha256: str) -> Theta:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise InputError("the file is damaged, or not the one that the card is about (its SHA-256 differs)")
        arrays = safetensors.numpy.load(data)
        template, structure = _template(optimizer)
        _check_arrays(arrays, template)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:  # KeyError: a dtype numpy has not
        raise InputError(f"cannot read {path}: {error}") from error
    return jax.tree.unflatten(structure, [jnp.array(arrays[name]) for name in template])


def _check_arrays(arrays: Mapping[str, np.ndarray], template: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    found = {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}
    wanted = {name: f"{x.dtype}{list(x.shape)}" for name, x in template.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            have, want = found.get(name, "missing"), wanted.get(name, "unknown")
            raise InputError(f"theta is not one of this architecture: {name} is {have}, and should be {want}")


def _previous(folder: Path) -> Path:
    """Where `_swap_in` puts the export that it replaces; it stays there if the writer is killed between two renames."""
    return folder.with_name(f".{folder.name}.previous")


def _swap_in(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replaces the files of a folder, all or none: at every moment `find_export` finds a complete export."""
    if folder.exists() and (not folder.is_dir() or set(os.listdir(folder)) - files.keys()):
        raise InputError(f"{folder} is not replaced by an export: it holds something else")
    temporary, previous = folder.with_name(f".{folder.name}.tmp"), _previous(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
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
