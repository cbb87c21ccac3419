"""How the report's minutes are divided, and how things are timed within a share of them. Writes nothing."""

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
# What is still running this long after a section's share is interrupted.
GRACE = 8.0  # seconds
AGAIN = 5.0  # seconds


class CutOff(BaseException):
    """A section, or a part of one, has taken longer than it may. No Exception: torch.compile catches those."""


@dataclass(frozen=True)
class Clock:
    """deadline: of time.monotonic(), when the section is to begin nothing new."""

    deadline: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


@dataclass
class Budget:
    """seconds: for all sections together. weights: what each of those to come gets, relative to the others; what one
    leaves over goes to those after it."""

    seconds: float
    weights: dict[str, float]
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.started + self.seconds - time.monotonic()

    def share(self, section: str) -> float:
        """Seconds for this section, which is the next one; it is taken off the list."""
        total = sum(self.weights.values())
        return max(0.0, self.left) * self.weights.pop(section) / total


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises CutOff in the block once the seconds have passed; may be nested. In other threads than the main one, and
    where the system has no such timer, there is no bound."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def cut(*_: object) -> None:
        raise CutOff

    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, cut)
    # Again after a while: where the first one comes in a finalizer or a callback, Python drops the exception.
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
    """What a section works with. rows: what it has found, for JSON, filled while it runs, so that a cut leaves what
    there is. notes: what was left out, and why."""

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
        """Time actions in turns, each round beginning with another one, for `most` rounds or until time is up.

        builders: name -> (the row that describes it, what builds the action). Each row gets "seconds", one number a
        round, and "peak_bytes" where memory is asked for. deadline: of time.monotonic(), where it is not the section's.
        least: rounds that are timed even where time is up, of those actions that could be built in time; all_of_them:
        of all. stateless: the first call of an action needs no more memory than the later ones.
        """
        clock = Clock(deadline) if deadline else self.clock
        actions: dict[Any, Action] = {}
        rows: dict[Any, dict[str, Any]] = {}
        slowest = 0.0
        for name, (row, build) in builders.items():
            a_round = sum(row["warm"] for row in rows.values())
            if actions and not all_of_them and clock.left < slowest + a_round:
                self.notes.append(f"not measured for want of time: {name}")
                continue
            began = time.monotonic()
            try:
                action = build()
                # The first call chooses kernels, and gives the optimizer its momentum, which belongs to the state.
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
    """Give back what the networks of a section held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def per_second(row: Mapping[str, Any], units: float) -> np.ndarray:
    """(rounds,) units a second of a row."""
    return units / np.array(row["seconds"])
