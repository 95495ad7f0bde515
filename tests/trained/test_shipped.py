"""`lopt.shipped` and `lopt list`: what the cards say, counted and held against what is loaded."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import lopt
from lopt.listing import main
from lopt.trained.folders import shipped_folders
from lopt.trained.pretrained import load_pretrained
from lopt.trained.shipped import SIDE, state_numbers
from tests.test_imports import ROOT

FOUND = lopt.shipped()


def test_all_are_listed():
    assert list(FOUND) == list(shipped_folders())


@pytest.mark.parametrize("name", FOUND)
def test_a_row_says_what_the_files_say(name):
    row, pretrained = FOUND[name], load_pretrained(name)
    card = json.loads((shipped_folders()[name] / "card.json").read_text())
    assert (row.name, row.rule, row.tasks) == (name, card["architecture"], card["tasks"])
    assert (list(row.horizon), row.outer_steps) == (card["horizon"], card["outer_steps"])
    assert row.weights == sum(leaf.size for leaf in jax.tree.leaves(pretrained.theta))
    assert row.what
    assert row.rule not in row.what


@pytest.mark.parametrize("name", FOUND)
def test_it_reads_what_it_cannot_do_without(name):
    """An update without an input that the row names is refused; with those alone, it is made."""
    row, params = FOUND[name], {"w": jnp.ones((3, 2))}
    inputs = {"params": params, "loss": jnp.ones(())}
    tx = lopt.load(name, num_steps=row.horizon[1])
    given = {word: inputs[word] for word in row.reads if word in inputs}

    def update(params=None, loss=None):
        return jax.eval_shape(lambda grads, state: tx.update(grads, state, params, value=loss), params_like, state)

    params_like, state = params, tx.init(params)
    update(**given)
    for word in given:
        with pytest.raises(lopt.InputError, match="which it was not given"):
            update(**{other: x for other, x in given.items() if other != word})
    assert ("num_steps" in row.reads) == ("num_steps" in load_pretrained(name).optimizer.requires)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("learnable_sgd_digits", 1), ("learnable_adam_digits", 2), ("star_digits", 4 + 6 / SIDE), ("demo_lstm", 32)],
)
def test_state_is_counted_as_on_the_page(name, numbers):
    """The page has 1, 2, 4 + 3 (1/m + 1/n), and 32 for the preset of `lstm`; a step count and the like come on top."""
    assert numbers <= state_numbers(load_pretrained(name).optimizer) <= numbers + 10 / SIDE**2


def test_the_command_prints_a_line_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = (i for i, line in enumerate(lines) if line.split()[:2] == ["name", "rule"])
    named = [line.split()[0] for line in lines[first + 1 :] if line.split()[:1] and line.split()[0] in FOUND]
    assert second - first > 1
    assert named == list(FOUND)
    row = next(line for line in lines if line.startswith("velo_digits"))
    for text in ("gradient, params, loss, num_steps", " 46,337 ", " 4 ", "100 to 1,000 steps", " 1,500 "):
        assert text in row


def test_a_reader_that_stops_reading_is_no_error():
    line = f"{sys.executable} -m lopt list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")


def test_nothing_is_computed():
    """JAX has no device afterwards, so that their number can still be chosen."""
    program = "import lopt; lopt.shipped(); import jax; jax.config.update('jax_num_cpu_devices', 3); print(3)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_damaged_card_is_named(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "card.json").write_text("{}")
    monkeypatch.setattr("lopt.trained.shipped.shipped_folders", lambda: {"demo": tmp_path / "demo"})
    with pytest.raises(lopt.InputError, match=r"cannot read .*card\.json: .*install lopt again"):
        lopt.shipped()
