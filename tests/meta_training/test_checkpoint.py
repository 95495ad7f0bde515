"""Checkpoints restore exactly, across devices and interruptions; what cannot be restored is refused in words."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lopt.files import write_atomic
from lopt.meta_training.checkpoint import Checkpoints
from lopt.meta_training.workdir import check_config
from lopt.names import InputError

MESH = jax.make_mesh((2,), ("pairs",), axis_types=(AxisType.Auto,))
SPLIT = NamedSharding(MESH, PartitionSpec("pairs"))


class State(NamedTuple):
    theta: dict[str, jax.Array]
    outer: optax.OptState
    estimator: dict[str, Any]
    step: jax.Array
    key: jax.Array


def make_state(seed: int = 0, sharding: NamedSharding | None = None) -> State:
    theta = {"w/0": jax.random.normal(jax.random.key(seed), (3, 4)), "b.1": jnp.zeros((4,), jnp.bfloat16)}
    pairs = {"eps": jax.random.normal(jax.random.key(seed + 1), (4, 5)), "keys": jax.random.split(jax.random.key(2), 4)}
    pairs = pairs if sharding is None else jax.device_put(pairs, sharding)
    rest = {"none": None, "empty": jnp.zeros((0, 3)), "flags": jnp.array([True, False])}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(theta, optimizer.init(theta), pairs | rest, jnp.int32(7), jax.random.key(5, impl="rbg"))


def as_numpy(tree: Any) -> list[np.ndarray]:
    is_key = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(tree)]
    leaves = zip(jax.tree.leaves(tree), is_key, strict=True)
    return [np.asarray(jax.random.key_data(x) if key else x) for x, key in leaves]


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert [x.dtype for x in jax.tree.leaves(actual)] == [x.dtype for x in jax.tree.leaves(expected)]
    for a, b in zip(as_numpy(actual), as_numpy(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A workdir with the steps 1 and 2."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.save(2, make_state(2))
    return tmp_path


def test_restores_every_kind_of_leaf_and_keeps_two_steps(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(InputError, match="no checkpoint"):
            checkpoints.restore(make_state())
        for step in (3, 10, 200):
            checkpoints.save(step, make_state(step))
        checkpoints.wait()
        assert checkpoints.latest_step() == 200
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "200"]
        checkpoints.save(200, make_state(0))  # already there: left as it is
    with Checkpoints(tmp_path) as checkpoints:
        step, state = checkpoints.restore(jax.eval_shape(make_state))
    assert step == 200
    assert_same(state, make_state(200))
    assert jax.random.key_impl(state.key) == jax.random.key_impl(make_state().key)


def test_a_saved_state_can_be_donated_at_once(tmp_path):
    count_up = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = count_up(jnp.arange(1_000_000.0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": state})
        buffer = state.unsafe_buffer_pointer()
        state = count_up(state)
        assert state.unsafe_buffer_pointer() == buffer  # XLA copies instead if anything still looks at the buffer
        _, restored = checkpoints.restore({"x": state})
    np.testing.assert_array_equal(restored["x"], np.arange(1_000_000.0, dtype=np.float32) + 1)


@pytest.mark.parametrize(("written", "asked"), [(None, SPLIT), (SPLIT, None), (SPLIT, SPLIT)])
def test_restores_onto_the_layout_of_the_template(tmp_path, written, asked):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(3, written))
        template = make_state(0, asked)
        _, state = checkpoints.restore(template)
    assert_same(state, make_state(3))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(template), strict=True):
        assert x.sharding == y.sharding
        assert x.committed == y.committed
    # what is not committed mixes with what is split, as it did before it was saved
    total = jax.jit(lambda s: s.estimator["eps"].sum() + s.step)(state)
    np.testing.assert_allclose(total, make_state(3).estimator["eps"].sum() + 7, rtol=1e-6)


ONE_DEVICE = """
import os, signal, sys
import jax, jax.numpy as jnp
from lopt.meta_training.checkpoint import Checkpoints
assert jax.device_count() == 1
with Checkpoints(sys.argv[1]) as checkpoints:
    step, state = checkpoints.restore({"x": jax.ShapeDtypeStruct((4, 1000), "float32")})
    checkpoints.save(step + 1, {"x": state["x"] + 1})
    checkpoints.wait()
    checkpoints.save(step + 2, {"x": jax.random.normal(jax.random.key(0), (4, 2_000_000))})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_another_number_of_devices_and_a_kill_in_mid_save(tmp_path):
    x = jax.device_put(jnp.arange(4000.0).reshape(4, 1000), SPLIT)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x})
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", ONE_DEVICE, tmp_path], env=environment, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    unfinished = [p for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith("3.")]
    assert len(unfinished) == 1
    with Checkpoints(tmp_path) as checkpoints:
        step, state = checkpoints.restore({"x": x})
        checkpoints.save(3, state)
    assert step == 2
    assert state["x"].sharding == SPLIT
    np.testing.assert_array_equal(state["x"], x + 1)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


FULL_DISK = """
import resource, signal, sys
import absl.logging, jax
from lopt.meta_training.checkpoint import CheckpointError, Checkpoints
absl.logging.set_verbosity(absl.logging.INFO)
x = jax.random.normal(jax.random.key(0), (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
limited = (1_000_000, unlimited[1])

def attempt(action, *args):
    try:
        action(*args)
    except CheckpointError as error:
        print(error)

def leave(error):
    with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(6, {"x": x})
        if error is not None:
            raise error

with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, {"x": x})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, limited)
    checkpoints.save(2, {"x": x})
    attempt(checkpoints.wait)
    checkpoints.save(3, {"x": x})
    attempt(checkpoints.save, 4, {"x": x})
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    checkpoints.save(5, {"x": x + 1})
    checkpoints.wait()
    step, state = checkpoints.restore({"x": x})
    print("restored", step, bool((state["x"] == x + 1).all()))
resource.setrlimit(resource.RLIMIT_FSIZE, limited)
attempt(leave, None)
attempt(leave, CheckpointError("another error"))
"""


def test_a_failed_write_is_reported_and_leaves_the_earlier_step(tmp_path):
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    failures = child.stdout.splitlines()
    assert failures.pop(2) == "restored 5 True"
    assert failures.pop() == "another error"
    for line, step, usable in zip(failures, (2, 3, 6), (1, 1, 5), strict=True):
        assert line.startswith(f"cannot write step {step} to {tmp_path}/checkpoints: ")
        assert "File too large" in line
        assert line.endswith(f"a restart continues from step {usable}.")
    # Left to itself orbax logs two thousand lines here. This one is of the failure that the other error hides.
    (line,) = child.stderr.splitlines()
    assert "cannot write step 6" in line


def test_a_folder_that_cannot_be_written_is_reported(saved):
    with Checkpoints(saved) as checkpoints:
        (saved / "checkpoints").rename(saved / "away")
        (saved / "checkpoints").write_text("in the way")
        with pytest.raises(RuntimeError, match=r"cannot write step 3 .*Not a directory.*; there is no earlier step"):
            checkpoints.save(3, make_state())
    with pytest.raises(InputError, match=r"cannot use .*File exists"):
        Checkpoints(saved)


def damage(folder: Path, how: str) -> None:
    data = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if how == "truncated":
        os.truncate(data, data.stat().st_size // 2)
    elif how == "changed byte":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "missing":
        data.unlink()
    elif how == "metadata":
        (folder / "_CHECKPOINT_METADATA").write_text("{}")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", r"the file state/\S+ is damaged"),
        ("changed byte", r"the file state/\S+ is damaged"),
        ("missing", r"the file state/\S+ is missing"),
        ("metadata", "the file _CHECKPOINT_METADATA is damaged"),
    ],
)
def test_a_damaged_step_is_refused_and_can_be_deleted(saved, how, reason):
    folder = saved / "checkpoints" / "2"
    damage(folder, how)
    before = files_under(saved)
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(InputError, match=f"cannot restore step 2 from {folder}: {reason}") as refused:
            checkpoints.restore(make_state())
        assert "delete that folder to go back to step 1, or choose another workdir" in str(refused.value)
    assert files_under(saved) == before
    shutil.rmtree(folder)
    with Checkpoints(saved) as checkpoints:
        step, state = checkpoints.restore(make_state())
    assert step == 1
    assert_same(state, make_state(1))


def test_a_state_of_another_make_is_refused(saved):
    template = make_state()
    wider = template._replace(theta=template.theta | {"w/0": jnp.zeros((3, 5)), "new": jnp.zeros(2)})
    double = template._replace(step=jnp.float32(0), key=jax.random.key(0))
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(InputError, match="state of another run") as refused:
            checkpoints.restore(wider)
        assert ".theta['new'] is missing, and should be float32[2]" in str(refused.value)
        assert ".theta['w/0'] is float32[3, 4], and should be float32[3, 5]" in str(refused.value)
        with pytest.raises(InputError, match=r"\.key is key<rbg>\[\], and should be key<fry>\[\]; .step is int32"):
            checkpoints.restore(double)


def test_foreign_things_beside_the_steps_are_left_alone(saved):
    (saved / "checkpoints" / "notes.txt").write_text("mine")
    (saved / "checkpoints" / "backup").mkdir()
    (saved / "checkpoints" / "99").write_text("a file")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore(make_state())[0] == 2
    assert (saved / "checkpoints" / "notes.txt").read_text() == "mine"


CONFIG = {"lr": 0.1, "outer_steps": 100, "sizes": (4, 4), "name": "pes", "cap": None}


def test_config_is_written_once_and_compared(tmp_path):
    workdir = tmp_path / "runs" / "a"
    check_config(workdir, CONFIG)
    text = (workdir / "config.json").read_text()
    assert json.loads(text) == CONFIG | {"sizes": [4, 4]}
    assert text.splitlines()[1] == '  "cap": null,'
    check_config(workdir, CONFIG)
    with pytest.raises(InputError) as refused:
        check_config(
            workdir, {"lr": 0.2, "outer_steps": 200, "sizes": [4, 4], "name": "pes", "seed": 1}, ("outer_steps",)
        )
    lines = str(refused.value).splitlines()
    assert lines[1:-1] == [
        "  cap: there null, asked nothing",
        "  lr: there 0.1, asked 0.2",
        "  seed: there nothing, asked 1",
    ]
    with pytest.raises(InputError, match="outer_steps: there 100, asked 200"):
        check_config(workdir, CONFIG | {"outer_steps": 200})
    assert (workdir / "config.json").read_text() == text
    check_config(workdir, CONFIG | {"outer_steps": 200}, may_change=("outer_steps",))
    assert json.loads((workdir / "config.json").read_text())["outer_steps"] == 200
    assert os.listdir(workdir) == ["config.json"]


def test_foreign_workdirs_are_refused(tmp_path, saved):
    with pytest.raises(InputError, match="holds checkpoints but no config\\.json"):
        check_config(saved, CONFIG)
    for content, reason in (("{", "cannot read .*Expecting"), ("[1]", "is not the config of a run")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=reason):
            check_config(tmp_path, CONFIG)
        assert (tmp_path / "config.json").read_text() == content
    with pytest.raises(InputError, match=r"cannot read .*File exists"):
        check_config(tmp_path / "config.json", CONFIG)


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a", "old ä")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old ä"
    assert os.listdir(tmp_path) == ["a"]
