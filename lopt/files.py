"""Files that a reader can trust: each is replaced in one step, and a folder can be sealed with checksums."""

import json
import os
import zlib
from pathlib import Path

SEAL = "checksums.json"


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Replaces the content of `path` in one step; text is written as UTF-8. On failure the old file is untouched."""
    path = Path(path)
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        sealed = json.loads((folder / SEAL).read_text())
    except ValueError as error:
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
