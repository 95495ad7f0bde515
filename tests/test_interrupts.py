"""Ctrl-C in every command of the repository: status 130 and no traceback, from the first import on."""

import os
import signal
import subprocess
import sys

import pytest

from tests.test_imports import HOUSE, ROOT, sources

MAIN = 'if __name__ == "__main__":'
COMMANDS = [source for source in sources(*HOUSE) if f"\n{MAIN}" in (ROOT / source).read_text()]
LIBRARIES = ("jax", "numpy", "optax", "flax", "absl", "rich", "scipy", "matplotlib")
# A shell's background jobs ignore Ctrl-C, and so would what they start.
LISTEN = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def interrupted(arguments, folder):
    """Starts Python, sends Ctrl-C when it has printed its first line; its status and what it then wrote."""
    command = [sys.executable, "-c", LISTEN, sys.executable, *arguments]
    path = os.pathsep.join((str(folder), str(ROOT)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.fixture(scope="module")
def slow_libraries(tmp_path_factory):
    """A folder with libraries that take a minute to import, and that catch whatever is raised meanwhile."""
    folder = tmp_path_factory.mktemp("libraries")
    for name in LIBRARIES:
        (folder / f"{name}.py").write_text(
            "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
        )
    return folder


def test_all_commands_are_here():
    assert {"meta_train.py", "meta_eval.py", "tasks/__main__.py", "lopt/inspect/__main__.py"} <= set(COMMANDS)
    assert {source for source in sources(*HOUSE) if source.endswith("__main__.py")} <= set(COMMANDS)


@pytest.mark.parametrize("source", COMMANDS)
def test_while_libraries_load(source, slow_libraries):
    module = source.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    arguments = ["-m", module] if "/" in source else [source]
    assert interrupted(arguments, slow_libraries) == (130, "")


@pytest.mark.parametrize("source", COMMANDS)
def test_after_that_it_is_a_keyboard_interrupt_again(source):
    assert "interrupts.run(" in (ROOT / source).read_text().rpartition(MAIN)[2]


PROGRAM = """
import sys, time
from lopt import interrupts
interrupts.end_while_loading()
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("saved")
        BODY
sys.exit(interrupts.run(main))
"""


@pytest.mark.parametrize(("body", "status"), [("return 7", 7), ("raise", 130)])
def test_a_command_that_runs_decides_itself(body, status, tmp_path):
    assert interrupted(["-c", PROGRAM.replace("BODY", body)], tmp_path) == (status, "saved\n")


def test_whoever_ignores_it_goes_on_to():
    program = "from lopt import interrupts; interrupts.end_while_loading(); import os, signal; os.kill(os.getpid(), 2)"
    ignore = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", ignore, sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == 0
