"""Files that a reader can trust: each is replaced in one step, and a folder can be sealed with checksums."""

import contextlib
import fcntl
import json
import os
import re
import zlib
from pathlib import Path
from typing import IO

SEAL = "checksums.json"


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Replaces the content of `path` in one step; text is written as UTF-8. On failure the old file is untouched.

    What a writer of this file that was killed has left behind is removed.
    """
    path = Path(path)
    _delete_left_overs(path)
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _open_locked(temporary) as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _delete_left_overs(path: Path) -> None:
    """Deletes temporary files of `path` that no process writes any more: nobody holds their locks."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"\d+\.tmp")
    with contextlib.suppress(OSError):  # whatever fails here fails at the writing, or need not
        for name in filter(pattern.fullmatch, os.listdir(path.parent)):
            with open(path.with_name(name), "rb") as file:
                if _lock(file):
                    path.with_name(name).unlink()


def _open_locked(path: Path) -> IO[bytes]:
    """A new file, locked. Before it is locked, another writer may take it for a left-over: then it is made again."""
    while True:
        file = open(path, "wb")  # noqa: SIM115  # closed by the caller
        _lock(file)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _lock(file: IO[bytes]) -> bool:
    """Locks a file until it is closed or the process ends. False where another one has it, or nothing can be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_writable(folder: Path) -> None:
    """Writes and removes a small file in a folder. Raises OSError where that fails: a full disk, or no permission."""
    write_atomic(folder / ".writable", bytes(4096))
    (folder / ".writable").unlink()


def seal(folder: Path) -> None:
    """Writes a file into `folder` that lists the size and the CRC-32 of every other file in it."""
    write_atomic(folder / SEAL, json.dumps(_checksums(folder), indent=1, sort_keys=True) + "\n")


def check_seal(folder: Path) -> None:
    """Compares a folder with its seal; a folder without one passes. Raises a ValueError that names a damaged file."""
    if not (folder / SEAL).exists():
        return
    try:
        sealed = {name: [int(size), int(crc)] for name, (size, crc) in json.loads((folder / SEAL).read_text()).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the file {SEAL} is damaged") from error
    now = _checksums(folder)
    for name, (size, crc) in sealed.items():
        if name not in now:
            raise ValueError(f"the file {name} is missing")
        if now[name] != [size, crc]:
            raise ValueError(f"the file {name} is damaged ({now[name][0]} bytes, written as {size})")


def _checksums(folder: Path) -> dict[str, list[int]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SEAL]
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc(path)] for path in files}


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
