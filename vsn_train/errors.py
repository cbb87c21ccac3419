"""The errors that a user reads: one message each, no traceback."""


class InputError(Exception):
    """Wrong input, exit code 2. The message says what was found, what was expected and what to do."""


class StoppedError(Exception):
    """The work could not go on, or was asked to stop. The message says why, and what is left to go on from.

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
