"""The errors that mean "your input is wrong": one message, exit code 2, no traceback."""


class InputError(Exception):
    """Wrong input. The message says what was found, what was expected and what to do."""


class VideoError(InputError):
    """A video that cannot be read. `path` names the file or folder, `cause` says why in a few words."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)  # both in `args`: the error must survive pickling between processes
        self.path = path
        self.cause = cause

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.cause}"
