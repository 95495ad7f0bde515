"""The examples in docstrings are right: each file that has one is run as a doctest."""

import doctest
import importlib

import pytest

from tests.test_imports import ROOT

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
