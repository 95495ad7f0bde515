"""What `pip install` brings: the wheel and the sdist are the same bytes again, and an installed lopt does its work."""

import email
import hashlib
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import lopt
from lopt.checkout import BESIDE
from tests.test_imports import ROOT, sources
from tests.test_project import PYPROJECT

INCLUDED = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
SMALL = "--tasks=image_mlp/digits --optimizer=learnable_adam --num_pairs=2 --truncation=5 --horizon=20 --outer_steps=2"


def build(tree: Path, folder: Path, target: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stderr}\nThe tests need what requirements.txt lists, hatchling too."
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.mark.thorough
def test_the_same_sdist_again(sdist, tmp_path):
    assert build(ROOT, tmp_path, "sdist").read_bytes() == sdist.read_bytes()


@pytest.mark.thorough
def test_the_same_wheel_again_out_of_the_sdist(wheel, sdist, tmp_path):
    """Whatever the clock and the checkout: so the sdist is complete too."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "tree", filter="data")
    (tree,) = (tmp_path / "tree").iterdir()
    again = build(tree, tmp_path / "again", "wheel")
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_the_wheel_has_all_of_lopt_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"lopt", f"lopt-{lopt.__version__}.dist-info"}
    held = {source: source for source in sources("lopt")}
    for place, inside in INCLUDED.items():
        held |= {source: source.replace(place, inside, 1) for source in sources(place)}
    assert {name for name in names if name.endswith(".py")} == set(held.values())
    archive = zipfile.ZipFile(wheel)
    assert all(archive.read(inside) == (ROOT / source).read_bytes() for source, inside in held.items())
    other = [path for path in (ROOT / "lopt").rglob("*") if path.suffix in (".js", ".css", ".html")]
    wanted = {str(path.relative_to(ROOT)) for path in other}
    assert wanted | {"lopt/py.typed", "lopt/checkpoints/demonstrations/demo_mlp/theta.safetensors"} <= set(names)


def test_names_and_paths_of_what_lies_beside_the_package_agree():
    modules = {inside.removesuffix(".py"): place.removesuffix(".py") for place, inside in INCLUDED.items()}
    names = {inside.replace("/", "."): place for inside, place in modules.items()}
    assert names == {**BESIDE, "lopt.checkpoints": "checkpoints"}


def test_what_an_index_is_told(wheel):
    about = email.message_from_bytes(zipfile.ZipFile(wheel).read(f"lopt-{lopt.__version__}.dist-info/METADATA"))
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("lopt", lopt.__version__, "Apache-2.0")
    assert about["Description-Content-Type"] == "text/markdown"
    assert about["Requires-Python"] == ">=3.11"
    assert {text.split(", ")[1].partition("/")[0] for text in about.get_all("Project-URL", [])} == {"https:"}
    assert not any("License ::" in text for text in about.get_all("Classifier", []))  # the expression takes its place


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of a fresh environment that holds the wheel, and sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib"))
    python = str(folder / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*install, "--quiet", "--disable-pip-version-check"], check=True, timeout=120)
    return folder / "bin"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A folder elsewhere; all that it holds is a person's own tasks.py, which must not be taken for ours."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "tasks.py").write_text("raise SystemExit('the wrong tasks')\n")
    return folder


def run(*command, folder):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
def test_an_installed_lopt_trains_evaluates_and_loads(installed, empty):
    python, command = installed / "python", installed / "lopt"
    said = run(command, "train", "--workdir=run", *SMALL.split(), folder=empty)
    assert "compare it with Adam: python -m lopt eval --checkpoint=run" in said
    evaluate = ("--checkpoint=run", "--horizon=20", "--num_seeds=1", "--baselines=adam")
    assert "curves.png" in run(python, "-m", "lopt", "eval", *evaluate, folder=empty)
    kept = empty / "runs" / "cache" / "evaluations"  # hashed sources are found where they are installed
    assert len(list(kept.iterdir())) == 4  # of the run, itself untrained, and Adam twice
    program = """
import pickle, jax.numpy as jnp, lopt
from lopt.tasks import parse_tasks
from lopt.tasks.images.image_mlp import ImageMLP
import lopt.pool
(family,) = lopt.pool.read_mixture("image_mlp/digits").families
assert type(family) is ImageMLP and pickle.loads(pickle.dumps(family)) == family == parse_tasks("image_mlp/digits")[0]
mixture = lopt.pool.read_mixture(["2*quadratic+scale_loss"])
assert lopt.pool.spell_mixture(mixture) == "2*quadratic+scale_loss", lopt.pool.spell_mixture(mixture)
params = {"w": jnp.ones(3)}
tx = lopt.load("run")
print(float(tx.update(params, tx.init(params), params, value=1.0)[0]["w"][0]) < 0, lopt.__file__)
"""
    well, place = run(python, "-c", program, folder=empty).split()
    assert well == "True"
    assert Path(place).is_relative_to(installed.parent)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("list", "demo_mlp"),
        ("tasks list", "image_mlp"),
        ("tasks show test_function --steps=2", "runs/tasks/test_function.png"),
        ("inspect demo_mlp --steps=2", "runs/inspect-demo_mlp/memory.png"),
    ],
)
def test_each_verb_of_an_installed_lopt(installed, empty, arguments, line):
    assert line in run(installed / "lopt", *arguments.split(), folder=empty)
