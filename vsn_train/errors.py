"""The errors that a user reads: one message each, no traceback."""

import errno
from pathlib import Path

# The system refuses to write: no space, no permission, no such folder.
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
CANNOT_USE = {errno.ENOENT, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO}


class InputError(Exception):
    """Wrong input, exit code 2. The message says what was found, what was expected and what to do."""


class StoppedError(Exception):
    """The work failed, or a signal stopped it. The message says why, and what can be resumed.

    code: the exit code; 1 is a failure.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message, code)  # both in `args`: the error must survive pickling
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class VideoError(InputError):
    """A video that cannot be read. `path` names the file or folder, `cause` says why in a few words."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)  # both in `args`: the error must survive pickling between processes
        self.path = path
        self.cause = cause

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.cause}"


def refusal(error: OSError, folder: Path | None) -> str | None:
    """The message if the system refuses to read or write; None for any other failure. folder: of the run; None for a
    program without one."""
    place = error.filename or folder
    if isinstance(place, bytes):
        place = place.decode("utf-8", "backslashreplace")
    if error.errno in CANNOT_USE and error.filename:
        return f"cannot read or write {place}: {error.strerror}"
    if error.errno not in CANNOT_WRITE:
        return None
    if folder is None:
        return f"cannot write{f' {place}' if place else ''}: {error.strerror}; make room, or choose another place"
    return (
        f"cannot write {place}: {error.strerror}; make room, or choose another place with hydra.run.dir=FOLDER. "
        "Checkpoints there are intact: resume=true continues from them"
    )
