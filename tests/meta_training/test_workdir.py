"""A run's folder, whatever it is called and whatever happened to it: it works, or one line says why not."""

import os
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

import lopt
from lopt.meta_training.checkpoint import Checkpoints
from lopt.meta_training.workdir import check_config, open_workdir
from lopt.names import InputError
from tests.toy_family import Quadratic

ALONE = (
    *("lr[0.1]", "a*b?c", "{a,b}", "$HOME", "a:b", "50%", "a#b", "a&b", "it's", 'a"b', "a;b", "a b", "line\nbreak"),
    *("läuft ≥ 1", "[", "]", "[!a]", "a\\b", "a\tb", ".hidden", "100"),
)
NAMES = ["".join(ALONE), "~", "-dash", "x" * 255, "checkpoints"]
NAMES += [pytest.param(name, marks=pytest.mark.thorough) for name in ALONE]  # which of them it was


def run(workdir, **settings):
    defaults = {"num_pairs": 2, "truncation": 5, "horizon": "5", "outer_steps": 2, "outer_schedule": "constant"}
    return lopt.meta_train("learnable_sgd", Quadratic(), workdir=workdir, **{**defaults, **settings})


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_in_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name
    assert run(folder, stop_after=1).step == 1
    assert run(folder).finished
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["1", "2"]
    assert lopt.Run.open(folder).step == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def file_in_its_place(folder):
    folder.write_text("")


def dangling_link(folder):
    folder.symlink_to(folder.parent / "nowhere" / "at all")


def loop(folder):
    folder.symlink_to(folder)


def below_a_file(folder):
    folder.parent.joinpath("file").write_text("")
    return folder.parent / "file" / "run"


BROKEN = {
    "file": file_in_its_place,
    "dangling link": dangling_link,
    "loop": loop,
    "below a file": below_a_file,
    "too long": lambda folder: folder / ("x" * 256),
    "null byte": lambda folder: Path(f"{folder}\0"),
    "bucket": lambda folder: Path("gs://bucket/run"),
    "checkpoints is a file": lambda folder: (folder.mkdir(), (folder / "checkpoints").write_text(""))[0],
    "export is a file": lambda folder: (folder.mkdir(), (folder / "export").write_text(""))[0],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = BROKEN[what](tmp_path / "run") or tmp_path / "run"
    with pytest.raises(InputError) as caught:
        run(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 64 KiB; only the superuser may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_too_small_is_refused_before_training(small_disk):
    with pytest.raises(InputError, match=r"0\.1 MiB free"):
        run(small_disk / "run")


def test_a_disk_without_permission_is_refused(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        run(small_disk / "run")


@pytest.mark.parametrize("missing", ["checkpoints", "every step", "config.json"])
def test_what_is_missing_is_not_taken_for_what_never_was(tmp_path, missing):
    run(tmp_path)
    places = {"checkpoints": [tmp_path / "checkpoints"], "every step": (tmp_path / "checkpoints").iterdir()}
    for place in places.get(missing, []):
        shutil.rmtree(place)
    if missing == "config.json":
        (tmp_path / missing).unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(InputError, match=r"Put checkpoints/ back|put the file back"):
        run(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    config = {"a": 1}
    check_config(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "meta_loss": 1.0}\n')
    check_config(tmp_path, config)


def test_a_step_without_its_seal_counts_as_absent_and_is_written_again(tmp_path):
    """As a kill between the writing and the sealing leaves it."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jax.numpy.ones(3)})
        checkpoints.save(2, {"x": jax.numpy.ones(3)})
    (tmp_path / "checkpoints" / "2" / "checksums.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, {"x": jax.numpy.full(3, 2.0)})
    with Checkpoints(tmp_path) as checkpoints:
        step, state = checkpoints.restore({"x": jax.ShapeDtypeStruct((3,), "float32")})
    assert (step, state["x"].tolist()) == (2, [2.0] * 3)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    run(tmp_path)
    os.rename(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / "77")
    with pytest.raises(InputError, match="checkpoint of step 2, in a folder that was renamed"):
        run(tmp_path)


def test_settings_that_an_older_version_did_not_know_have_their_defaults(tmp_path):
    check_config(tmp_path, {"old": 1})
    with open_workdir(tmp_path, {"old": 1, "new": 2}, defaults={"new": 2}):
        pass
    with pytest.raises(InputError, match="new: there 2, asked 3"):
        check_config(tmp_path, {"old": 1, "new": 3}, defaults={"new": 2})
