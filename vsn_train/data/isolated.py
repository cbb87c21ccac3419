"""Work on many files, each in its own process: a file that crashes or hangs its decoder does not stop the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from vsn_train.errors import InputError, VideoError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why there is no result. kind: "unreadable", "hanging" or "crashing"."""

    cause: str
    kind: str = "unreadable"


@dataclass(frozen=True)
class _Job(Generic[Item]):
    item: Item
    process: Any
    results: connection.Connection
    started: float


def work_isolated(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int, timeout: float
) -> Iterator[tuple[Item, Result | Failure]]:
    """Yield (item, work(item)) in the order of completion, `processes` at a time, each in a forked process.

    The result is a Failure if `work` raised InputError or OSError, took longer than `timeout` seconds, or its process
    died. Any other exception is a bug and is raised here.
    """
    # With fork a process takes milliseconds to start, as its imports are already done; without it, seconds.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context: Any = multiprocessing.get_context(method)
    waiting = iter(items)
    jobs: list[_Job[Item]] = []
    try:
        while True:
            while len(jobs) < processes and (batch := next(((item,) for item in waiting), None)):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(theirs, work, batch[0]), daemon=True)
                process.start()
                theirs.close()
                jobs.append(_Job(batch[0], process, ours, time.monotonic()))
            if not jobs:
                return
            ready = connection.wait([job.results for job in jobs], timeout=0.5)
            for job in list(jobs):
                late = time.monotonic() - job.started > timeout
                if job.results in ready or late:
                    jobs.remove(job)
                    yield job.item, _finish(job, timeout)
    finally:
        for job in jobs:
            job.process.kill()
            job.process.join()


def work_with_bar(
    work: Callable[[Item], Any], items: Sequence[Item], processes: int, timeout: float, title: str, trouble: str
) -> tuple[list[Any], list[str]]:
    """`work_isolated` with a progress bar. Returns the results, and "item<TAB>cause" of each failure.

    A failure is also printed at once as "<trouble> <item>: <cause>".
    """
    results: list[Any] = []
    failed: list[str] = []
    with tqdm(total=len(items), desc=title, unit="video", disable=None) as bar:
        for item, result in work_isolated(work, items, processes, timeout):
            if isinstance(result, Failure):
                failed.append(f"{item}\t{result.cause}")
                bar.write(f"{trouble} {item}: {result.cause}", file=sys.stderr)
            else:
                results.append(result)
            bar.update()
    return results, failed


def _run(results: connection.Connection, work: Callable[[Item], Any], item: Item) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which kills this process
    try:
        results.send(work(item))
    except VideoError as error:
        results.send(Failure(error.cause))
    except (InputError, OSError) as error:
        results.send(Failure(str(error)))
    except Exception as error:
        results.send(error)


def _finish(job: _Job[Any], timeout: float) -> Any:
    """The result of a job that is done, has died or is late. Ends its process."""
    try:
        result = job.results.recv() if job.results.poll() else Failure(f"took longer than {timeout:g} s", "hanging")
    except EOFError:
        job.process.join()
        code = job.process.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        result = Failure(f"its decoder crashed the process ({how})", "crashing")
    job.process.kill()
    job.process.join()
    job.results.close()
    if isinstance(result, Exception):
        raise result
    return result


def usable_cores() -> int:
    """The number of cores that this process may use; in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
