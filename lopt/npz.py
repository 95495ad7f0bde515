"""Arrays by name in one file, numpy's npz, read without believing what the file says of its sizes."""

import io
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lopt.names import InputError

MOST_RATIO = 1032  # of bytes out to bytes in, that deflate can reach


def pack(arrays: Mapping[str, Any]) -> bytes:
    """An npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(path: str | os.PathLike, data: bytes | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises InputError if it is damaged, or claims more than it can hold.

    Args:
      path: where it is.
      data: its bytes, where they are read already.
    """
    try:
        with open(path, "rb") if data is None else io.BytesIO(data) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size if data is None else len(data)
            # Members that lie on one another would multiply what a small file unpacks to.
            if (told := sum(info.compress_size for info in archive.infolist())) > size:
                raise ValueError(f"its members claim {told:,} bytes of its {size:,}")
            return {info.filename.removesuffix(".npy"): _member(archive, info) for info in archive.infolist()}
    except Exception as error:  # a damaged file can make zipfile, zlib and numpy raise anything
        raise InputError(f"cannot read {os.fspath(path)}: {error or type(error).__name__}") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array; nothing larger than what its bytes can hold is ever allocated."""
    if info.file_size > MOST_RATIO * info.compress_size + 1024:
        raise ValueError(f"{info.filename} claims {info.file_size} bytes, from {info.compress_size}")
    data = archive.read(info)
    header = io.BytesIO(data)
    version = np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(header)
    # Elements without bytes, as empty words, could be any number.
    if not dtype.itemsize or math.prod(shape) * dtype.itemsize != len(data) - header.tell():
        raise ValueError(f"{info.filename} claims the shape {shape} of {dtype}, from {len(data)} bytes")
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
