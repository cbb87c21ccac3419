"""Atomic files: written under another name in the same folder, flushed to disk, then renamed.

What the program writes as a whole goes through here. A crash, a kill or a full disk leaves the file that was there
before, or the new one. A file is replaced, never written through: where its name is a link, the link goes and what it
points to stays.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAY = 86400.0  # seconds
NAME_BYTES = 150  # of the file's own name in the other name; file systems end at 255


@contextmanager
def atomic_path(target: Path, flush: bool = True) -> Iterator[Path]:
    """A path to write to, in the same folder. What lies there becomes `target` when the `with` block ends well.

    Where the block raises, `target` stays as it was and nothing else is left. flush: wait until the disk has it, so
    that the new file survives a power cut; False for many small files that can be made again and are looked at before
    they are used. Raises OSError.
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
        with suppress(OSError):  # it is gone where all went well
            part.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `target` when the `with` block ends well, in place of what lies there.

    Where the block raises, `target` stays as it was and nothing else is left. Raises OSError.
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
            if old.is_symlink() or not old.is_dir():  # what lay there was no folder
                old.unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _errors_of(target: Path, part: Path) -> Iterator[None]:
    """Errors of the system name the file that was to be written, not the other name that it has until it is whole; and
    a full disk, of which Python names no file at all."""
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
    """Write a whole file; text as UTF-8 with the line ends that it has. Raises OSError as `atomic_path`."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    with atomic_path(target) as part:
        part.write_bytes(data)


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
    """A name beside `target` that no other process and no other file takes."""
    name = os.fsencode(target.name)[:NAME_BYTES].decode("utf-8", "ignore")
    return target.with_name(f".{name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def remove_parts(folder: Path) -> None:
    """Remove what processes left in the folder when they were killed while writing: files and whole folders.

    Whether another machine's process is alive is unknown here: its files are removed when they are a day old.
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
    """So that a renaming survives a power cut too."""
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
        return True  # there a signal of 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True
