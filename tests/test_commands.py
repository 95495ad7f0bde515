"""Every command of the repository: Ctrl-C ends it with status 130 and no traceback, and it works under x64."""

import json
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
    by_others = {"lopt/__main__.py": ["train"], "lopt/launch.py": ["1", "--", "train"]}  # these load none themselves
    arguments += by_others.get(source, [])
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


IN_A_DESTRUCTOR = """
import sys, time
from lopt import interrupts
interrupts.end_while_loading()
class Tidy:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
def main():
    tidy = Tidy()
    del tidy
    time.sleep(60)
sys.exit(interrupts.run(main))
"""


def test_it_is_not_lost_in_a_destructor(tmp_path):
    assert interrupted(["-c", IN_A_DESTRUCTOR], tmp_path) == (130, "")


def test_whoever_ignores_it_goes_on_to():
    program = "from lopt import interrupts; interrupts.end_while_loading(); import os, signal; os.kill(os.getpid(), 2)"
    ignore = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", ignore, sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == 0


# Small work for each command, in this order: meta_eval evaluates what meta_train has trained. Experiments have a
# precision of their own (tests/experiments/test_commands.py), and benchmarks turn float64 off.
TRAIN = (
    "--workdir=run --tasks=test_function --optimizer=learnable_adam --num_pairs=2 --truncation=5 --horizon=20 "
    "--outer_steps=2"
)
SMALL = {
    "meta_train.py": TRAIN,
    "lopt/launch.py": f"1 -- train {TRAIN}",  # which is done
    "meta_eval.py": "--checkpoint=run --horizon=20 --num_seeds=1 --baselines=adam --cache=",
    "lopt/monitor/__main__.py": "run --png=plot.png",
    "lopt/inspect/__main__.py": "run --steps=3 --out=inspect",
    "tasks/__main__.py": "show test_function --steps=3 --out=pages",
    "lopt/listing.py": "",
    "benchmarks/shipped.py": "--out=shipped",
    "lopt/__main__.py": "monitor run --html=again.html",
}
UNDER_X64 = """
import json, runpy, sys

import jax
from absl import flags

assert jax.config.jax_enable_x64
statuses = {}
small = json.loads(sys.argv[1])
for source, arguments in small.items():
    sys.argv[1:] = arguments.split()
    module = source.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        statuses[source] = stop.code or 0
    own = [known for module, known in flags.FLAGS.flags_by_module_dict().items() if source in module]
    for flag in sum(own, []):
        delattr(flags.FLAGS, flag.name)
print(json.dumps(statuses))
"""


def test_under_x64(tmp_path):
    """All in one process, as it takes seconds to start one."""
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", UNDER_X64, json.dumps(SMALL)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(SMALL, 0), done.stderr


def test_every_command_is_tried_under_x64_or_sets_its_precision():
    assert {source for source in COMMANDS if "x64" not in (ROOT / source).read_text()} <= set(SMALL)
