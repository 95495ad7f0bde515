"""The pages on your own tasks, rules, estimators and data: their code runs as it stands, and their commands exist."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from lopt.estimators import ESTIMATORS
from lopt.names import parse_spec
from lopt.optimizers import OPTIMIZERS
from lopt.own import foreign
from tasks import parse_tasks
from tests.test_imports import ROOT

PAGES = sorted((ROOT / "docs").glob("own_*.md"))


@pytest.mark.thorough
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Block by block in one namespace, as a reader would; a block that begins with a file's name is that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    text = page.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    files = []
    for block in blocks:
        if file := re.match(r"# (\w+\.py)\n", block):
            Path(file[1]).write_text(block)
            files.append(file[1].removesuffix(".py"))
        else:
            exec(block, names)
    try:
        for command in re.findall(r"^    ((?:python|lopt) .*)$", text, flags=re.MULTILINE):
            check_command(command)
    finally:
        for name in files:
            sys.modules.pop(name, None)


def check_command(command):
    """The rule, the estimator and the tasks that a command names can be made."""
    for word in shlex.split(command):
        flag, _, value = word.partition("=")
        if flag == "--optimizer":
            foreign.make("optimizer", parse_spec(value), OPTIMIZERS)
        if flag == "--estimator":
            foreign.make("estimator", parse_spec(value), ESTIMATORS)
        if flag == "--tasks" or word.startswith("my_"):
            assert parse_tasks(value if flag == "--tasks" else word, data_dir="runs/data", optimizers=OPTIMIZERS)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_command_of_a_page_trains_in_a_folder_of_its_own(page):
    """A folder holds one run: in that of a block, a command with other settings would be refused."""
    text = page.read_text()
    in_blocks = re.findall(r'workdir="([^"]+)"', text)
    by_commands = re.findall(r"^    lopt train .*--workdir=(\S+)", text, flags=re.MULTILINE)
    folders = [*in_blocks, *by_commands]
    assert len(folders) == len(set(folders))
    read = re.findall(r"(?:--checkpoint=|--learned=|lopt inspect |lopt monitor )(runs/\w+)", text)
    assert set(read) <= set(folders)


def test_every_page_is_linked_and_says_that_it_is_tested():
    linked = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert len(PAGES) == 4
    for page in PAGES:
        assert f"({page.name})" in linked
        assert "are run by `tests/test_tutorials.py`" in page.read_text()
