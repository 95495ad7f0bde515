"""Compiled programs, which commands keep on disk: compiling is most of the start of a run, and the next run has it."""

import contextlib
import hashlib
import logging
import os
import platform
from pathlib import Path

import jax

from lopt.names import InputError

LARGEST = 4 * 2**30  # bytes; beyond, what was used longest ago goes first
LOCK_SECONDS = 10  # as long as JAX waits for another process that uses the folder
HELP = "folder that keeps compiled programs; default: JAX_COMPILATION_CACHE_DIR, or the user's cache; empty: none"
_LOG = logging.getLogger(__name__)


def keep_programs(folder: str | None) -> None:
    """Makes JAX keep the programs that take a second or more to compile, and use them again.

    Programs that a killed process has not written to their end are deleted.

    Args:
      folder: where; empty for nowhere; None for the one that `JAX_COMPILATION_CACHE_DIR` names, or else one in the
        user's cache directory, with a folder for each kind of processor, since programs are made for one.

    Raises:
      InputError: the folder that is given cannot be made or written to. Without one, programs are not kept.
    """
    if folder is None and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # JAX has read it
    if folder == "":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    path = Path(folder) if folder else _default_folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(None, "it is not writable")
    except OSError as error:
        if folder:
            message = f"--compile_cache={folder}: {error.strerror}; choose another, or none: --compile_cache="
            raise InputError(message) from error
        _LOG.info("compiled programs are not kept: %s, %s", path, error.strerror)
        return
    _delete_left_overs(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)


def _delete_left_overs(folder: Path) -> None:
    """Deletes programs that were cut off while they were written.

    JAX (`jax/_src/lru_cache.py`) writes KEY-cache and then KEY-atime, under a lock, neither of them in one step. A kill
    in between leaves the first alone. JAX would never replace it, and would keep no further program in that folder.
    """
    import filelock

    with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(folder / ".lockfile", LOCK_SECONDS):
        for program in folder.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not used.is_file() or not used.stat().st_size:
                program.unlink(missing_ok=True)
                used.unlink(missing_ok=True)


def _default_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("lopt") / "programs" / _processor()


def _processor() -> str:
    """A short name of this kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        told = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
