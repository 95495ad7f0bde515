"""Where exports lie, and how their two files are read together; nothing here knows JAX or PyTorch."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy

from lopt.names import InputError, check_known
from lopt.trained.card import read_card

THETA_FILE, CARD_FILE = "theta.safetensors", "card.json"
DEFAULT = "blend"  # the name of the optimizer that is meant where none is named
DEMONSTRATIONS = "demonstrations"  # the folder of those that show what their rule learns in minutes
MAX_CARD_BYTES = MAX_HEADER_BYTES = 2**22  # those of safetensors list names and shapes

Rule = TypeVar("Rule")
Theta = TypeVar("Theta")
Read = Callable[[int], bytes]  # reads a file that has at most this number of bytes


class _Replaced(Exception):
    """The export was replaced while it was read."""


def shipped_folders() -> dict[str, Path]:
    """The folders of the optimizers that ship with lopt, by name: in the package, or beside it in a checkout.

    Those to use come first, then the demonstrations, each in the order of the alphabet.
    """
    package = Path(__file__).resolve().parents[1]
    root = next((root for root in (package / "checkpoints", package.parent / "checkpoints") if root.is_dir()), package)
    cards = (sorted(folder.glob(f"[!.]*/{CARD_FILE}")) for folder in (root, root / DEMONSTRATIONS))
    return {card.parent.name: card.parent for found in cards for card in found}


def previous_export(folder: Path) -> Path:
    """Where a writer puts the export that it replaces, which stays there if it is killed between two renames."""
    return folder.with_name(f".{folder.name}.previous")


def find_export(path_or_name: str | os.PathLike) -> Path:
    """The export folder that a person means: its path, that of a run, or the name of one that ships.

    Raises:
      InputError: there is none.
    """
    text = os.fspath(path_or_name)
    for folder in (Path(text).resolve(), Path(text, "export").resolve()):
        # The folder twice: between the two looks, a run may have moved a new export there and removed the previous.
        for candidate in (folder, previous_export(folder), folder):
            if any(os.path.isfile(candidate / name) for name in (CARD_FILE, THETA_FILE)):  # False for a name too long
                return candidate
    known = shipped_folders()
    if text not in known and Path(text).exists():
        raise InputError(f"{text} is neither an export ({CARD_FILE}, {THETA_FILE}) nor a run directory with export/")
    check_known("path or trained optimizer", text, known)
    return known[text]


def read_files(
    find: Callable[[], Path],
    rule_of: Callable[[dict[str, Any]], Rule],
    theta_of: Callable[[Rule, dict[str, Any], Read], Theta],
) -> tuple[Rule, Theta, dict[str, Any], Path]:
    """Rule, theta, card and folder of an export that a run may be replacing at this moment.

    Both files are read from one folder that is held open, so that they belong together.

    Args:
      find: gives the export's folder.
      rule_of: makes the rule that a card describes.
      theta_of: makes its theta, given the rule, the card and a function that reads the file of theta.

    Raises:
      InputError: a file is damaged or of another version, or what `rule_of` and `theta_of` raise.
    """
    while True:
        folder = find()
        try:
            return *_read_folder(folder, find, rule_of, theta_of), folder
        except _Replaced:
            continue


def theta_arrays(card: Mapping[str, Any], read: Read, num_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of theta by name, from a file that must be the one that the card describes.

    Args:
      card: the card.
      read: reads the file of theta.
      num_bytes: of the arrays.

    Raises:
      InputError: it is another file.
    """
    data = read(num_bytes + MAX_HEADER_BYTES)
    if hashlib.sha256(data).hexdigest() != card["theta_sha256"]:
        raise InputError("the file is damaged, or the card describes another one (the SHA-256 differs)")
    return safetensors.numpy.load(data)


def _read_folder(
    folder: Path,
    find: Callable[[], Path],
    rule_of: Callable[[dict[str, Any]], Rule],
    theta_of: Callable[[Rule, dict[str, Any], Read], Theta],
) -> tuple[Rule, Theta, dict[str, Any]]:
    try:
        place = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise _Replaced from error
        raise InputError(f"cannot read {folder}: {error}") from error
    try:
        try:
            card = read_card(_read_bounded(place, CARD_FILE, MAX_CARD_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            _raise_if_replaced(place, find)
            raise InputError(f"cannot read {folder / CARD_FILE}: {error}") from error
        try:
            rule = rule_of(card)
        except InputError as error:
            raise InputError(f"{folder / CARD_FILE}: {error}") from error
        try:
            return rule, theta_of(rule, card, lambda most: _read_bounded(place, THETA_FILE, most)), card
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:  # KeyError: numpy lacks a dtype
            _raise_if_replaced(place, find)
            raise InputError(f"cannot read {folder / THETA_FILE}: {error}") from error
    finally:
        os.close(place)


def _raise_if_replaced(place: int, find: Callable[[], Path]) -> None:
    try:
        same = os.path.samestat(os.fstat(place), os.stat(find()))
    except FileNotFoundError:
        same = False
    if not same:
        raise _Replaced


def _read_bounded(place: int, name: str, most: int) -> bytes:
    """A file of an open folder. Its size is compared with what it can be before memory is taken for it."""
    with open(name, "rb", opener=lambda path, flags: os.open(path, flags, dir_fd=place)) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InputError(f"the file has {size:,} bytes, where at most {most:,} are possible")
        return file.read(most + 1)
