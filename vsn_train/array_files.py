"""Files of arrays (.npz): score files, manifests, counts.

The same arrays give the same bytes. A file that was damaged, or that somebody else made, is refused with one message,
and no code in it is run.
"""

from __future__ import annotations

import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.atomic import write_atomic
from vsn_train.errors import InputError

# What NumPy, zipfile and json raise for what is not theirs.
NOT_WHOLE = (
    OSError, ValueError, LookupError, TypeError, EOFError, MemoryError, OverflowError, RuntimeError, SyntaxError,
    tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz whose bytes depend on the arrays alone. Raises OSError."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            # numpy.savez leaves the time stamp of the entries to zipfile; ours is fixed.
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def read_arrays(
    path: Path, names: Sequence[str], what: str, advice: str, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """`names` and, where they are there, those of `optional`. Every byte of an array is held against its checksum.

    what: the kind of file, advice: what to do, for the message. Raises InputError for anything but a whole file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = archive.namelist()
            return {
                name: _array(archive, f"{name}.npy") for name in (*names, *optional)
                if name in names or f"{name}.npy" in there
            }  # fmt: skip
    except NOT_WHOLE as error:
        raise InputError(f"{path}: not a {what}, or damaged ({_reason(error)}); {advice}") from error


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        # A small file could unfold to any size.
        raise ValueError(f"{name} is compressed")
    with archive.open(name) as entry:
        array = np.lib.format.read_array(entry, allow_pickle=False)
        if entry.read(1):  # and the checksum is looked at where the entry ends
            raise ValueError(f"{name} is longer than it says")
    return array


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]


def read_facts(array: np.ndarray) -> dict[str, Any]:
    """The table that an array of one text holds as JSON. Raises ValueError."""

    def no_number(text: str) -> Any:
        raise ValueError(f"{text} is no number")

    if array.dtype.kind != "U" or array.ndim:
        raise ValueError("its facts are no text")
    try:
        found = json.loads(str(array), parse_constant=no_number)
    except RecursionError:
        raise ValueError("its facts have no end") from None
    if not isinstance(found, dict):
        raise ValueError("its facts are no table")
    return found


def check_column(array: np.ndarray, name: str, kinds: str, shape: Sequence[int | None]) -> None:
    """Raise ValueError unless the array is of one of these kinds (NumPy's letters) and of this shape (None: any)."""
    words = {"U": "text", "S": "bytes", "iu": "whole numbers", "i": "whole numbers", "f": "floating-point numbers"}
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} holds {array.dtype}, expected {words.get(kinds, kinds)}")
    if array.ndim != len(shape) or any(b is not None and a != b for a, b in zip(array.shape, shape, strict=True)):
        expected = " x ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {' x '.join(map(str, array.shape)) or 'one value'}, expected {expected}")
