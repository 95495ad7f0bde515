"""The rooms of the house: who may import whom, and what `import lopt` brings along."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lopt.checkout import BESIDE

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("meta_train.py", "meta_eval.py", "tasks/__main__.py")
HOUSE = ("lopt", "tasks", "presets", "experiments", "examples", "benchmarks", "meta_train.py", "meta_eval.py")
HOUSE_PACKAGES = tuple(place.removesuffix(".py") for place in (*HOUSE, "tests"))

# Who imports whom: a room is a file or a folder, and this is all that its files import from other rooms.
TYPES, SETTINGS = ("lopt.types",), ("lopt.types", "lopt.names")
FAMILY = (*SETTINGS, "tasks.checks", "tasks.naming")
ROOMS: dict[str, tuple[str, ...]] = {
    "lopt": (
        *("lopt.names", "lopt.version", "lopt.extras", "lopt.own", "lopt.trained", "lopt.meta_training"),
        "lopt.evaluation",
    ),
    "lopt.types": (),
    "lopt.names": (),
    "lopt.interrupts": (),
    "lopt.checkout": (),
    "lopt.extras": ("lopt.names",),
    "lopt.version": (),
    "lopt.files": (),
    "lopt.locks": ("lopt.names",),
    "lopt.npz": ("lopt.names",),
    "lopt.figures": (),
    "lopt.page": (),
    "lopt.trees": TYPES,
    "lopt.own": (*SETTINGS, "lopt.trees"),
    "lopt.seeds": TYPES,
    "lopt.inner_step": TYPES,
    "lopt.horizons": ("lopt.names",),
    "lopt.processes": SETTINGS,
    "lopt.distributed": (*SETTINGS, "lopt.processes"),
    "lopt.cluster": ("lopt.names", "lopt.processes"),
    "lopt.compile_cache": ("lopt.names",),
    "lopt.tracking": ("lopt.names", "lopt.extras", "lopt.files"),
    "lopt.optimizers.parts": (*SETTINGS, "lopt.trees"),
    "lopt.optimizers": (*SETTINGS, "lopt.trees", "lopt.optimizers.parts"),
    "lopt.estimators": (*SETTINGS, "lopt.horizons", "lopt.distributed"),
    "lopt.trained": (
        *(*SETTINGS, "lopt.version", "lopt.files", "lopt.trees"),
        *("lopt.own", "lopt.optimizers", "lopt.optimizers.parts"),
    ),
    "lopt.torch.types": (),
    "lopt.torch.parts": ("lopt.torch.types",),
    "lopt.torch.rules": ("lopt.torch.types", "lopt.torch.parts"),
    "lopt.torch": ("lopt.names", "lopt.trained", "lopt.torch.types", "lopt.torch.parts", "lopt.torch.rules"),
    "lopt.meta_training": (
        *(*SETTINGS, "lopt.files", "lopt.figures", "lopt.trees", "lopt.seeds", "lopt.inner_step", "lopt.horizons"),
        *("lopt.distributed", "lopt.tracking", "lopt.pool", "lopt.optimizers", "lopt.estimators", "lopt.trained"),
        *("lopt.extras", "lopt.own", "lopt.validation", "lopt.processes", "lopt.version", "lopt.locks"),
    ),
    "lopt.validation": (  # the one door from meta-training to evaluation
        *(*SETTINGS, "lopt.version", "lopt.distributed", "lopt.evaluation"),
    ),
    "lopt.evaluation": (
        *(*SETTINGS, "lopt.version", "lopt.files", "lopt.figures", "lopt.trees", "lopt.seeds", "lopt.inner_step"),
        *("lopt.distributed", "lopt.extras", "lopt.tracking", "lopt.own", "lopt.trained", "lopt.pool", "lopt.page"),
        *("lopt.processes", "lopt.npz", "lopt.locks"),
    ),
    "lopt.inspect": (
        *(*SETTINGS, "lopt.interrupts", "lopt.extras", "lopt.compile_cache", "lopt.files", "lopt.figures"),
        "lopt.trained",
        "lopt.locks",
    ),
    "lopt.monitor": (
        *("lopt.names", "lopt.interrupts", "lopt.extras", "lopt.files", "lopt.figures", "lopt.page"),
        "lopt.meta_training",
    ),
    "lopt.launch": ("lopt.names", "lopt.interrupts"),  # a command
    "lopt.listing": ("lopt.names", "lopt.interrupts", "lopt.trained"),  # a command
    "lopt.__main__": ("lopt.names", "lopt.interrupts", "lopt.checkout"),  # the command that runs all others
    "lopt.testing": ("lopt.types", "lopt.own", "lopt.horizons", "lopt.trained"),
    # The one door from the library to the tasks, which it finds by lopt.checkout.
    "lopt.pool": (*SETTINGS, "lopt.checkout", "lopt.extras", "lopt.own", "lopt.optimizers", "tasks", "tasks.sweeps"),
    "tasks": ("tasks.augmentations", "tasks.families", "tasks.pools"),
    "tasks.checks": ("lopt.names", "lopt.distributed"),
    "tasks.naming": ("lopt.names",),
    "tasks.networks": TYPES,
    "tasks.sampling": (),
    "tasks.synthetic": TYPES,
    "tasks.datasets": (*SETTINGS, "lopt.extras", "lopt.npz"),
    "tasks.images": (*FAMILY, "tasks.networks", "tasks.sampling", "tasks.datasets"),
    "tasks.sequences": (*FAMILY, "tasks.networks", "tasks.synthetic", "tasks.datasets"),
    "tasks.tables": (*FAMILY, "tasks.networks", "tasks.sampling", "tasks.datasets"),
    "tasks.functions": (*FAMILY, "tasks.networks", "tasks.synthetic"),
    "tasks.train_optimizer": (*TYPES, "tasks.checks", "tasks.naming", "tasks.synthetic"),
    "tasks.augmentations": (*SETTINGS, "tasks.checks", "tasks.naming"),
    "tasks.families": (
        *(*SETTINGS, "lopt.own", "tasks.naming", "tasks.datasets", "tasks.augmentations"),
        *("tasks.images", "tasks.sequences", "tasks.tables", "tasks.functions", "tasks.train_optimizer"),
    ),
    "tasks.pools": (*SETTINGS, "tasks.checks", "tasks.families"),
    "tasks.sweeps": (*SETTINGS, "tasks.datasets", "tasks.augmentations", "tasks.families"),
    "tasks.page": (*TYPES, "lopt.figures", "lopt.trees", "tasks.datasets"),
    "tasks.__main__": (  # a command
        *("lopt.names", "lopt.interrupts", "lopt.extras", "lopt.files", "lopt.figures", "lopt.own", "lopt.optimizers"),
        *("tasks", "tasks.naming", "tasks.datasets", "tasks.page"),
    ),
}
# Folders whose files do not import each other, but for these, which are shared.
APART = {
    "lopt.optimizers": ("parts",),
    "lopt.torch.rules": (),
    "lopt.estimators": ("problems", "shaping", "pairs", "restarts", "windows", "evolution", "gradients", "carrying"),
}


def room_of_module(name: str) -> str:
    """The innermost room around a module or a name in it; a file or folder that is in none is its own."""
    parts = name.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    inner = next((prefix for prefix in prefixes if prefix in ROOMS), parts[0])
    if inner in ("lopt", "tasks") and len(parts) > 1 and is_module(".".join(parts[:2])):
        return ".".join(parts[:2])
    return inner


def room_of(source: str) -> str:
    return room_of_module(source.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def is_module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").exists()


@functools.cache
def floor_of(room: str) -> int:
    """0 for a room that imports none, else one above the highest that it imports."""
    return 1 + max(map(floor_of, ROOMS[room]), default=-1)


# What `import lopt` loads of ours; the public names load their modules at first use, and so does `tasks`.
LIGHT = {"lopt", "tasks"}
# What `lopt.load` does.
LOADING = {"lopt", "lopt.types", "lopt.names", "lopt.version", "lopt.files", "lopt.trees", "lopt.trained"} | {
    f"lopt.trained.{name}" for name in ("transform", "leaves", "export", "card", "folders", "pretrained")
}


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
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "module_name":  # of lopt.checkout
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (str(name).removeprefix("lopt.") for name in names)


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
    import_module(module_name("lopt.tasks.n"))
"""
    wanted = ["a.b", "c", "e.f.g", "lopt.optimizers.i", "lopt.j.k", "l.m", "tasks.n"]
    assert list(imports(ast.parse(text), "lopt/optimizers/x.py")) == wanted
    assert sets_jax_config(ast.parse("import jax\njax.config.update('a', 1)"), "x.py")
    assert sets_jax_config(ast.parse("from jax import config\nconfig.update('a', 1)"), "x.py")
    assert not sets_jax_config(ast.parse("from lopt import config\nconfig.update('a', 1)"), "x.py")
    assert "lopt/trained/pretrained.py" in sources(*HOUSE)


@pytest.mark.parametrize("source", sources("lopt", "tasks"))
def test_every_file_is_in_a_room(source):
    assert room_of(source) in ROOMS, f"{source} has no room: give it one in ROOMS, or put it into one"


def test_rooms_import_what_the_table_says():
    """Neither more, which would be a new arrow that nobody decided, nor less, which would leave a wall open."""
    found = {room: set() for room in ROOMS}
    for source in sources("lopt", "tasks"):
        for name in imported(source):
            if within(name, *HOUSE_PACKAGES):
                found[room_of(source)].add(room_of_module(name))
    assert {room: sorted(others - {room}) for room, others in found.items()} == {
        room: sorted(others) for room, others in ROOMS.items()
    }


@pytest.mark.parametrize("source", sources("tasks", "presets"))
def test_what_a_wheel_has_inside_lopt_imports_itself_by_relative_names(source):
    """There, `tasks` is called `lopt.tasks`."""
    for node in ast.walk(parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not any(within(name, *set(BESIDE.values())) for name in names), f"{ast.unparse(node)}: write it relative"


def test_floors_lie_on_one_another():
    """Every arrow points down, so there is no circle; and wings of one floor do not know each other."""
    assert all(floor_of(other) < floor_of(room) for room, others in ROOMS.items() for other in others)
    wings = ("lopt.meta_training", "lopt.evaluation", "lopt.inspect")
    assert not any(other in wings for wing in wings for other in ROOMS[wing])


def test_meta_training_reaches_the_evaluation_through_one_door():
    assert [room for room in ROOMS if "lopt.evaluation" in ROOMS[room]] == ["lopt", "lopt.validation"]
    assert [room for room in ROOMS if "lopt.validation" in ROOMS[room]] == ["lopt.meta_training"]


def test_the_library_reaches_the_tasks_through_one_door():
    rooms = [room for room in ROOMS if within(room, "lopt") and any(within(other, "tasks") for other in ROOMS[room])]
    assert rooms == ["lopt.pool"]


@pytest.mark.parametrize("package", APART)
def test_files_of_a_kind_do_not_import_each_other(package):
    """A rule never imports a rule, nor an estimator an estimator: what two share is a part."""
    folder = package.replace(".", "/")
    kind = [source for source in sources(folder) if source.count("/") == folder.count("/") + 1]
    modules = {source.removesuffix(".py").replace("/", ".") for source in kind} - {
        f"{package}.{x}" for x in APART[package]
    }
    for source in kind:
        if not source.endswith("__init__.py"):
            own = source.removesuffix(".py").replace("/", ".")
            assert [name for name in imported(source) if within(name, *(modules - {own}))] == []


@pytest.mark.parametrize("folder", ["lopt", "tasks"])
def test_the_architecture_page_counts_the_rooms(folder):
    rooms = [room for room in ROOMS if within(room, folder) and room != "tasks.__main__"]
    arrows = sum(within(other, folder) for room in rooms for other in ROOMS[room])
    floors = len({floor_of(room) for room in rooms})
    text = f"`{folder}/` has {len(rooms)} rooms with {arrows} arrows between them, on {floors} floors"
    assert text in " ".join((ROOT / "docs" / "architecture.md").read_text().split())


@pytest.mark.parametrize("source", sources(*HOUSE))
def test_flags_are_read_by_the_commands_only(source):
    flags = [name for name in imported(source) if within(name, "absl.flags", "absl.app")]
    assert source in COMMANDS or flags == []


@pytest.mark.parametrize("source", sources("lopt", "tasks"))
def test_global_jax_settings_are_left_to_the_commands(source):
    """But for what the commands call and the library does not."""
    if source == "lopt/compile_cache.py":
        assert {room for room, imported in ROOMS.items() if "lopt.compile_cache" in imported} == {"lopt.inspect"}
        return
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
    modules = set(run("import sys, lopt, tasks; print(*sys.modules)").split())
    assert {name for name in modules if within(name, "lopt", "tasks")} == LIGHT
    assert {"jax", "numpy", "flax", "optax"} & modules == set()


def test_a_trained_optimizer_brings_only_what_it_needs():
    # What jax and optax bring (optax: absl, for its logging) is theirs; Flax comes when a rule is loaded.
    program = "import sys, jax, optax; old = set(sys.modules); from lopt import load; print(*set(sys.modules) - old)"
    modules = set(run(program).split())
    assert {name for name in modules if within(name, "lopt")} == LOADING
    heavy = {"tensorflow_datasets", "tensorflow", "wandb", "matplotlib", "sklearn", "scipy", "orbax", "rich", "absl"}
    packages = {name.partition(".")[0] for name in modules}
    assert packages & (heavy | {"flax", "tasks", "mlxtend", "PIL"}) == set()
    assert "safetensors" in packages


def test_import_lopt_starts_no_backend():
    # The number of CPU devices can be set only while there is no backend.
    program = "from lopt import *; import jax; jax.config.update('jax_num_cpu_devices', 3); print(jax.device_count())"
    assert run(program) == "3\n"


def test_public_names():
    import lopt

    assert all(hasattr(lopt, name) for name in lopt.__all__)
    assert lopt.__version__


def test_reading_a_configuration_leaves_jax_as_it_was():
    """The commands choose the number of devices after it, which JAX refuses once it has computed anything."""
    code = (
        "import jax; from lopt.meta_training.config import MetaTrainConfig; "
        "MetaTrainConfig(optimizer='celo', freeze='scheduler'); "
        "jax.config.update('jax_num_cpu_devices', 2)"
    )
    run(code)
