"""Exports: what is written is what is read, what cannot be read is refused with the reason, nothing good is lost."""

import errno
import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained import export as export_files
from lopt.trained.export import FEATURE_CONTRACT, FORMAT, save_export
from lopt.trees import by_name
from tests.trained.small_export import CARD, MLP, assert_same, edit_card, replace_theta, theta_of


@pytest.fixture
def export(tmp_path):
    return save_export(tmp_path / "run" / "export", MLP, theta_of(MLP), card=CARD)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_round_trip(tmp_path, rule):
    optimizer = OPTIMIZERS[rule]()
    theta = theta_of(optimizer)
    loaded = lopt.load_pretrained(save_export(tmp_path / rule, optimizer, theta, card=CARD))
    assert loaded.optimizer == optimizer
    assert hash(loaded.optimizer) == hash(optimizer)
    assert_same(loaded.theta, theta)
    assert {x.dtype for x in jax.tree.leaves(loaded.theta)} == {jnp.dtype(jnp.float32)}


def test_settings_come_back_as_tuples(export):
    assert lopt.load_pretrained(export).optimizer == MLP


def test_card_says_what_it_is(export):
    text = (export / "card.json").read_text()
    card = json.loads(text)
    assert text == json.dumps(card, indent=2, sort_keys=True) + "\n"
    assert card.items() >= {**CARD, "horizon": [20, 300]}.items()
    assert (card["format"], card["feature_contract"], card["architecture"]) == (FORMAT, FEATURE_CONTRACT, "mlp")
    assert card["settings"] == {"hidden_sizes": [3, 2], "step_scale": 0.01, "magnitude_scale": 0.001}
    assert card["theta_sha256"] == hashlib.sha256((export / "theta.safetensors").read_bytes()).hexdigest()
    assert card["versions"].keys() == {"lopt", "jax", "flax", "optax", "numpy"}
    assert card["versions"]["jax"] == jax.__version__


def test_same_theta_same_bytes_whatever_the_order_and_the_layout(tmp_path):
    theta = theta_of(MLP)
    other = {name: np.asfortranarray(theta[name]) if theta[name].ndim else theta[name] for name in reversed(theta)}
    files = [
        save_export(tmp_path / str(i), MLP, t, card=CARD) / "theta.safetensors" for i, t in enumerate([theta, other])
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    arrays = safetensors.numpy.load_file(files[0])
    assert list(arrays) == sorted(theta)
    np.testing.assert_array_equal(arrays["kernel_0"], theta["kernel_0"])


def test_nested_names_are_joined_by_a_slash():
    nested = {"b": {"w": jnp.ones(2), "a": jnp.ones(3)}, "a": jnp.zeros(())}
    assert list(by_name(nested)) == ["a", "b/a", "b/w"]


# ---- What is refused ----

ARRAYS = {name: np.asarray(x) for name, x in theta_of(MLP).items()}
WITHOUT_BIAS = {name: x for name, x in ARRAYS.items() if name != "bias_0"}
BAD_THETA = {
    "truncated": (safetensors.numpy.save(ARRAYS)[:-4], "incomplete"),
    "empty": (b"", "header too small"),
    "garbage": (b"\xff" * 100, "header too large"),
    "pickle": (pickle.dumps(ARRAYS), "header too large"),
    "a name too few": (safetensors.numpy.save(WITHOUT_BIAS), r"bias_0 is missing, and should be float32\[3\]"),
    "a name too many": (safetensors.numpy.save({**ARRAYS, "z": ARRAYS["bias_0"]}), "z is .* and should be absent"),
    "shape": (safetensors.numpy.save({**ARRAYS, "bias_0": np.zeros(4, np.float32)}), r"bias_0 is float32\[4\]"),
    "dtype": (safetensors.numpy.save({**ARRAYS, "bias_0": np.zeros(3)}), r"bias_0 is float64\[3\]"),
    "bfloat16": (safetensors.numpy.save({**ARRAYS, "bias_0": np.zeros(3, jnp.bfloat16)}), "BF16"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_THETA.values(), ids=BAD_THETA)
def test_a_bad_theta_is_refused_with_the_reason(export, data, reason):
    replace_theta(export, data)
    with pytest.raises(lopt.InputError, match=rf"(?s)cannot read .*theta\.safetensors: .*{reason}"):
        lopt.load_pretrained(export)


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: x[:-1] + bytes([x[-1] ^ 1]), lambda x: b""])
def test_a_damaged_theta_is_refused_by_its_checksum(export, damage):
    path = export / "theta.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(lopt.InputError, match="damaged"):
        lopt.load_pretrained(export)


@pytest.mark.parametrize("name", ["theta.safetensors", "card.json"])
def test_a_missing_file_is_named(export, name):
    (export / name).unlink()
    with pytest.raises(lopt.InputError, match=f"cannot read .*{re.escape(name)}.*No such file"):
        lopt.load_pretrained(export)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\xfa", b"[1]", b"null", b"[" * 100_000])
def test_an_unreadable_card_is_refused(export, text):
    (export / "card.json").write_bytes(text)
    with pytest.raises(lopt.InputError, match=r"cannot read .*card\.json"):
        lopt.load_pretrained(export)


BAD_CARD = {
    "newer format": ({"format": FORMAT + 1}, "format must be 1 .* newer lopt: upgrade"),
    "newer features": ({"feature_contract": FEATURE_CONTRACT + 1}, "feature_contract must be 1 .* newer lopt: upgrade"),
    "no format": ({"format": None}, "format must be 1 .* is None"),
    "architecture": ({"architecture": "mpl"}, "unknown architecture 'mpl'. Did you mean 'mlp'"),
    "architecture kind": ({"architecture": ["mlp"]}, "architecture must be a str"),
    "unknown setting": ({"settings": {"hidden": 3}}, "unknown setting of architecture 'mlp': 'hidden'"),
    "refused setting": ({"settings": {"step_scale": -1}}, "step_scale must be above 0"),
    "kind of setting": ({"settings": {"hidden_sizes": ["a"]}}, r"card\.json: .*hidden_sizes"),
    "other settings": ({"settings": {"hidden_sizes": [4, 2]}}, r"bias_0 is float32\[3\], and should be float32\[4\]"),
    "settings kind": ({"settings": [1]}, "settings must be a dict"),
    "checksum": ({"theta_sha256": "0" * 64}, "damaged"),
    "horizon": ({"horizon": [5]}, "horizon must be the least and the greatest"),
    "horizon order": ({"horizon": [5, 4]}, "horizon must be the least and the greatest"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD_CARD.values(), ids=BAD_CARD)
def test_a_card_that_does_not_fit_is_refused_with_the_reason(export, changes, reason):
    edit_card(export, **changes)
    with pytest.raises(lopt.InputError, match=reason):
        lopt.load_pretrained(export)


# ---- Nothing good is lost ----


def test_what_cannot_be_exported_leaves_the_export_alone(export):
    before = lopt.load_pretrained(export)
    theta = theta_of(MLP, seed=1)
    bad = [
        (MLP, {"w": jnp.ones(2)}, CARD, "theta does not fit this architecture"),
        (MLP, jax.tree.map(lambda x: x.astype(jnp.bfloat16), theta), CARD, "bfloat16"),
        (OPTIMIZERS["mlp"](hidden_sizes=(3, 2), magnitude_scale=float("nan")), theta, CARD, "cannot be exported"),
        (object(), theta, CARD, "object cannot be exported"),
        (MLP, theta, {key: CARD[key] for key in CARD if key != "command"}, "must hold 'command'"),
        (MLP, theta, {**CARD, "extra": object()}, "plain JSON"),
        (MLP, theta, {**CARD, "horizon": 100}, "horizon must be"),
    ]
    for optimizer, theta, card, reason in bad:
        with pytest.raises(lopt.InputError, match=reason):
            save_export(export, optimizer, theta, card=card)
    assert_same(lopt.load_pretrained(export).theta, before.theta)


def test_an_export_replaces_an_export_and_nothing_else(export):
    assert save_export(export, MLP, theta_of(MLP, seed=1), card=CARD) == export
    assert_same(lopt.load_pretrained(export).theta, theta_of(MLP, seed=1))
    assert os.listdir(export.parent) == ["export"]
    (export / "notes.txt").write_text("mine")
    with pytest.raises(lopt.InputError, match="it holds something else"):
        save_export(export, MLP, theta_of(MLP, seed=2), card=CARD)
    assert (export / "notes.txt").read_text() == "mine"


class Killed(BaseException):
    """Stands for the end of the process: nothing behind it runs."""


def stop_at(monkeypatch, number, error):
    """Lets the `number`-th of the calls that touch the disk fail; the others work. Returns the calls seen."""
    calls = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == number or (isinstance(error, Killed) and len(calls) > number):
                raise error
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(export_files.os, "fsync", counted(os.fsync))
    monkeypatch.setattr(export_files.Path, "mkdir", counted(Path.mkdir))
    monkeypatch.setattr(export_files.Path, "rename", counted(Path.rename))
    monkeypatch.setattr(export_files.shutil, "rmtree", counted(export_files.shutil.rmtree))
    return calls


@pytest.mark.parametrize(
    "error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full disk"]
)
@pytest.mark.parametrize("number", range(1, 9))
def test_an_interrupted_export_leaves_the_old_or_the_new_one(export, error, number):
    old, new = theta_of(MLP), theta_of(MLP, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        calls = stop_at(patch, number, error)
        with pytest.raises(type(error)):
            save_export(export, MLP, new, card=CARD)
    writing = ["rmtree", "mkdir", "fsync", "fsync", "rmtree", "rename", "rename", "rmtree"]
    assert calls[:number] == writing[:number]
    for place in (export, export.parent):
        found = lopt.load_pretrained(place).theta
        assert_same(found, new if number == 8 else old)
    # And the next export, which finds the leftovers, is as any other, also if it is killed in its turn.
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6, Killed())
        with pytest.raises(Killed):
            save_export(export, MLP, new, card=CARD)
    lopt.load_pretrained(export)
    save_export(export, MLP, new, card=CARD)
    assert_same(lopt.load_pretrained(export).theta, new)
    assert os.listdir(export.parent) == ["export"]
