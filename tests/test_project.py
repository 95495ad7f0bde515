"""What the pages, the packaging and the README promise about the repository itself."""

import ast
import inspect
import re
import tomllib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import lopt
from lopt.estimators import ESTIMATORS
from lopt.evaluation.baselines import BASELINES
from lopt.optimizers import OPTIMIZERS
from lopt.trained.folders import shipped_folders
from presets import PRESETS
from tasks import AUGMENTATIONS, FAMILIES, POOLS
from tasks.datasets import BUILTIN
from tests.test_imports import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEVELOPMENT = (ROOT / "docs" / "development.md").read_text()
# Names of files in code marks count from the root of the repository if they begin with one of these.
PLACES = "lopt|tasks|tests|docs|results|experiments|presets|benchmarks|checkpoints|examples"


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page as GitHub makes them of its headings, and those that it sets by hand."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def requirements() -> dict[str, str]:
    """The bounds in requirements.txt by package."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    return dict(split_requirement(line) for line in lines if line)


def split_requirement(text: str) -> tuple[str, str]:
    name, bounds = re.fullmatch(r"([\w-]+)(.*)", text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return name, bounds.strip()


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_what_is_there(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(there.read_text()), f"{page} links to {target}, which has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_pages_exist(page):
    """Names with capital placeholders, such as `results/NAME/`, and with `*` stand for many; one at least is there."""
    for name in re.findall(rf"`((?:{PLACES})/[\w./*-]*)(?:::\w+)?`", (ROOT / page).read_text()):
        pattern = re.sub(r"\b[A-Z]{3,}\b", "*", name).rstrip("/")
        assert list(ROOT.glob(pattern)), f"{page} names {name}"


@pytest.mark.parametrize("page", PAGES)
def test_functions_named_in_the_pages_exist(page):
    for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / page).read_text()):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{page} names {path}::{name}"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_named_in_the_pages_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", (ROOT / page).read_text())) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_generated_tables_are_in_the_list_of_what_regenerates_what(page):
    for command in re.findall(r"<!-- (python .+?) -->", (ROOT / page).read_text()):
        assert f"`{command}`" in DEVELOPMENT


def test_every_generated_folder_and_picture_is_in_the_list_of_what_regenerates_what():
    experiments = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    for folder in (ROOT / "results").iterdir():
        assert folder.name in experiments or f"`results/{folder.name}/`" in DEVELOPMENT
    for picture in (ROOT / "docs").glob("*.png"):
        assert f"`docs/{picture.name}`" in DEVELOPMENT
    for checkpoint in shipped_folders():
        assert checkpoint in PRESETS or f"`{checkpoint}`" in DEVELOPMENT


def test_requirements_and_pyproject_agree():
    project = PYPROJECT["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    declared += PYPROJECT["dependency-groups"]["dev"]
    assert len(declared) == len(dict(map(split_requirement, declared)))  # none twice
    assert requirements() == dict(map(split_requirement, declared))


def test_what_builds_the_site_is_declared_alike():
    lines = (ROOT / "docs" / "requirements.txt").read_text().splitlines()
    assert lines == PYPROJECT["project"]["optional-dependencies"]["docs"]


@pytest.mark.parametrize("package", requirements())
def test_every_requirement_has_a_lower_bound_to_be_tested(package):
    assert re.fullmatch(r">=[\w.]+(,<[\w.]+)?", requirements()[package])


def test_the_version_is_the_same_everywhere():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest
    assert cited[1] == newest[1] == lopt.__version__


def test_the_readme_counts_what_there_is():
    text = " ".join((ROOT / "README.md").read_text().split())
    evolution = [kind for kind in ESTIMATORS.values() if hasattr(kind(), "sigma")]
    kinds = {
        "learned optimizers": OPTIMIZERS,
        "trained ones": shipped_folders(),
        "evolution strategies": evolution,
        "gradient methods": set(ESTIMATORS.values()) - set(evolution),
        "task families": FAMILIES,
        "augmentations": AUGMENTATIONS,
        "pools": POOLS,
        "data sets that need no network": BUILTIN,
        "baselines": BASELINES,
        "experiments of the PES and NRES papers": list((ROOT / "results").glob("*/numbers.json")),
    }
    for name, members in kinds.items():
        assert f"{len(members)} {name}" in text


# What the README's Python blocks take for granted, and the same settings on a smaller scale.
README_NAMES = """
import jax.numpy as jnp
params = {"w": jnp.ones((3, 2)), "b": jnp.zeros((1, 2))}
batch = jnp.ones((4, 3)), jnp.full((4, 2), 2.0)
data = batch

def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

def init(key):
    return params

def train_loss(params, key, data):
    return loss_fn(params, data)

valid_loss = train_loss
"""
README_SMALLER = {
    "    num_steps=200,\n": "    num_steps=4, num_pairs=2, truncation=2, num_updates=2,\n",
    'tasks="image_mlp/digits", workdir': 'tasks="quadratic:dimension=4", workdir',
    "horizon=500)": "horizon=20, num_seeds=2)",
    "outer_steps=200)": 'outer_steps=2, num_pairs=2, truncation=2, horizon="4:8")',
}


BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
RESULTS = {"tuned": lopt.Tuned, "run": lopt.Run, "report": lopt.Report}  # what the names in the blocks are


@pytest.mark.parametrize("block", BLOCKS, ids=[block.partition("\n")[0] for block in BLOCKS])
def test_calls_in_the_readme_fit_the_functions(block):
    """Every `lopt.NAME(...)` takes the arguments it is given, and every result has the attributes that are read."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("lopt."):
            function = getattr(lopt, ast.unparse(node.func).removeprefix("lopt."))
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(function).bind(*node.args, **keywords)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in RESULTS:
            kind = RESULTS[ast.unparse(node.value)]
            assert node.attr in {*dir(kind), *kind.__annotations__}


@pytest.mark.slow
def test_the_python_in_the_readme_runs(tmp_path, monkeypatch):
    """Block by block in one namespace, as a reader would paste them into a notebook."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(README_NAMES, names)
    text = "\n".join(BLOCKS)
    for setting, smaller in README_SMALLER.items():
        assert text.count(setting) == 1
        text = text.replace(setting, smaller)
    exec(text, names)
    trained, _, loss = names["train_step"](names["params"], lopt.load("demo_mlp").init(names["params"]), names["batch"])
    assert jax.tree.map(jnp.shape, trained) == jax.tree.map(jnp.shape, names["params"])
    assert loss > 0
