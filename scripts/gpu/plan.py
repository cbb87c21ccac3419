"""Divide the report's minutes among its sections, and time actions within a section's share. Writes no files."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vsn_train.bench.timing import peak_memory
from vsn_train.engine.interleave import interleave

Rows = list[dict[str, Any]]
Action = Callable[[], object]
# A section is interrupted this long after its share has ended, and again after AGAIN.
GRACE = 8.0  # seconds
AGAIN = 5.0  # seconds


class CutOff(BaseException):
    """A section, or a part of one, ran out of time. Not an Exception, since torch.compile catches those."""


@dataclass(frozen=True)
class Clock:
    """deadline: time.monotonic() after which the section starts nothing new."""

    deadline: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


@dataclass
class Budget:
    """seconds: for all sections together. weights: relative shares of the sections to come; time left over by one goes
    to the following ones."""

    seconds: float
    weights: dict[str, float]
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.started + self.seconds - time.monotonic()

    def share(self, section: str) -> float:
        """Seconds for the next section, which is removed from the list."""
        total = sum(self.weights.values())
        return max(0.0, self.left) * self.weights.pop(section) / total


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise CutOff in the block once the seconds have passed; may be nested. No bound outside the main thread, and on
    systems without such a timer."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def cut(*_: object) -> None:
        raise CutOff

    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, cut)
    # Repeated: if the first signal arrives in a finalizer or a callback, Python drops the exception.
    outer, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, outer - (time.monotonic() - started)), AGAIN)


@dataclass
class Section:
    """The state of a section. rows: its results for JSON, added while it runs, so that they survive a cut. notes:
    omitted measurements with their reasons."""

    name: str
    clock: Clock
    device: str
    rows: Rows
    notes: list[str] = field(default_factory=list)

    def time(
        self,
        builders: Mapping[Any, tuple[dict[str, Any], Callable[[], Action]]],
        most: int,
        memory: bool = False,
        deadline: float | None = None,
        least: int = 1,
        all_of_them: bool = False,
        stateless: bool = False,
    ) -> None:
        """Time actions in interleaved rounds, each starting with another one, for `most` rounds or until time is up.

        builders: name -> (the row that describes the action, a function that builds it). Each row gets "seconds", one
        number per round, and "peak_bytes" if memory is set. deadline: of time.monotonic(); default: the section's.
        least: rounds that are timed even if time is up, of the actions that were built in time; all_of_them: of all.
        stateless: the first call of an action needs no more memory than the later ones.
        """
        clock = Clock(deadline) if deadline else self.clock
        actions: dict[Any, Action] = {}
        rows: dict[Any, dict[str, Any]] = {}
        slowest = 0.0
        for name, (row, build) in builders.items():
            a_round = sum(row["warm"] for row in rows.values())
            if actions and not all_of_them and clock.left < slowest + a_round:
                self.notes.append(f"not measured, time was up: {name}")
                continue
            began = time.monotonic()
            try:
                action = build()
                # The first call selects kernels and creates the optimizer's momentum, which belongs to the state.
                peak = peak_memory(action, self.device) if memory and stateless else None
                (warm,) = interleave({0: action}, 1, 0 if most == 1 or peak is not None else 1, self.device)[0]
                if memory and not stateless:
                    peak = peak_memory(action, self.device)
            except torch.OutOfMemoryError as error:
                self.notes.append(f"{name}: {str(error).splitlines()[0]}")
                release()
                continue
            slowest = max(slowest, time.monotonic() - began)
            actions[name] = action
            rows[name] = {"section": self.name, **row, "seconds": [], "peak_bytes": peak, "warm": float(warm)}
        self.rows += rows.values()
        names = list(actions)
        a_round = sum(row.pop("warm") for row in rows.values())
        number = 0
        while names and number < most and (number < least or clock.left > a_round):
            start = number % len(names)
            turn = {name: actions[name] for name in names[start:] + names[:start]}
            found = interleave(turn, 1, 0, self.device)
            for name, seconds in found.items():
                rows[name]["seconds"].append(float(seconds[0]))
            number += 1
        if names and number < most:
            self.notes.append(f"{number} of {most} rounds: {', '.join(map(str, names))}")


def release() -> None:
    """Free the memory of a section's networks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def per_second(row: Mapping[str, Any], units: float) -> np.ndarray:
    """(rounds,) units per second of a row."""
    return units / np.array(row["seconds"])
