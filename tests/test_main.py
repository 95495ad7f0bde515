"""The command `lopt`: its verbs are the commands, under the names that they have here."""

import subprocess
import sys

import pytest

from lopt.__main__ import VERBS, main
from lopt.checkout import BESIDE, module_name
from tests.test_commands import COMMANDS
from tests.test_imports import ROOT


def file_of(module: str) -> str:
    place = module.replace(".", "/")
    return f"{place}/__main__.py" if (ROOT / place).is_dir() else f"{place}.py"


def test_every_command_of_an_installed_lopt_is_a_verb():
    """What lies in benchmarks, examples and experiments is run in a checkout only."""
    ours = {source for source in COMMANDS if source.startswith(("lopt/", "tasks/", "presets/", "meta_"))}
    assert {file_of(module_name(module)) for module, _ in VERBS.values()} | {"lopt/__main__.py"} == ours


@pytest.mark.parametrize(
    ("installed", "here"),
    [
        ("lopt.tasks", "tasks"),
        ("lopt.tasks.sweeps", "tasks.sweeps"),
        ("lopt.train", "meta_train"),
        ("lopt.trained.card", "lopt.trained.card"),  # begins like lopt.train, and is not in it
        ("lopt.inspect", "lopt.inspect"),
    ],
)
def test_names_in_a_checkout(installed, here):
    assert module_name(installed) == here


def test_names_where_it_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in BESIDE else None)
    for name in (*BESIDE, "lopt.tasks.images.family", "lopt.monitor"):
        assert module_name(name) == name


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lopt", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_verb_runs_its_command_with_the_arguments_that_follow():
    done = run("tasks", "lst")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tasks: unknown action 'lst'. Did you mean 'list'? Known: list, prepare, show.\n"


@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        ([], 0, "usage: lopt VERB", ""),
        (["--help"], 0, "usage: lopt VERB", ""),
        (["trian"], 2, "", "lopt: unknown verb 'trian'. Did you mean 'train'?"),
    ],
)
def test_without_a_verb(arguments, status, out, err, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lopt", *arguments])
    assert main() == status
    said = capsys.readouterr()
    assert said.out.startswith(out)
    assert said.err.startswith(err)
    if not err:
        assert all(verb in said.out for verb in VERBS)
