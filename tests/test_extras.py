"""Packages of the extra `train` that are missing: named by whatever needs them, before anything is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lopt import extras
from lopt.names import InputError
from tests.test_imports import ROOT
from tests.test_project import PYPROJECT
from tests.trained.small_export import CARD, MLP, theta_of

# Runs `lopt` as if the packages of these modules were not installed.
WITHOUT = """
import importlib.abc, sys

absent = set(sys.argv[1].split(","))

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = ["lopt", *sys.argv[2:]]
from lopt.__main__ import command
sys.exit(command())
"""
SMALL = "--optimizer=learnable_adam --num_pairs=2 --truncation=5 --horizon=20 --outer_steps=2"
TRAIN = f"train --workdir=new {SMALL} --tasks="
EVAL = "eval --checkpoint=run --out=new --tasks=test_function --horizon=20 --num_seeds=1 --baselines=adam --cache="
DATA = ("tensorflow_datasets", "importlib_resources")
# What each command imports of the extra. Two of its packages are everywhere: optax brings absl, and Flax rich.
NEEDS = {
    "list": (),
    "inspect run --steps=2 --out=new": ("matplotlib",),
    "monitor run": ("rich",),
    "monitor run --png=new.png": ("rich", "matplotlib"),
    "tasks list": ("absl", "rich"),
    "tasks show test_function --steps=2 --out=new": ("absl", "rich", "matplotlib"),
    "tasks prepare wine --data_dir=new": ("absl", "rich", *DATA, "sklearn"),
    TRAIN + "test_function": ("absl", "rich", "orbax"),
    TRAIN + "table_mlp/wine --data_dir=new": ("absl", "rich", "orbax", *DATA, "sklearn"),
    TRAIN + "test_function --wandb=offline": ("absl", "rich", "orbax", "wandb"),
    EVAL: ("absl", "matplotlib", "scipy"),
    EVAL + " --wandb=offline": ("absl", "matplotlib", "scipy", "wandb"),
}
BROUGHT = {"absl", "rich"}
LATE = (*DATA, "sklearn", "wandb")  # asked for when it is known what is to be done, after JAX has loaded
ALONG = {"matplotlib": {"PIL"}, "sklearn": {"scipy"}}  # what packages of the extra import of one another


def name(command: str) -> str:
    return " ".join(part for part in command.split() if "=" not in part or "wandb" in part or "wine" in part)


def pairs():
    """Every command with each package that it needs; thorough where it takes seconds to find out."""
    for command, modules in NEEDS.items():
        for module in modules:
            late = module in LATE or (command.startswith("tasks") and module == "matplotlib")
            marks = [pytest.mark.thorough] if late else []
            yield pytest.param(command, module, id=f"{name(command)}-{module}", marks=marks)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a run of one outer step, in which the commands start."""
    from lopt.trained.export import save_export

    save_export(tmp_path / "run" / "export", MLP, theta_of(MLP), card=CARD)
    (tmp_path / "run" / "config.json").write_text('{"outer_steps": 1}')
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "meta_loss": 1.0}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, *absent):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", WITHOUT, ",".join(absent), *command.split()]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(("command", "module"), [*pairs()])
def test_a_command_names_what_it_lacks_and_leaves_nothing(folder, command, module):
    before = contents(folder)
    done = run(command, module)
    package = extras.TRAIN[module]
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"needs {package}, which is not installed" in done.stderr
    assert "pip install 'lopt[train]'" in done.stderr
    assert done.stdout.strip() in ("", "wine ...")  # what it was about to do
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", NEEDS, ids=name)
def test_a_command_needs_no_other_package_of_the_extra(folder, command):
    """With all others missing at once it does its work."""
    needed = {*BROUGHT, *NEEDS[command]}
    needed |= set().union(*(ALONG.get(module, set()) for module in needed))
    done = run(command, *(set(extras.TRAIN) - needed))
    assert done.returncode == 0, done.stderr


def test_the_table_of_packages_is_that_of_the_extra():
    declared = [text.partition(">")[0] for text in PYPROJECT["project"]["optional-dependencies"]["train"]]
    assert sorted(extras.TRAIN.values()) == sorted(declared)


def test_several_are_named_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^a picture needs matplotlib and pillow, which are not installed"):
        extras.need("a picture", "matplotlib", "PIL")


def test_an_import_that_failed_for_another_reason_stays_what_it_is():
    other = ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    assert extras.explained("it", other) is other
    assert isinstance(extras.explained("it", ModuleNotFoundError("no", name="orbax.checkpoint")), InputError)


def test_a_public_name_says_what_its_import_lacks():
    program = "import sys; sys.modules['orbax'] = None; import lopt; lopt.meta_train"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "InputError: lopt.meta_train needs orbax-checkpoint, which is not installed" in done.stderr
