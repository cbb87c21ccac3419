"""Lock a folder, so that a second command is refused and cannot change the files of the first."""

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
    """Lock the folder, which is created if missing, for this process. A killed process releases its lock.

    advice: what the second command should do, for its message. name: the lock file; commands with the same lock file
    exclude each other. Raises InputError if another process holds the lock. Does nothing on file systems without locks.
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
        except FileNotFoundError:  # the previous holder has just removed the folder
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode("utf-8", "replace").strip()
            os.close(file)
            raise InputError(f"{folder} is in use by {holder or 'another process'}; {advice}") from None
        except OSError:  # a file system without locks
            os.close(file)
            return None
        # The previous holder may have removed the file; a lock on an unlinked file has no effect.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return file
        os.close(file)


def refuse_links(folder: Path, *names: str) -> None:
    """Raise InputError if one of these names in the folder is a link out of it: the author of the folder, who may be
    somebody else, would choose where we write. Links in the path of the folder itself are allowed."""
    inside = os.path.realpath(folder) + os.sep
    for name in names:
        path = folder / name
        if path.is_symlink() and not os.path.realpath(path).startswith(inside):
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, so files would be written outside of {folder}; "
                "remove the link, or choose another hydra.run.dir"
            )


def new_folder(parent: Path) -> Path:
    """Create a folder named after the current time; with a number if the name exists."""
    return numbered_folder(parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")


def numbered_folder(wanted: Path) -> Path:
    """Create this folder; with a number behind its name if it exists."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = wanted.parent / (wanted.name if number == 1 else f"{wanted.name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
