import subprocess
import sys
from pathlib import Path

import filelock
import jax
import pytest

from lopt import compile_cache
from lopt.compile_cache import keep_programs
from lopt.names import InputError

NAMES = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_compilation_cache_max_size")
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _settings():
    before = {name: getattr(jax.config, name) for name in NAMES}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def kept():
    return [getattr(jax.config, name) for name in NAMES]


def test_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    """In a folder of this kind of processor, unless JAX has been told another, which stays as it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    before = kept()
    keep_programs(None)
    assert kept() == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    keep_programs(None)
    (folder,) = (tmp_path / "lopt" / "programs").iterdir()
    assert kept() == [True, str(folder), 4 * 2**30]


def test_a_folder_wins_and_none_is_none(tmp_path):
    keep_programs(str(tmp_path / "new" / "folder"))
    assert kept()[1] == str(tmp_path / "new" / "folder")
    keep_programs("")
    assert kept()[0] is False


def test_a_folder_that_cannot_be_is_refused_and_a_cache_that_cannot_be_is_none(tmp_path, monkeypatch, caplog):
    file = tmp_path / "file"
    file.touch()
    before = kept()
    with pytest.raises(InputError, match=r"--compile_cache=.*file/x: .*choose another, or none"):
        keep_programs(str(file / "x"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with caplog.at_level("INFO"):
        keep_programs(None)
    assert "are not kept" in caplog.text
    assert kept() == before


PROGRAM = """
import jax, sys
from lopt.compile_cache import keep_programs
keep_programs(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("cache_hits")))
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3))).block_until_ready()
print(any(hits))
"""


def finds_its_program(folder):
    """Whether a new process compiles nothing: JAX says that it has found what it looked for. No warnings either."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip() == "True"


def test_another_process_uses_them(tmp_path):
    assert [finds_its_program(tmp_path / "programs") for _ in range(2)] == [False, True]


def test_what_a_killed_process_was_writing_is_made_again(tmp_path):
    """JAX writes a program, then the time of its last use: cut off in the first, and between the two."""
    assert not finds_its_program(tmp_path)
    programs = sorted(tmp_path.glob("*-cache"))
    whole = {program.name: program.read_bytes() for program in programs}
    times = [program.with_name(program.name.removesuffix("cache") + "atime") for program in programs]
    for program, used in zip(programs, times, strict=True):
        program.write_bytes(program.read_bytes()[: program.stat().st_size // 2])
        used.unlink()
    assert not finds_its_program(tmp_path)
    assert finds_its_program(tmp_path)
    assert all(len(program.read_bytes()) > len(whole[program.name]) // 2 for program in programs)
    for used in times:
        used.write_bytes(b"")
    keep_programs(str(tmp_path))
    assert not list(tmp_path.glob("*-*"))


def test_a_folder_that_another_process_uses_is_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "half-cache").write_bytes(b"")
    monkeypatch.setattr(compile_cache, "LOCK_SECONDS", 0.1)
    with filelock.FileLock(tmp_path / ".lockfile", is_singleton=False):
        keep_programs(str(tmp_path))
    assert (tmp_path / "half-cache").exists()
