"""Preparing built-in sets: odd paths, what the system refuses, and what killed preparations leave behind."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets
from tasks.datasets import writing
from tests.tasks.odd_paths import ODD_NAMES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def small_set(monkeypatch):
    """A set `little` that is made at once."""
    sizes = dict.fromkeys(SPLITS, 3)
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "y": np.arange(3, dtype=np.float32)}
    row = datasets.BUILTIN["diabetes"]._replace(
        name="little", shape=(2,), split_sizes=sizes, package="nothing", read=lambda sizes: dict.fromkeys(sizes, arrays)
    )
    monkeypatch.setitem(datasets.BUILTIN, "little", row)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_folder_holds_data(tmp_path, monkeypatch, name):
    """Absolute, and relative to the working directory, as --data_dir is given."""
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / name / "absolute", f"./{name}/relative"):
        folder = datasets.prepare("little", root)
        assert folder.is_relative_to(tmp_path / name)
        assert sorted(datasets.load_table("little", root)["test"]["y"].tolist()) == [0, 1, 2]
        assert datasets.list_prepared(root) == []
        shutil.copytree(folder, Path(root, "mine", "1.0.0"))
        assert datasets.list_prepared(root) == ["mine"]
        assert {row.info.name for row in datasets.list_builtin(root) if row.prepared} == {"little"}
        with pytest.raises(InputError, match="unknown data set 'mine/x'"):
            datasets.describe("mine/x", root)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def loop(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path / "loop"


def dangling(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path / "link"


def file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


REFUSED = {
    "a file": file,
    "inside a file": lambda tmp_path: file(tmp_path) / "x",
    "a dangling link": dangling,
    "a loop of links": loop,
    "a name that is too long": lambda tmp_path: tmp_path / ("x" * 300),
    "a path that is too long": lambda tmp_path: tmp_path / "/".join(["x" * 200] * 30),
    "a folder of the system": lambda tmp_path: Path("/proc/1/fd/new"),
}


@pytest.mark.parametrize("place", REFUSED)
def test_places_that_cannot_hold_data(tmp_path, place):
    root = REFUSED[place](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for call in (datasets.prepare, datasets.load_table):
        with pytest.raises(InputError, match=r"cannot write data set 'little' to .*Choose another --data_dir") as error:
            call("little", root)
        assert "\n" not in str(error.value)
    with contextlib.suppress(InputError):
        datasets.list_prepared(root)
    with contextlib.suppress(InputError):
        datasets.list_builtin(root)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("step", ["mkdir", "rename", "is_dir", "iterdir"])
def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch, code, step):
    def refuse(self, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(self))

    root = tmp_path if step in ("rename", "iterdir") else tmp_path / "new"
    with monkeypatch.context() as patch:
        patch.setattr(Path, step, refuse)
        with pytest.raises(InputError, match=f"cannot write data set 'little'.*{os.strerror(code)}. Choose another"):
            datasets.prepare("little", root)
        for call in (datasets.list_prepared, datasets.list_builtin, lambda root: datasets.describe("other", root)):
            with contextlib.suppress(InputError):
                call(root)
    assert not list(tmp_path.rglob("*.array_record*"))
    assert datasets.prepare("little", root).is_dir()


@pytest.mark.parametrize("kind", [OSError, RuntimeError, ValueError])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, kind):
    """As array_record's own writer raises it: RuntimeError, with the reason in the middle of a long message."""
    import tensorflow_datasets as tfds

    message = (
        'Failed to finalize writing of split "train": write() failed: No space left on device; writing /x; at byte 4'
    )

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device") if kind is OSError else kind(message)

    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "download_and_prepare", full)
    with pytest.raises(InputError, match=r"cannot write data set 'little'.*No space left on device\. Choose another"):
        datasets.prepare("little", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_package_is_not_blamed_on_the_data_directory(tmp_path, monkeypatch):
    def unreadable(sizes):
        raise PermissionError(errno.EACCES, "Permission denied", "/a/package")

    monkeypatch.setitem(datasets.BUILTIN, "little", datasets.BUILTIN["little"]._replace(read=unreadable))
    with pytest.raises(InputError, match=r"cannot read data set 'little' out of nothing: .*Permission denied"):
        datasets.prepare("little", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["gs://bucket/data", "s3://bucket", "https://host/x"])
def test_addresses_are_no_folders(address):
    with pytest.raises(InputError, match="must be a folder of this machine"):
        datasets.prepare("little", address)


def test_only_a_tilde_in_front_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for given, meant in (("~/x", "home/x"), ("./~/x", "~/x"), ("x/~", "x/~"), ("~nobody_at_all/x", "~nobody_at_all/x")):
        assert datasets.resolve_data_dir(given) == tmp_path / meant


def test_left_overs_of_killed_preparations_are_deleted_and_nothing_else(tmp_path):
    """A killed one's folder goes; that of a live one, a folder of another name, a file and a link stay."""
    (tmp_path / ".preparing-abcd_123" / "wine").mkdir(parents=True)
    strangers = [".preparing-", ".preparing-mine", ".preparing-abcd_1234", ".preparing-ABCDEFGH", "preparing-abcd_123"]
    for name in strangers:
        (tmp_path / name).mkdir()
    (tmp_path / ".preparing-file_123").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".preparing-link_123").symlink_to(tmp_path / "elsewhere")
    program = (
        "import sys, time; from pathlib import Path; from tasks.datasets import writing\n"
        "with writing._scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text(''); print(folder, flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as live:
        assert live.stdout is not None
        folder = Path(live.stdout.readline().strip())
        datasets.prepare("little", tmp_path)
        kept = {*strangers, ".preparing-file_123", ".preparing-link_123", "elsewhere", "little"}
        assert {path.name for path in tmp_path.iterdir()} == {*kept, folder.name}
        assert (folder / "half").exists()
        live.send_signal(signal.SIGKILL)
    assert folder.exists()
    shutil.rmtree(tmp_path / "little")
    datasets.prepare("little", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_folder_that_is_taken_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Between making its folder and locking it, a preparation looks like a left-over."""
    answers = iter([False, True])
    monkeypatch.setattr(writing, "_try_lock", lambda descriptor, folder: next(answers))
    with writing._scratch_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_still_holds_data(tmp_path, monkeypatch):
    """Nothing is deleted there, as nobody can tell a left-over from a preparation that goes on."""

    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".preparing-abcd_123").mkdir()
    assert datasets.prepare("little", tmp_path).is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {".preparing-abcd_123", "little"}


def test_a_lock_holds_against_a_second_one_and_against_deletion(tmp_path):
    with writing._locked(tmp_path) as first, writing._locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with writing._locked(tmp_path) as again:
        assert again
    with writing._locked(tmp_path / "gone") as gone:
        assert gone is False
