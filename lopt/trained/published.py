"""The layout of weights that others have published, flax msgpack files usually named `theta.state`.

`celo` and `celo_adam`: https://github.com/amoudgl/celo (MIT licence), Moudgil et al. 2025 (arXiv 2501.12670). `velo`:
the layout of google/learned_optimization, Metz et al. 2022 (arXiv 2211.09760), written without its file at hand. The
files hold only arrays, and nothing in them is run. Nothing here knows JAX or PyTorch.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import numpy as np

from lopt.names import InputError

Theta = dict[str, Any]  # nested dicts of numpy arrays
Made = TypeVar("Made")

SOURCES = {
    "celo": "https://github.com/amoudgl/celo, Moudgil et al. 2025 (arXiv 2501.12670)",
    "celo_adam": "https://github.com/amoudgl/celo, Moudgil et al. 2025 (arXiv 2501.12670)",
    "velo": "google/learned_optimization, Metz et al. 2022 (arXiv 2211.09760)",
}
HORIZONS = {"celo": (100, 2000), "celo_adam": (100, 2000), "velo": (100, 200_000)}  # inner steps of the meta-training
MAX_BYTES = 2**28  # VeLO has 10 MB
MAX_NAMES, MAX_LETTERS, MAX_AXES = 10_000, 1_000, 32  # of a file, of a name, of an array
VELO_LSTM = 512  # the width of VeLO itself; the smaller ones of the Celo paper have no factor of 100

# Layers around the LSTM: our names and theirs.
LAYERS = {
    "unused": "linear",
    "mix": "linear_1",
    "input": "linear_2",
    "lstm": "rnn/linear",
    "weights": "rnn_to_controls",
    "step": "step_size",
}
NUM_PROGRESS_FEATURES = 18  # inputs of Celo's scheduler; VeLO's LSTM has more
ARRAY = 1  # flax's number of the msgpack extension for arrays


def read_published(
    path: str | os.PathLike, check: Callable[[str, dict[str, Any], Theta], Made]
) -> tuple[Made, dict[str, Any]]:
    """Reads a published `theta.state`.

    Args:
      path: the file.
      check: makes what is wanted of architecture, settings and theta; it raises whatever it likes if they do not fit.

    Returns:
      What `check` returned, and what is known of the weights under the keys of an export's card.

    Raises:
      InputError: the file cannot be read, or has another layout.
    """
    try:
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise InputError(f"the file has {size:,} bytes, and published weights at most {MAX_BYTES:,}")
        data = Path(path).read_bytes()
        name, settings, theta = convert(_unpack(data))
        made = check(name, settings, theta)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in many ways
        known = f"published weights of {', '.join(SOURCES)} (flax msgpack)"
        raise InputError(f"{os.fspath(path)} does not hold {known}: {error}") from error
    card = {
        "architecture": name,
        "settings": settings,
        "horizon": list(HORIZONS[name]),
        "source": SOURCES[name],
        "theta_sha256": hashlib.sha256(data).hexdigest(),
    }
    return made, card


def convert(tree: Any) -> tuple[str, dict[str, Any], Theta]:
    """Architecture, settings and theta, as numpy arrays, from the published tree.

    Raises:
      InputError: an array is missing or unknown. Shapes are not checked.
    """
    arrays = _flatten(tree)
    num_inputs, size = _take(arrays, "rnn_params/linear_1/w", keep=True).shape
    settings: dict[str, Any] = {"lstm_size": size}
    mlps = None
    if any(key.startswith("ff_mod_stack/") for key in arrays):
        mlps = _mlps(arrays)
        settings["hidden_sizes"] = tuple(mlps[f"bias_{i}"].shape[1] for i in range(len(mlps) // 2 - 1))
    lstm = _lstm(arrays)
    if arrays:
        raise InputError(f"unknown array {min(arrays)!r}")
    if mlps is None:
        return "celo_adam", settings, {"scheduler": lstm}
    if num_inputs == NUM_PROGRESS_FEATURES:
        return "celo", settings, {"mlp": {name: x[0] for name, x in mlps.items()}, "scheduler": lstm}
    settings |= {"num_mlps": len(mlps["bias_0"]), "weight_scale": 100.0 if size == VELO_LSTM else 1.0}
    return "velo", settings, {"mlps": mlps, "lstm": lstm}


def _unpack(data: bytes) -> Any:
    left = MAX_NAMES

    def named(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        nonlocal left
        left -= len(pairs) + 1
        if left < 0:
            raise ValueError(f"it holds more than {MAX_NAMES:,} names")
        return dict(pairs)

    try:
        # Of a few bytes, msgpack makes objects that are a hundred times as large: so their number is bounded.
        return msgpack.unpackb(
            data, object_pairs_hook=named, ext_hook=_read_extension, strict_map_key=False,
            max_map_len=MAX_NAMES, max_str_len=MAX_LETTERS, max_bin_len=MAX_LETTERS, max_array_len=0,
        )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # of many types, with messages about bytes of the format
        raise InputError("it has another format, or is damaged; to load a run or an export, give its folder") from error


def _read_extension(code: int, data: bytes) -> Any:
    """An array as flax packs it: shape, name of the type, and the numbers in C order."""
    if code != ARRAY:
        return msgpack.ExtType(code, data)
    parts = msgpack.Unpacker(raw=True, max_buffer_size=len(data), max_array_len=MAX_AXES, max_map_len=0)
    parts.feed(data)
    if parts.read_array_header() != 3:
        raise ValueError("an array has three parts")
    shape = [int(parts.unpack()) for _ in range(parts.read_array_header())]
    if parts.unpack() != b"float32":
        raise ValueError("theta is float32")
    return np.frombuffer(parts.unpack(), np.float32).reshape(shape)


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for name, leaf in _leaves(tree):
        if not isinstance(leaf, np.ndarray) or leaf.dtype != np.float32 or not np.isfinite(leaf).all():
            raise InputError(f"{name or 'its content'} is not an array of finite float32")
        arrays[name] = leaf
    return arrays


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts with their names, `a/b`."""
    if not isinstance(tree, dict):
        yield prefix.removesuffix("/"), tree
        return
    for key, branch in tree.items():
        yield from _leaves(branch, f"{prefix}{key}/")


def _take(arrays: dict[str, np.ndarray], name: str, *, keep: bool = False) -> np.ndarray:
    if name not in arrays:
        raise InputError(f"no array {name!r}")
    return arrays[name] if keep else arrays.pop(name)


def _mlps(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The bank of MLPs. Their first kernel is in pieces, one per group of inputs, in the order of our inputs."""
    layers = sum(name.startswith("ff_mod_stack/~/b") for name in arrays)
    groups = sum(name.startswith("ff_mod_stack/~/w0__") for name in arrays)
    mlps = {"kernel_0": np.concatenate([_take(arrays, f"ff_mod_stack/~/w0__{i}") for i in range(groups)], axis=1)}
    for i in range(layers):
        mlps[f"bias_{i}"] = _take(arrays, f"ff_mod_stack/~/b{i}")
        if i:
            mlps[f"kernel_{i}"] = _take(arrays, f"ff_mod_stack/~/w{i}")
    return mlps


def _lstm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The recurrent part. Their gates are input, candidate, forget and output, in this order."""
    cell, hidden = (_take(arrays, f"lstm_init_state/{name}") for name in ("cell", "hidden"))
    lstm = {"initial_c": cell[0], "initial_h": hidden[0]}
    for ours, theirs in LAYERS.items():
        if ours == "weights" and f"rnn_params/{theirs}/w" not in arrays:
            continue  # celo_adam
        for kind, letter in (("kernel", "w"), ("bias", "b")):
            x = _take(arrays, f"rnn_params/{theirs}/{letter}")
            if ours == "lstm":
                gates = np.split(x, 4, axis=-1)
                x = np.concatenate([gates[0], gates[2], gates[1], gates[3]], axis=-1)
            lstm[f"{kind}_{ours}"] = x
    return lstm
