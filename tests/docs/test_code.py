"""The Python that readers see runs: the blocks of the pages as they stand, and the examples in docstrings."""

import ast
import re
from typing import Any

import pytest

from tests.test_imports import ROOT, parse, sources
from tests.test_project import README_NAMES

BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
STARTED = "state = tx.init(params)\nloss, grads = jax.value_and_grad(loss_fn)(params, batch)\n"
# What a block takes for granted beside the names of the README's, and what is done with the optimizer that it makes.
BEFORE = f"import functools, jax, lopt, optax\n{README_NAMES}\ntx = lopt.load(num_steps=1_000)\n{STARTED}"
AFTER = f"{STARTED}updates, state = tx.update(grads, state, params, value=loss)\n"
SMALLER = {
    '"demo_mlp", "image_mlp/digits", horizon=500': '"demo_mlp", "quadratic", horizon=20, num_seeds=1, baselines=()'
}
# Pages whose blocks other tests run: tests/test_tutorials.py, tests/trained/test_wrappers.py, tests/torch_side.
ELSEWHERE = {"own_data.md", "own_estimator.md", "own_rule.md", "own_task.md", "pytorch.md", "wrappers.md"}
BLOCKS = {path.name: BLOCK.findall(path.read_text()) for path in sorted((ROOT / "docs").rglob("*.md"))}
PAGES = [page for page, blocks in BLOCKS.items() if blocks and page not in ELSEWHERE]
# How a line of a program begins, in an indented block of a docstring.
PROGRAM = re.compile(r"^ {4,}(?:import \w|from \w+ import|\w+ = \w+(?:\.\w+)*\(|for .*:$|@\w).*", flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS[page]:
        for words, smaller in SMALLER.items():
            block = block.replace(words, smaller)
        names: dict[str, Any] = {}
        exec(f"{BEFORE}{block}\n{AFTER}", names)


def test_pages_that_others_run_have_python():
    assert {"shipped.md", "use.md"} <= set(PAGES)
    assert all(BLOCKS[page] for page in ELSEWHERE)


@pytest.mark.parametrize("source", sources("lopt", "tasks"))
def test_code_in_a_docstring_is_an_example_that_runs(source):
    """A program without `>>> ` would be shown and never run by tests/test_docstrings.py."""
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            assert PROGRAM.findall(ast.get_docstring(node) or "") == []
