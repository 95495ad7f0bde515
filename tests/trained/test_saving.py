"""Saving loses nothing good: neither an export that was there, nor other files, whenever it is stopped."""

import errno
import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained import export as export_files
from lopt.trained.export import check_exportable, save_export
from tests.trained.small_export import CARD, MLP, assert_same, theta_of


def test_what_cannot_be_exported_leaves_the_export_alone(export):
    before = lopt.load_pretrained(export)
    theta = theta_of(MLP, seed=1)
    bad = [
        (MLP, {"w": jnp.ones(2)}, CARD, "theta does not fit this architecture"),
        (MLP, jax.tree.map(lambda x: x.astype(jnp.bfloat16), theta), CARD, "bfloat16"),
        (OPTIMIZERS["mlp"](hidden_sizes=(3, 2), magnitude_scale=float("nan")), theta, CARD, "cannot be exported"),
        (object(), theta, CARD, "object cannot be exported"),
        (OPTIMIZERS["adafac_mlp"](mup_keys=("w",) * 300), theta, CARD, "at most 256 items each"),
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
@pytest.mark.whole_table
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
