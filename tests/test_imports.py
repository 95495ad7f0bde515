"""The rooms of the house: who may import whom, and what `import lopt` brings along."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("meta_train.py", "meta_eval.py", "tasks/__main__.py")
HOUSE = ("lopt", "tasks", "presets", "experiments", "examples", "benchmarks", "meta_train.py", "meta_eval.py")
LAYERS = {"types": 0, "names": 0, "optimizers": 1, "estimators": 1, "inner": 1, "horizons": 1, "outer": 2, "loop": 3}


def sources(*places: str) -> list[str]:
    """The Python files under directories (or the files) of the repository, relative to it."""
    paths = [ROOT / place for place in places]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return [str(file.relative_to(ROOT)) for file in files if file.exists()]


@functools.cache
def parse(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(), source)


def imports(tree: ast.Module, source: str) -> Iterator[str]:
    """The full dotted name of everything imported anywhere in a file, `lopt.types.Task`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = Path(source).parts[: -node.level] if node.level else ()
            yield from (".".join([*package, *filter(None, [node.module, alias.name])]) for alias in node.names)


def imported(source: str) -> list[str]:
    return list(imports(parse(source), source))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def sets_jax_config(tree: ast.Module, source: str) -> bool:
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return "jax.config.update" in calls or any(within(name, "jax.config") for name in imports(tree, source))


def test_the_reader_of_imports_sees_every_form():
    text = """
import a.b, c as d
from e.f import g as h
from . import i
from ..j import k
def later():
    from l import m
"""
    wanted = ["a.b", "c", "e.f.g", "lopt.optimizers.i", "lopt.j.k", "l.m"]
    assert list(imports(ast.parse(text), "lopt/optimizers/x.py")) == wanted
    assert sets_jax_config(ast.parse("import jax\njax.config.update('a', 1)"), "x.py")
    assert sets_jax_config(ast.parse("from jax import config\nconfig.update('a', 1)"), "x.py")
    assert not sets_jax_config(ast.parse("from lopt import config\nconfig.update('a', 1)"), "x.py")
    assert "lopt/pretrained.py" in sources(*HOUSE)


@pytest.mark.parametrize("source", sources("lopt"))
def test_the_library_imports_no_tasks_and_no_commands(source):
    outside = ("tasks", "presets", "experiments", "examples", "benchmarks", "tests", "meta_train", "meta_eval")
    assert [name for name in imported(source) if within(name, *outside)] == []


@pytest.mark.parametrize("source", sources("tasks"))
def test_tasks_import_only_types_and_names_from_the_library(source):
    ours = [name for name in imported(source) if within(name, "lopt")]
    assert source in COMMANDS or [name for name in ours if not within(name, "lopt.types", "lopt.names")] == []


@pytest.mark.parametrize("source", sources("lopt/optimizers", "lopt/estimators"))
def test_optimizers_and_estimators_do_not_know_each_other(source):
    other = "lopt.estimators" if source.startswith("lopt/optimizers") else "lopt.optimizers"
    assert [name for name in imported(source) if within(name, other)] == []


@pytest.mark.parametrize("source", sources("lopt"))
def test_dependencies_point_one_way(source):
    own = LAYERS.get(Path(source).with_suffix("").parts[1])
    if own is None:
        return
    higher = [f"lopt.{module}" for module, layer in LAYERS.items() if layer > own]
    assert [name for name in imported(source) if within(name, *higher)] == []


@pytest.mark.parametrize("source", sources(*HOUSE))
def test_flags_are_read_by_the_commands_only(source):
    flags = [name for name in imported(source) if within(name, "absl.flags", "absl.app")]
    assert source in COMMANDS or flags == []


@pytest.mark.parametrize("source", sources("lopt", "tasks"))
def test_global_jax_settings_are_left_to_the_commands(source):
    assert not sets_jax_config(parse(source), source)


@pytest.mark.parametrize("source", sources(*HOUSE))
def test_tensorflow_datasets_has_one_door(source):
    used = [name for name in imported(source) if within(name, "tensorflow_datasets", "tensorflow")]
    assert source.startswith("tasks/datasets/") or used == []


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_lopt_brings_only_what_it_needs():
    # What jax and optax bring (optax: absl, for its logging) is theirs; Flax comes when a rule is loaded.
    program = "import sys, jax, optax; before = set(sys.modules); import lopt; print(*set(sys.modules) - before)"
    modules = {name.partition(".")[0] for name in run(program).split()}
    assert {"lopt", "safetensors"} <= modules
    heavy = {"tensorflow_datasets", "tensorflow", "wandb", "matplotlib", "sklearn", "scipy", "orbax", "rich", "absl"}
    assert modules & (heavy | {"flax", "tasks", "mlxtend", "PIL"}) == set()


def test_import_lopt_starts_no_backend():
    # The number of CPU devices can be set only while there is no backend.
    program = "import lopt, jax; jax.config.update('jax_num_cpu_devices', 3); print(jax.local_device_count('cpu'))"
    assert run(program) == "3\n"


def test_public_names():
    import lopt

    assert all(hasattr(lopt, name) for name in lopt.__all__)
    assert lopt.__version__


def test_reading_a_configuration_leaves_jax_as_it_was():
    """The commands choose the number of devices after it, which JAX refuses once it has computed anything."""
    code = (
        "import jax; from lopt.config import MetaTrainConfig; MetaTrainConfig(optimizer='celo', freeze='scheduler'); "
        "jax.config.update('jax_num_cpu_devices', 2)"
    )
    run(code)
