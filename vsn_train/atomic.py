"""Atomic files: written under a temporary name in the same folder, flushed to disk, then renamed.

All files that are written as a whole are written here. After a crash, a kill or with a full disk, either the previous
or the new file exists. A link is replaced by the file; its target does not change.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DAY = 86400.0  # seconds
NAME_BYTES = 150  # of the file's name in the temporary name; file systems allow 255


@contextmanager
def atomic_path(target: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; its file becomes `target` if the `with` block succeeds.

    If the block raises, `target` is unchanged and the temporary file is removed. flush: sync to disk, so that the new
    file survives a power cut; False for many small files that can be recreated and are checked before use. Raises
    OSError.
    """
    part = part_of(target)
    try:
        with _errors_of(target, part):
            yield part
            if flush:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(part, target)
            if flush:
                flush_folder(target.parent)
    finally:
        with suppress(OSError):  # after success it no longer exists
            part.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder, which replaces `target` if the `with` block succeeds.

    If the block raises, `target` is unchanged and the temporary folder is removed. Raises OSError.
    """
    part = part_of(target)
    try:
        with _errors_of(target, part):
            part.mkdir(parents=True)
            remove_parts(target.parent)
            yield part
            flush_folder(part)
            old = part_of(target)
            with suppress(FileNotFoundError):
                os.rename(target, old)
            os.rename(part, target)
            flush_folder(target.parent)
            if old.is_symlink() or not old.is_dir():  # the previous target was no folder
                old.unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _errors_of(target: Path, part: Path) -> Iterator[None]:
    """Make an OSError name `target` instead of the temporary file; also for a full disk, where Python names no file."""
    try:
        yield
    except OSError as error:
        named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        if named.startswith(str(part)):
            error.filename = str(target) + named[len(str(part)) :]
        elif not named and error.errno is not None:
            error.filename = str(target)
        error.filename2 = None
        raise


def write_atomic(target: Path, content: bytes | str) -> None:
    """Write a file atomically; text as UTF-8 without conversion of line ends. Raises OSError as `atomic_path`."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    with atomic_path(target) as part:
        part.write_bytes(data)


def json_text(content: Any, indent: int = 2) -> str:
    """JSON in UTF-8; with escapes throughout if a name is not UTF-8, which Python reads back unchanged."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(content, indent=indent)
    return text + "\n"


def write_new(target: Path, content: str) -> bool:
    """Write a whole text file where there is none; False where there is one, which stays. Raises OSError."""
    if target.exists():
        return False
    part = part_of(target)
    try:
        with _errors_of(target, part):
            with part.open("wb") as file:
                file.write(content.encode())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, target)  # unlike a renaming, it fails where another process was quicker
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                os.replace(part, target)
            flush_folder(target.parent)
            return True
    finally:
        with suppress(OSError):
            part.unlink()


def part_of(target: Path) -> Path:
    """A unique temporary name next to `target`."""
    name = os.fsencode(target.name)[:NAME_BYTES].decode("utf-8", "ignore")
    return target.with_name(f".{name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def remove_parts(folder: Path) -> None:
    """Remove temporary files and folders that killed processes left in the folder.

    Those of other machines, whose processes cannot be checked, are removed when they are a day old.
    """
    for part in folder.glob(".*.part"):
        match = re.search(r"\.([A-Za-z0-9]*)-(\d+)-[0-9a-f]{8}\.part$", part.name)
        if match is None:
            continue
        with suppress(FileNotFoundError):  # renamed just now
            lives = _is_alive(int(match[2])) if match[1] == _host() else time.time() - part.stat().st_mtime < DAY
            if lives:
                continue
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink()


def flush_folder(folder: Path) -> None:
    """Sync the folder to disk, so that a rename in it survives a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:40]


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # on Windows, signal 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists, but belongs to another user
        pass
    return True
