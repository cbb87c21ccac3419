"""Keep output errors from ending a program: unprintable names, and a reader of the output that disappears.

Without this, a file name that the terminal cannot show, `| head -1` or a closed standard error would end a run, and its
results would be lost.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any


def forgive_output() -> None:
    """Make stdout and stderr ignore errors. Call it at the start of a program and of each of its processes."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed before the start: its number must not be reused for a file with results
            with contextlib.suppress(OSError):
                while os.open(os.devnull, os.O_WRONLY) < number:
                    pass
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # not the replacements of tests and notebooks
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Forgiving(stream))


class _Forgiving:
    """A stream that ignores errors: after the first one, all output is discarded."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError:
            # The rest of the buffer must not fail again when the program ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
