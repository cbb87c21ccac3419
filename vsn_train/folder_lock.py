"""A lock on a folder: a second command is refused, and the files of the first stay unchanged."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from vsn_train.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def folder_lock(folder: Path, advice: str, name: str = LOCK) -> Iterator[None]:
    """Hold the folder, made where it is missing, for this process alone; killed processes hold nothing.

    advice: the end of the message to the second command. name: of the file that is locked in it; commands exclude each
    other that lock the same one. Raises InputError if another process holds the lock. On file systems without locks
    nothing is held.
    """
    if fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    file = _lock(path, folder, advice)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                path.unlink()
            os.close(file)


def _lock(path: Path, folder: Path, advice: str) -> int | None:
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # whoever held it has just removed the folder
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode("utf-8", "replace").strip()
            os.close(file)
            raise InputError(f"{folder} is in use by {holder or 'another process'}; {advice}") from None
        except OSError:  # a file system that knows no locks
            os.close(file)
            return None
        # Whoever held it before has removed the file: a lock on a file without a name holds nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return file
        os.close(file)


def refuse_links(folder: Path, *names: str) -> None:
    """Raise InputError where one of these in the folder is a link out of it: whoever made the folder, and that may be
    somebody else, would choose where we write. Links of the user's own on the way to the folder are none of them."""
    inside = os.path.realpath(folder) + os.sep
    for name in names:
        path = folder / name
        if path.is_symlink() and not os.path.realpath(path).startswith(inside):
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, and what is written there would land outside of {folder}; "
                "remove the link, or choose another hydra.run.dir"
            )


def new_folder(parent: Path) -> Path:
    """A new folder named after the time; of several in one second the later ones get a number."""
    return numbered_folder(parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")


def numbered_folder(wanted: Path) -> Path:
    """This folder, newly made; where it is there already, one with a number behind its name."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = wanted.parent / (wanted.name if number == 1 else f"{wanted.name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
