"""Errors that the commands report as one message, without a traceback."""

import errno
from pathlib import Path

# The system refuses to write: no space, no permission, no such folder.
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
CANNOT_USE = {errno.ENOENT, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO}


LONGEST = 2000  # characters of a message


class InputError(Exception):
    """Wrong input, exit code 2. The message says what was found, what was expected and what to do."""

    def __str__(self) -> str:
        return shortened(super().__str__())


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
    """A video that cannot be read. path: of the file or folder. cause: the reason in a few words."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)  # both in `args`: the error must survive pickling between processes
        self.path = path
        self.cause = cause

    def __str__(self) -> str:
        return shortened(f"cannot read {self.path}: {self.cause}")


def shortened(message: str) -> str:
    """The message without its middle if a name in it has thousands of characters."""
    if len(message) <= LONGEST:
        return message
    return f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"


def refusal(error: OSError, folder: Path | None) -> str | None:
    """The message for an error of the operating system in reading or writing; None for any other OSError. folder: the
    run folder, if the program has one."""
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
        "Existing checkpoints are intact: resume=true continues from them"
    )
