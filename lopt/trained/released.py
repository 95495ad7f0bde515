"""Reads weights that others have published, flax msgpack files usually named `theta.state`, as theta of this library.

`celo` and `celo_adam`: https://github.com/amoudgl/celo (MIT licence), Moudgil et al. 2025 (arXiv 2501.12670). `velo`:
the layout of google/learned_optimization, Metz et al. 2022 (arXiv 2211.09760), written without its file at hand. The
files hold only arrays, and nothing in them is run.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from lopt.names import InputError, Spec, build
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.parts.progress import NUM_PROGRESS_FEATURES
from lopt.trained.export import theta_template
from lopt.trees import by_name, describe_leaves, differences
from lopt.types import LearnedOptimizer, Theta

SOURCES = {
    "celo": "https://github.com/amoudgl/celo, Moudgil et al. 2025 (arXiv 2501.12670)",
    "celo_adam": "https://github.com/amoudgl/celo, Moudgil et al. 2025 (arXiv 2501.12670)",
    "velo": "google/learned_optimization, Metz et al. 2022 (arXiv 2211.09760)",
}
HORIZONS = {"celo": (100, 2000), "celo_adam": (100, 2000), "velo": (100, 200_000)}  # inner steps of the meta-training
MAX_BYTES = 2**28  # VeLO has 10 MB
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


def read_released(path: str | os.PathLike) -> tuple[LearnedOptimizer, Theta, dict[str, Any]]:
    """Reads a published `theta.state`.

    Returns:
      The optimizer, its theta, and what is known of them under the keys of an export's card.

    Raises:
      InputError: the file cannot be read, or has another layout.
    """
    try:
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise InputError(f"the file has {size:,} bytes, and published weights at most {MAX_BYTES:,}")
        data = Path(path).read_bytes()
        name, settings, theta = convert(_unpack(data))
        optimizer = build("architecture", Spec(name, settings), OPTIMIZERS)
        wanted = describe_leaves(theta_template(optimizer))
        if different := differences(describe_leaves(theta), wanted):
            raise InputError(different)
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
    return optimizer, jax.tree.map(jnp.asarray, theta), card


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
    try:
        return serialization.msgpack_restore(data)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # of many types, with messages about bytes of the format
        raise InputError("it has another format, or is damaged; to load a run or an export, give its folder") from error


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for name, leaf in by_name(tree).items():
        if not isinstance(leaf, np.ndarray) or leaf.dtype != np.float32 or not np.isfinite(leaf).all():
            raise InputError(f"{name or 'its content'} is not an array of finite float32")
        arrays[name] = leaf
    return arrays


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
