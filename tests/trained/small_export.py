"""A small trained optimizer to write, and helpers to damage what was written."""

import functools
import hashlib
import json
from typing import Any

import jax
import numpy as np

from lopt.optimizers import OPTIMIZERS
from lopt.trained.card import CHECKSUM, checksum

CARD: dict[str, Any] = {
    "tasks": ["mlp/digits"],
    "horizon": (20, 300),
    "meta_loss": "meta_batch",
    "estimator": "pes:num_pairs=4",
    "outer_steps": 7,
    "seed": 1,
    "command": "python meta_train.py --preset=x",
}
MLP = OPTIMIZERS["mlp"](hidden_sizes=(3, 2), step_scale=0.01)


@functools.cache
def theta_of(optimizer, seed=0):
    """A fresh theta."""
    return jax.jit(optimizer.init_theta)(jax.random.key(seed))


def edit_card(folder, **changes):
    """Changes fields of card.json, whose checksum fits again."""
    card = {**json.loads((folder / "card.json").read_text()), **changes}
    (folder / "card.json").write_text(json.dumps({**card, CHECKSUM: checksum(card)}))


def replace_theta(folder, data):
    """Another file with a fitting checksum, so that the checks behind the checksum are reached."""
    (folder / "theta.safetensors").write_bytes(data)
    edit_card(folder, theta_sha256=hashlib.sha256(data).hexdigest())


def assert_same(theta, other):
    assert jax.tree.structure(theta) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, theta, other)
