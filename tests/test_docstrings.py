"""Docstrings: each file that has an example is run as a doctest, and each begins with what the thing is."""

import ast
import doctest
import importlib

import pytest

from tests.test_imports import ROOT, parse, sources

PLACES = ("lopt", "tasks", "presets", "experiments", "benchmarks", "docs/building", "tests")
FILES = sorted(
    str(path.relative_to(ROOT))
    for place in PLACES
    for path in (ROOT / place).rglob("*.py")
    if any(line.lstrip().startswith(">>> ") for line in path.read_text().splitlines())
)


@pytest.mark.parametrize("file", FILES)
def test_the_examples_of_a_file_run(file):
    if file.startswith("lopt/torch/"):
        pytest.importorskip("torch")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    failed, run = doctest.testmod(module)
    assert run > 0
    assert failed == 0


def test_the_examples_are_found():
    assert {"lopt/trained/pretrained.py", "lopt/trained/guard.py", "lopt/own/task.py", "tests/tiers.py"} <= set(FILES)


@pytest.mark.parametrize("source", sources(*PLACES))
def test_a_docstring_says_first_what_it_is_about(source):
    """One that begins with "Of" leaves it to the name."""
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            assert not text.startswith("Of "), text.splitlines()[0]
