"""SIGTERM, SIGUSR1 (Slurm's preemption) and Ctrl-C: save, print how to resume, and end with a distinct exit code."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75  # exit code after SIGTERM or SIGUSR1; EX_TEMPFAIL of sysexits.h: "try again later"
CANCELLED = 130  # exit code after Ctrl-C, as of any program that SIGINT ends


class Interrupts:
    """Records stop signals; the training loop reads `received` once per step.

    A second Ctrl-C ends the process at once. A second one within a second is ignored: the terminal and the launcher
    both send it.
    """

    def __init__(self) -> None:
        self.received = 0
        self.since = 0.0
        self.at_once = False

    @property
    def name(self) -> str:
        # Another process may have received the signal, and this one not.
        return signal.Signals(self.received).name if self.received else "a signal to another process"

    @property
    def exit_code(self) -> int:
        return CANCELLED if self.received == signal.SIGINT else REQUEUE

    @contextmanager
    def caught(self) -> Iterator[Interrupts]:
        """Catch the signals inside the `with` block; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
        before = {number: signal.signal(number, self._note) for number in wanted}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received == signal.SIGINT == number and time.monotonic() - self.since > 1
        if not self.received:
            self.received, self.since = number, time.monotonic()
        if again:
            raise KeyboardInterrupt
        if self.at_once:
            self.at_once = False
            raise Interrupted

    @contextmanager
    def raised_at_once(self) -> Iterator[None]:
        """Raise `Interrupted` on a signal inside the `with` block, for work that does not read `received`."""
        if self.received:
            raise Interrupted
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False


class Interrupted(Exception):
    """A signal arrived during work that can be abandoned."""
