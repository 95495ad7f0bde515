"""Entries of an evaluation as named arrays, for npz files."""

import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.measures import MEASURES
from lopt.names import InputError
from lopt.scores import Curves, Entry

PLAIN = ("label", "kind", "rates", "flops_per_step", "seconds_per_step")


def entry_arrays(entry: Entry) -> dict[str, np.ndarray]:
    """`FIELD`, `tuning.ARRAY`, `chosen.MEASURE.ARRAY`, `long.ARRAY`; `chosen` once if both rates are one."""
    arrays = {name: np.asarray(getattr(entry, name)) for name in PLAIN} | _curves_arrays("tuning", entry.tuning)
    same = len(set(entry.best.values())) == 1
    for measure, curves in entry.chosen.items():
        if not same or measure == "final_loss":
            arrays |= _curves_arrays(f"chosen.{measure}", curves)
    return arrays | (_curves_arrays("long", entry.long) if entry.long else {})


def entry_of(arrays: Mapping[str, np.ndarray]) -> Entry:
    """The inverse of `entry_arrays`. Raises KeyError or ValueError if something is missing or of another shape."""
    plain: dict[str, Any] = {name: arrays[name] if name == "rates" else arrays[name].item() for name in PLAIN}
    final = _curves_of(arrays, "chosen.final_loss")
    chosen = {
        measure: _curves_of(arrays, f"chosen.{measure}") if f"chosen.{measure}.loss" in arrays else final
        for measure in MEASURES
    }
    entry = Entry(
        tuning=_curves_of(arrays, "tuning"),
        chosen=chosen,
        long=_curves_of(arrays, "long") if "long.loss" in arrays else None,
        **plain,
    )
    if entry.tuning.loss.shape[1:] != final.loss.shape or len(entry.tuning.loss) not in (0, len(entry.rates)):
        raise ValueError(f"losses of the shapes {entry.tuning.loss.shape} and {final.loss.shape}")
    return entry


def pack(arrays: Mapping[str, Any]) -> bytes:
    """An npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises InputError if it is damaged."""
    try:
        # Opened here, as numpy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
            return dict(members)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zipfile.error) as error:
        raise InputError(f"cannot read {os.fspath(path)}: {error}") from error


def _curves_arrays(name: str, curves: Curves) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": np.asarray(array) for part, array in curves._asdict().items()}


def _curves_of(arrays: Mapping[str, np.ndarray], name: str) -> Curves:
    return Curves(*(arrays[f"{name}.{part}"] for part in Curves._fields))
