"""Output never ends a program: any name can be printed, and the reader of the output may disappear.

Without this, a file name that the terminal cannot show, `| head -1` or a closed standard error end a run, and its
results are lost.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any


def forgive_output() -> None:
    """Call at the start of a program and of each of its processes."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None:  # it was closed before we started: its number must not become that of a file with results
            with contextlib.suppress(OSError):
                while os.open(os.devnull, os.O_WRONLY) < number:
                    pass
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # not what tests and notebooks put in its place
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
            # What is left in its buffer must not fail again when the program ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
