"""Files of arrays (.npz): score files, manifests, counts.

The same arrays give the same bytes. A damaged or foreign file is refused with one message, and no code in it is run.
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

# The errors that NumPy, zipfile and json raise for damaged or foreign files.
NOT_WHOLE = (
    OSError, ValueError, LookupError, TypeError, EOFError, MemoryError, OverflowError, RuntimeError, SyntaxError,
    tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whose bytes depend only on the arrays. Raises OSError."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            # A fixed time stamp; numpy.savez writes the current time.
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def read_arrays(
    path: Path, names: Sequence[str], what: str, advice: str, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read the arrays `names`, and those of `optional` that exist, and verify their checksums.

    what: the kind of file, advice: what to do, for the message. Raises InputError for a damaged or other file.
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
        # A small compressed file could expand to any size.
        raise ValueError(f"{name} is compressed")
    with archive.open(name) as entry:
        array = np.lib.format.read_array(entry, allow_pickle=False)
        if entry.read(1):  # zipfile verifies the checksum at the end of the entry
            raise ValueError(f"{name} is longer than it says")
    return array


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]


def read_facts(array: np.ndarray) -> dict[str, Any]:
    """Parse the JSON object in an array of one string. Raises ValueError."""

    def no_number(text: str) -> Any:
        raise ValueError(f"{text} is not a finite number")

    if array.dtype.kind != "U" or array.ndim:
        raise ValueError("facts is not a text")
    try:
        found = json.loads(str(array), parse_constant=no_number)
    except RecursionError:
        raise ValueError("facts is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("facts is not a table of keys")
    return found


def check_column(array: np.ndarray, name: str, kinds: str, shape: Sequence[int | None]) -> None:
    """Raise ValueError unless the array has one of these kinds (NumPy's letters) and this shape (None: any size)."""
    words = {"U": "text", "S": "bytes", "iu": "whole numbers", "i": "whole numbers", "f": "floating-point numbers"}
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} holds {array.dtype}, expected {words.get(kinds, kinds)}")
    if array.ndim != len(shape) or any(b is not None and a != b for a, b in zip(array.shape, shape, strict=True)):
        expected = " x ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {' x '.join(map(str, array.shape)) or 'one value'}, expected {expected}")
