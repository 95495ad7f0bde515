"""Trained optimizers by name or path: where they are looked for, and what a training loop is given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained import folders
from lopt.trained.export import save_export
from tests.trained.small_export import CARD, MLP, theta_of

SCHEDULED = OPTIMIZERS["learnable_adam"](schedule_terms=2)


@pytest.fixture
def export(tmp_path):
    return save_export(tmp_path / "run" / "export", MLP, theta_of(MLP), card=CARD)


def test_loaded_rule_takes_the_step_of_the_rule_that_was_saved(export):
    params, grads = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, 0.25])}
    theta = theta_of(MLP)
    tx: Any = lopt.load(export)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, value=1.0)
    state = MLP.init(theta, params, num_steps=None)
    wanted, _ = jax.jit(MLP.update)(theta, grads, state, params, value=None)
    np.testing.assert_allclose(updates["w"], wanted["w"], rtol=1e-6)


def test_a_multiple_of_the_update_and_weight_decay(export):
    """By hand: lr (u - decay params), the lr a number or a schedule, and the rule itself where nothing is asked for."""
    params, grads = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, 0.25])}

    def updates(**options):
        tx: Any = lopt.load(export, **options)
        return tx.update(grads, tx.init(params), params, value=1.0)[0]["w"]

    plain = updates()
    np.testing.assert_allclose(updates(lr=0.5, weight_decay=0.1), 0.5 * (plain - 0.1 * params["w"]), rtol=1e-6)
    np.testing.assert_allclose(updates(lr=lambda count: 2.0 + count), 2 * plain, rtol=1e-6)
    refused: list[dict[str, Any]] = [{"lr": -1.0}, {"weight_decay": float("nan")}, {"lr": float("inf")}]
    for bad in refused:
        with pytest.raises(lopt.InputError, match="must be a number of at least 0"):
            lopt.load(export, **bad)


def test_length_of_the_training_comes_from_the_card_with_a_warning(tmp_path):
    folder = save_export(tmp_path / "scheduled", SCHEDULED, theta_of(SCHEDULED), card=CARD)
    with pytest.warns(UserWarning, match="taken to be 300 updates") as warned:
        tx: Any = lopt.load(folder)
    assert warned[0].filename == __file__
    assert tx.init({"w": jnp.ones(2)}).inner.num_steps == 300
    tx = lopt.load(folder, num_steps=40)
    assert tx.init({"w": jnp.ones(2)}).inner.num_steps == 40
    with pytest.raises(lopt.InputError, match="num_steps must be an integer"):
        lopt.load(folder, num_steps=0)


@pytest.mark.parametrize("rule", [MLP, SCHEDULED], ids=["mlp", "scheduled"])
def test_a_training_longer_than_any_of_the_meta_training_is_warned_of(tmp_path, rule):
    """Whether the rule reads its length or not. A length that only a traced program knows passes."""
    folder = save_export(tmp_path / "short", rule, theta_of(rule), card=CARD)
    longest = CARD["horizon"][1]
    lopt.load(folder, num_steps=longest)  # warnings are errors
    said = f"short was meta-trained on at most {longest} steps, and is to train for {longest + 1}"
    with pytest.warns(UserWarning, match=said) as warned:
        lopt.load(folder, num_steps=longest + 1)
    assert warned[0].filename == __file__
    jax.eval_shape(lambda steps: lopt.load(folder, num_steps=steps).init({"w": jnp.ones(2)}), jnp.array(longest + 1))


def test_scale_by_learned_is_a_direction_for_the_chain():
    """params - rate (direction + decay params), the direction being that of `load` with the other sign."""
    params = {"w": jnp.asarray(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))}
    grads, rate, decay = jax.tree.map(lambda p: p + 0.3, params), 0.5, 0.1
    chain = optax.chain(
        lopt.scale_by_learned("learnable_sgd_digits"),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    updates: Any = chain.update(grads, chain.init(params), params, value=jnp.ones(()))[0]
    rule = lopt.load("learnable_sgd_digits")
    own: Any = rule.update(grads, rule.init(params), params, value=jnp.ones(()))[0]
    np.testing.assert_allclose(updates["w"], rate * (own["w"] - decay * params["w"]), rtol=1e-6)
    assert np.abs(own["w"]).max() > 0


# ---- Where it is looked for ----


def test_an_export_a_run_and_a_shipped_name_are_found(export, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for place in (export, str(export), export.parent, "run", "run/export"):
        assert lopt.load_pretrained(place).path == export
    package = tmp_path / "site" / "lopt"
    monkeypatch.setattr(folders, "__file__", str(package / "trained" / "folders.py"))
    demo = save_export(tmp_path / "site" / "checkpoints" / "demo", MLP, theta_of(MLP), card=CARD)  # a checkout
    assert lopt.load_pretrained("demo").path == demo
    demo = save_export(package / "checkpoints" / "demo", MLP, theta_of(MLP), card=CARD)  # an installed wheel
    assert lopt.load_pretrained("demo").path == demo
    (tmp_path / "demo").mkdir()  # does not hide the shipped one
    assert lopt.load_pretrained("demo").path == demo
    with pytest.raises(lopt.InputError, match=r"'dmeo'. Did you mean 'demo'\? Known: demo\."):
        lopt.load_pretrained("dmeo")
    with pytest.raises(lopt.InputError, match=r"site is neither an export .* nor a run"):
        lopt.load_pretrained("site")


@pytest.mark.parametrize("name", folders.shipped_folders())
def test_every_shipped_optimizer_loads(name):
    assert lopt.load_pretrained(name).card["command"]
