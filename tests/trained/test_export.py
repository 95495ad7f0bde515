"""Exports: what is written is what is read, what cannot be read is refused with the reason, nothing good is lost."""

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained import export as export_files
from lopt.trained.card import CHECKSUM, FEATURE_CONTRACT, FORMAT
from lopt.trained.export import check_exportable, save_export
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
    edit_card(export, **changes)
    with pytest.raises(lopt.InputError, match=reason):
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


# ---- Rules that are not part of lopt ----


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Update = -rate gradient exp(theta)."""

    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def init_theta(self, key):
        del key
        return {"log": jnp.zeros(())}

    def init(self, theta, params, *, num_steps):
        return ()

    def update(self, theta, grads, state, params, *, value):
        return jax.tree.map(lambda g: -self.rate * jnp.exp(theta["log"]) * g, grads), state


@dataclasses.dataclass(frozen=True)
class Unwritable(Foreign):
    rate: Any = jnp.tanh


@dataclasses.dataclass(frozen=True)
class Doubles(Foreign):
    def init_theta(self, key):
        return {"log": jnp.zeros((), jnp.bfloat16)}


def test_a_rule_of_someone_elses_is_saved_and_loaded_with_the_rule_at_hand(tmp_path):
    rule = Foreign(rate=0.5, sizes=(3, 4))
    check_exportable(rule, tmp_path / "export")
    folder = save_export(tmp_path / "export", rule, {"log": np.float32(np.log(2))}, card=CARD)
    card = json.loads((folder / "card.json").read_text())
    assert card["architecture"].endswith("test_export:Foreign")
    assert card["settings"] == {"rate": 0.5, "sizes": [3, 4]}
    assert lopt.load_pretrained(folder, optimizer=rule).optimizer is rule
    tx: Any
    for tx, wanted in (lopt.load(folder, optimizer=rule), -1.0), (lopt.scale_by_learned(folder, optimizer=rule), 1.0):
        updates, _ = tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
        np.testing.assert_allclose(updates["w"], wanted, rtol=1e-6)
    with pytest.raises(
        lopt.InputError, match=r"Foreign from .*test_export, .*optimizer=Foreign\(\.\.\.\).*'rate': 0\.5"
    ):
        lopt.load(folder)
    for other in (Foreign(), MLP, Foreign(rate=0.5)):
        with pytest.raises(lopt.InputError, match=r"theta belongs to .*Foreign:rate=0\.5"):
            lopt.load(folder, optimizer=other)


def test_a_rule_of_lopt_may_be_given_too(export):
    assert lopt.load_pretrained(export, optimizer=MLP).optimizer == MLP
    with pytest.raises(lopt.InputError, match="theta belongs to mlp"):
        lopt.load_pretrained(export, optimizer=OPTIMIZERS["mlp"]())


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_rule_is_exportable(rule):
    check_exportable(OPTIMIZERS[rule]())


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Unwritable(), "settings are numbers, words, None and tuples"),
        (Foreign(rate=float("nan")), "settings are numbers, words, None and tuples"),
        (Doubles(), "theta is float32, and its log is bfloat16"),
        (object(), "make the class a frozen dataclass"),
    ],
    ids=["function", "nan", "bfloat16", "object"],
)
def test_what_cannot_be_exported_is_said_before_the_training(rule, reason):
    with pytest.raises(lopt.InputError, match=reason):
        check_exportable(rule)


# ---- Nothing good is lost ----


def test_what_cannot_be_exported_leaves_the_export_alone(export):
    before = lopt.load_pretrained(export)
    theta = theta_of(MLP, seed=1)
    bad = [
        (MLP, {"w": jnp.ones(2)}, CARD, "theta does not fit this architecture"),
        (MLP, jax.tree.map(lambda x: x.astype(jnp.bfloat16), theta), CARD, "bfloat16"),
        (OPTIMIZERS["mlp"](hidden_sizes=(3, 2), magnitude_scale=float("nan")), theta, CARD, "cannot be exported"),
        (object(), theta, CARD, "object cannot be exported"),
        (MLP, {**theta, "bias_0": theta["bias_0"].at[1].set(jnp.nan)}, CARD, "bias_0 that are not finite"),
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
    for half in (False, True):
        for name in STRANGERS:
            (export / name).write_text("mine")
        (export / "folder").mkdir(exist_ok=True)
        if half:
            (export / "card.json").unlink()
        save_export(export, MLP, theta_of(MLP, seed=2 + half), card=CARD)
        assert_same(lopt.load_pretrained(export).theta, theta_of(MLP, seed=2 + half))
        assert all((export / name).read_text() == "mine" for name in STRANGERS)
        assert sorted(os.listdir(export)) == sorted(["card.json", "folder", "theta.safetensors", *STRANGERS])
        assert os.listdir(export.parent) == ["export"]


STRANGERS = (".DS_Store", ".nfs0001", "notes.txt")


def test_a_folder_of_something_else_is_refused_before_the_training(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(lopt.InputError, match="it holds something else"):
            check_exportable(MLP, folder)
        with pytest.raises(lopt.InputError, match="it holds something else"):
            save_export(folder, MLP, theta_of(MLP), card=CARD)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for folder in (tmp_path / "new", tmp_path / "hidden", save_export(tmp_path / "x", MLP, theta_of(MLP), card=CARD)):
        check_exportable(MLP, folder)
        save_export(folder, MLP, theta_of(MLP), card=CARD)
    assert (tmp_path / "hidden" / ".DS_Store").read_text() == "mine"


def test_what_is_read_while_a_run_replaces_it_belongs_together(export):
    """200 loads beside a thread that saves as fast as it can; the card says which theta it belongs to."""
    thetas = [jax.tree.map(lambda x, i=i: np.full_like(x, i), theta_of(MLP)) for i in range(2)]
    stop, saved = threading.Event(), 0

    def save():
        nonlocal saved
        while not stop.is_set():
            save_export(export, MLP, thetas[saved % 2], card={**CARD, "outer_steps": saved % 2})
            saved += 1

    save_export(export, MLP, thetas[1], card={**CARD, "outer_steps": 1})
    writer = threading.Thread(target=save)
    writer.start()
    try:
        for i in range(200):
            pretrained = lopt.load_pretrained((export, export.parent)[i % 2])
            assert float(pretrained.theta["bias_0"][0]) == pretrained.card["outer_steps"]
    finally:
        stop.set()
        writer.join()
    assert saved > 5


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
