"""What the pages of the site promise: every public name, estimator and rule is on it, and its code can be read."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import lopt
import tasks
from docs.building import docstrings, links
from docs.building.facts import row_of, rule, shipped
from lopt import testing, types
from lopt.estimators import ESTIMATORS
from lopt.optimizers import OPTIMIZERS
from tests.test_imports import ROOT

DOCS = ROOT / "docs"
MARK = "file_format: mystnb"
NOTEBOOKS = sorted(page for page in DOCS.rglob("*.md") if MARK in page.read_text()[:100])
CELL = re.compile(r"^```\{code-cell\}\n(?:---\n(.*?)---\n)?(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def listed() -> set[str]:
    """The names in the lists of the reference."""
    return set(re.findall(r"^   ([\w.]+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE))


def public() -> set[str]:
    """The names that people may import, by the tables of names."""
    protocols = {name for name, value in vars(types).items() if getattr(value, "__module__", "") == "lopt.types"}
    families = {family.constructor for family in tasks.FAMILIES.values()} | set(tasks.AUGMENTATIONS.values())
    return {
        *(f"lopt.{name}" for name in lopt.__all__ if name != "__version__"),
        *(f"lopt.testing.{name}" for name in testing.__all__),
        *(f"lopt.types.{name}" for name in protocols),
        *(f"lopt.estimators.{kind.__name__}" for kind in ESTIMATORS.values()),
        *(f"lopt.optimizers.{kind.__name__}" for kind in OPTIMIZERS.values()),
        *(f"tasks.{name}" for name in tasks.__all__ if not name.isupper()),
        *(f"{kind.__module__}.{kind.__name__}" for kind in families),
        *("lopt.torch.Learned", "lopt.torch.param_groups", "lopt.horizons.Horizon", "lopt.distributed.PairLayout"),
    }


def test_the_reference_has_every_public_name_and_no_other():
    assert listed() == public()


def test_every_page_is_in_the_contents():
    """The toctrees reach each page once, from the first one on."""
    seen, todo = {"index"}, ["index"]
    while todo:
        page = DOCS / f"{todo.pop()}.md"
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
            for entry in (line for line in tree.splitlines() if line and not line.startswith(":")):
                name = str((page.parent / entry).relative_to(DOCS))
                assert name not in seen
                seen.add(name)
                todo.append(name)
    assert seen == {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_has_a_page_with_all_that_is_said_of_each(name):
    text = (DOCS / "estimators" / f"{name}.md").read_text()
    for part in ("$$", "**Bias.**", "**Variance.**", "**When to take it.**", f"```{{cost}} {name}\n", "compare("):
        assert part in text
    assert f"lopt.estimators.{ESTIMATORS[name].__name__}" in text
    assert row_of(DOCS / "estimators.md", name)["inner steps per estimate"]
    assert f"(estimators/{name}.md)" in (DOCS / "estimators.md").read_text()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rule_has_a_page_with_all_that_is_said_of_each(name):
    text = (DOCS / "optimizers" / f"{name}.md").read_text()
    pictures = [f'show("{name}", "{picture}")' for picture in ("response", "training", "memory")]
    for part in ("$$", "**When to take it.**", f"```{{rule}} {name}\n", *pictures):
        assert part in text
    assert f"lopt.optimizers.{OPTIMIZERS[name].__name__}" in text


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: str(page.relative_to(DOCS)))
def test_cells_are_python_and_pictures_have_a_text(page):
    cells = CELL.findall(page.read_text())
    assert cells
    for settings, code in cells:
        tree = ast.parse(code)
        draws = re.search(r"plt\.show\(|^compare\(|^show\(|report\.plot\(", code, flags=re.MULTILINE)
        assert bool(draws) == ("alt: " in settings)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lopt"):
                module = __import__(node.module, fromlist=[alias.name for alias in node.names])
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.thorough
def test_facts_are_those_of_the_code():
    """The numbers of `mlp` by hand: 8 features and 11 of time into 32 and 32 units and 2 outputs, and six momenta."""
    weights = (8 + 11) * 32 + 32 + 32 * 32 + 32 + 32 * 2 + 2
    row = rule(DOCS, "mlp")[-1]
    assert f"| the gradient, params | {weights:,} | 6 |" in row
    assert "`demo_mlp`" in row
    assert len(shipped(DOCS, "")) == 2 + len(lopt.shipped())
    assert row_of(DOCS / "estimators.md", "pes")["carries"] == "2 S + P"


def test_a_docstring_is_shown_as_it_stands():
    assert docstrings.plain("L_i+ is |x| * y_, as `a|b_`") == r"L_i+ is \|x\| \* y\_, as ``a|b_``"
    assert docstrings.plain("names and `Baseline`s") == r"names and ``Baseline``\ s"


def test_links_that_leave_the_pages_become_text():
    page, here = Path("/r/docs/notes/a.md"), Path("/r/docs")

    def shown(text):
        return links.inside(text, page, here)

    assert shown("[a](../b.md#c) [d](e.md)") == "[a](../b.md#c) [d](e.md)"
    assert shown("[the code](../../lopt/x.py)") == "the code (`lopt/x.py`)"
    assert shown("[lopt/x.py](../../lopt/x.py)") == "lopt/x.py"
    assert (
        shown("[e.md](e.md), [the page](e.md), [notes/f.md](../notes/f.md#g)")
        == "[](e.md), [the page](e.md), [](../notes/f.md#g)"
    )
    assert shown("[log](../../CHANGELOG.md)") == "[log](../changelog.md)"
    assert shown("![picture](../../results/a.png)") == "![picture](../../results/a.png)"


def test_a_page_that_ran_again_has_its_last_time():
    notebooks = pytest.importorskip("docs.building.notebooks", reason="no jupyter-cache: make docs")

    class Cache:
        def list_cache_records(self):
            rows = [("/r/docs/a.md", 9.0, 1), ("/r/docs/b/c.md", 5.0, 2), ("/r/docs/a.md", 3.0, 3)]
            return [SimpleNamespace(uri=x, data={"execution_seconds": s}, created=t) for x, s, t in reversed(rows)]

    found = notebooks.seconds(Cache(), Path("/r/docs"))
    assert list(found.items()) == [("b/c.md", 5.0), ("a.md", 3.0)]
