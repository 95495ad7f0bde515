"""A folder that one command at a time writes to: a second one is refused before it does anything."""

import contextlib
import fcntl
import os
import warnings
from pathlib import Path
from typing import Self

from lopt.names import InputError

LOCK = ".lock"


class FolderLock:
    """Keeps other users out of a folder, from `take` until the `with` block of this ends.

    The file `.lock` in the folder is locked, and holds the number of the process. The system unlocks it when the
    process ends, however it does, so one that was killed keeps nobody out. The file is deleted when the block ends.
    It is a path as well, that of the folder.
    """

    def __init__(self, folder: str | os.PathLike, instead: str):
        """Nothing happens to the folder yet.

        Args:
          folder: that exists when the lock is taken.
          instead: what a refused user may do in place of waiting, for the message.
        """
        self._folder, self._instead = Path(folder), instead
        self._descriptor: int | None = None

    def take(self) -> None:
        """Keeps others out from now on; does nothing where this lock does so already.

        Raises:
          InputError: another process is using the folder, or another part of this one. Nothing has been changed.
          OSError: the file cannot be made.
        """
        while self._descriptor is None:
            descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._descriptor = descriptor if self._try_lock(descriptor) else None
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        # Emptied only now: until it is locked, it tells of another process.
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def _try_lock(self, descriptor: int) -> bool:
        """Whether the file is locked now; False where its owner has deleted it meanwhile."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            number = os.read(descriptor, 20).decode(errors="replace")
            by = f" (process {number})" if number.isdecimal() else ""
            raise InputError(
                f"another command is using {self._folder}{by}: wait for its end, or {self._instead}"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{self._folder} cannot be locked ({error.strerror}): see to it that no other command uses it",
                stacklevel=3,
            )
            return True
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self._folder / LOCK))
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the folder may be gone, or not ours to write any more
                os.unlink(self._folder / LOCK)  # before it is unlocked, as it may be another's afterwards
            os.close(self._descriptor)
            self._descriptor = None

    def __fspath__(self) -> str:
        return os.fspath(self._folder)
