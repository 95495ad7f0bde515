"""Exports: what is written is what is read, and what cannot be read is refused with the reason."""

import hashlib
import json
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained.card import CHECKSUM, FEATURE_CONTRACT, FORMAT
from lopt.trained.export import save_export
from lopt.trees import by_name
from tests.trained.small_export import CARD, MLP, assert_same, edit_card, replace_theta, theta_of


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
    "nan": (safetensors.numpy.save({**ARRAYS, "bias_0": np.full(3, np.nan, np.float32)}), "bias_0 that are not finite"),
    "inf": (safetensors.numpy.save({**ARRAYS, "bias_0": np.full(3, np.inf, np.float32)}), "bias_0 that are not finite"),
    "too long": (safetensors.numpy.save(ARRAYS) + bytes(2**22 + 1), "bytes, where at most .* are possible"),
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
    "many layers": ({"settings": {"hidden_sizes": [1] * 1_000}}, "at most 256 items each"),
    "deep settings": ({"settings": {"hidden_sizes": [[[[[[[[[1]]]]]]]]]}}, "in at most 8 brackets"),
    "settings kind": ({"settings": [1]}, "settings must be a dict"),
    "checksum": ({"theta_sha256": "0" * 64}, "damaged"),
    "nan": ({"settings": {"step_scale": float("nan")}}, "settings.step_scale is nan; every number must be finite"),
    "infinite": ({"more": [1.0, {"x": float("inf")}]}, "more.x is inf; every number must be finite"),
    "foreign": ({"architecture": "os:system"}, r"system from os, which is not part of lopt: .*optimizer=system"),
    "horizon": ({"horizon": [5]}, "horizon must be the least and the greatest"),
    "horizon order": ({"horizon": [5, 4]}, "horizon must be the least and the greatest"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD_CARD.values(), ids=BAD_CARD)
def test_a_card_that_does_not_fit_is_refused_with_the_reason(export, changes, reason):
    if isinstance(changes.get("settings"), dict):
        changes = {"settings": lopt.load_pretrained(export).card["settings"] | changes["settings"]}
    edit_card(export, **changes)
    with pytest.raises(lopt.InputError, match=reason):
        lopt.load_pretrained(export)


def test_a_card_that_lacks_a_setting_is_refused(export):
    """Today's default of a setting that came later may not be what theta was trained with."""
    settings = lopt.load_pretrained(export).card["settings"]
    for name in settings:
        edit_card(export, settings={key: value for key, value in settings.items() if key != name})
        with pytest.raises(lopt.InputError, match=rf"its card lacks {name}, .*another version of lopt"):
            lopt.load_pretrained(export)


def test_every_flip_of_a_bit_of_the_card_is_seen(export):
    """Or changes nothing: what is read has the same settings, horizon and tasks."""
    good = (export / "card.json").read_bytes()
    wanted = json.loads(good)
    random = np.random.default_rng(0)
    passed = 0
    for place in random.choice(len(good), 150, replace=False):
        damaged = bytearray(good)
        damaged[place] ^= 1 << int(random.integers(8))
        (export / "card.json").write_bytes(damaged)
        try:
            card = dict(lopt.load_pretrained(export).card)
        except lopt.InputError:
            continue
        passed += 1
        assert {key: card[key] for key in wanted if key != CHECKSUM} == {
            k: v for k, v in wanted.items() if k != CHECKSUM
        }
    assert passed < 30  # white space, and the name of the checksum


def test_an_export_without_a_checksum_of_its_card_loads(export):
    """As those of lopt 0.1.0."""
    card = json.loads((export / "card.json").read_text())
    del card[CHECKSUM]
    (export / "card.json").write_text(json.dumps(card))
    assert_same(lopt.load_pretrained(export).theta, theta_of(MLP))


def test_infinity_written_as_a_large_number_is_refused(export):
    text = (export / "card.json").read_text()
    (export / "card.json").write_text(text.replace('"step_scale": 0.01', '"step_scale": 1e999'))
    with pytest.raises(lopt.InputError, match=r"settings\.step_scale is inf"):
        lopt.load_pretrained(export)


def test_a_huge_card_is_not_read(export):
    with open(export / "card.json", "r+b") as file:
        file.truncate(2**40)  # without a byte on the disk
    with pytest.raises(lopt.InputError, match=r"1,099,511,627,776 bytes, where at most 4,194,304 are possible"):
        lopt.load_pretrained(export)


def test_a_missing_module_is_not_called_damage(export, monkeypatch):
    def broken(self, key):
        raise ImportError("no module named x")

    monkeypatch.setattr(OPTIMIZERS["mlp"], "init_theta", broken)
    with pytest.raises(ImportError, match="no module named x"):
        lopt.load_pretrained(export)
