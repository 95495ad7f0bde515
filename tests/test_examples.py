"""The examples run as the README says, and their training works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lopt.optimizers import OPTIMIZERS
from lopt.trained.export import save_export

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
LOADING = [
    name for name in EXAMPLES if name not in ("tune_optax.py", "pytorch_loop.py")
]  # tests/torch_side runs the last


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Adam as an export: a rule that is known to train."""
    adam = OPTIMIZERS["learnable_adam"](learning_rate=1e-2)
    card = {"tasks": [], "horizon": (1, 200), "meta_loss": "train", "estimator": "none", "outer_steps": 0, "seed": 0}
    theta = adam.init_theta(jax.random.key(0))
    return save_export(tmp_path_factory.mktemp("export") / "adam", adam, theta, card={**card, "command": "none"})


# Many in one process: each would spend seconds on imports alone.
DRIVER = """
import runpy, sys, traceback
for path in sys.argv[2:]:
    print("#start", path, flush=True)
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception:
        print(traceback.format_exc())
"""


def run(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # they compile more than they run
    environment["JAX_NUM_CPU_DEVICES"] = "2"
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(export, tmp_path_factory):
    """What each example prints."""
    paths = [ROOT / "examples" / name for name in LOADING]
    parts = run(tmp_path_factory.mktemp("run"), "-c", DRIVER, export, *paths).split("#start ")[1:]
    return {Path(path).name: text for path, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LOADING)
def test_example_trains(name, printed):
    losses = re.fullmatch(r"first loss (\S+), last loss (\S+)\n", printed[name])
    assert losses, printed[name]
    first, last = map(float, losses.groups())
    assert last < 0.5 * first


@pytest.mark.slow
def test_tuning_beats_the_default(tmp_path):
    default, tuned = map(float, re.findall(r"AdamW.*: (\S+)\n", run(tmp_path, ROOT / "examples" / "tune_optax.py")))
    assert tuned < 0.6 * default


@pytest.mark.parametrize("name", LOADING)
def test_example_is_short_and_uses_the_shipped_optimizer(name):
    text = (ROOT / "examples" / name).read_text()
    assert len(text.splitlines()) <= 40
    assert 'else "demo_mlp"' in text
