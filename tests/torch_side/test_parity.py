"""Every rule of the PyTorch side moves parameters as the rule of JAX does, over 100 steps."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch installs it")

from lopt.optimizers import OPTIMIZERS
from lopt.torch import stacks
from lopt.torch.parts import blocks
from lopt.torch.rules import RULES
from lopt.trained.export import save_export
from lopt.trained.folders import shipped_folders
from lopt.trained.pretrained import load_pretrained
from lopt.trees import by_name
from tests.torch_side.both_worlds import assert_close, draw_training, run_jax, run_torch
from tests.trained.small_export import CARD, theta_of

CELO = Path(__file__).parents[3] / "shared/data/celo"
VARIANTS = {
    "adafac_mlp": [{"hidden_sizes": (12, 3), "mup_keys": ("a/kernel", "conv")}],
    "blend": [{"orthogonalize": False}, {"hidden_size": 5}, {"anytime": True}],
    "celo2": [{"orthogonalize": True, "hidden_sizes": (3,)}, {"adam_keys": ("square",), "adam_factor": 0.5}],
    "star": [{"precondition": True, "weight_decay": 0.01}],
}
MADE = [(name, settings) for name in RULES for settings in ({}, *VARIANTS.get(name, []))]
TRAINED = [name for name in shipped_folders() if load_pretrained(name).card["architecture"] in RULES]


def random_theta(optimizer):
    """A theta in which every number matters."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(x + 0.05 * rng.normal(size=x.shape), jnp.float32), theta_of(optimizer))


@pytest.mark.parametrize(("name", "settings"), MADE, ids=[f"{name}{settings or ''}" for name, settings in MADE])
def test_a_random_theta_moves_parameters_alike(name, settings, tmp_path):
    optimizer = OPTIMIZERS[name](**settings)
    export = save_export(tmp_path / "export", optimizer, random_theta(optimizer), card=CARD)
    compare(export)


@pytest.mark.thorough
@pytest.mark.parametrize("name", TRAINED)
def test_what_ships_moves_parameters_alike(name):
    compare(name)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Tensors of more than 100 elements are not stacked, and pass through networks in blocks of 100."""
    monkeypatch.setattr(stacks, "MOST_COPIED", {"cpu": 100})
    monkeypatch.setattr(blocks, "BLOCK", 100)


@pytest.mark.thorough
@pytest.mark.skipif(not CELO.is_dir(), reason="the published files are not in ../shared/data/celo")
@pytest.mark.parametrize("name", ["celo", "celo_adam"])
def test_published_weights_move_parameters_alike(name):
    compare(CELO / f"{name}.theta.state")


@pytest.mark.parametrize("name", RULES)
def test_theta_and_requirements_are_those_of_the_rule_in_jax(name):
    for settings in ({}, *VARIANTS.get(name, [])):
        rule: Any = RULES[name](**settings)
        optimizer: Any = OPTIMIZERS[name](**settings)
        assert rule.theta_shapes() == {key: x.shape for key, x in by_name(theta_of(optimizer)).items()}
        assert rule.requires == optimizer.requires - {"params"}
        assert {x.name for x in dataclasses.fields(rule)} == {x.name for x in dataclasses.fields(optimizer)}


def compare(path):
    training = draw_training()
    options = {"num_steps": 150, "lr": 0.5, "weight_decay": 0.01}
    wanted, count = run_jax(path, training, **options)
    found, found_count = run_torch(path, training, **options)
    assert_close(found, wanted, training)
    assert found_count == count
