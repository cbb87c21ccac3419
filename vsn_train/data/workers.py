"""Data loader workers: processes that decode batches, and are replaced if a video crashes or hangs them.

torch's DataLoader ends the training with the first worker that dies. A damaged video can abort its decoder or hang it;
in a large data set that happens, and it should cost one clip. So every worker records in shared memory its current clip
and when it started. A worker that died, takes too long for a clip, or hangs between two clips is replaced, and the clip
is tried again, since the worker may have been killed or stopped from outside. After a second failure the clip is
quarantined: a `BadVideo` takes its place, as for an undecodable file. So the order and the randomness of all other
samples do not change.

Results are returned in anonymous shared memory, whose file descriptor is sent with the message. It has no name that
could leak and needs no large /dev/shm.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, reduction
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from vsn_train.errors import InputError

Item = TypeVar("Item")

AHEAD = 2  # batches per worker that are prefetched
ATTEMPTS = 2  # a clip is quarantined after it crashed or hung this many workers
START_TIME = 30.0  # seconds after which a worker that has not started to run is replaced
DYING = 10.0  # seconds to wait for a killed worker; one that is blocked by a dead file system never ends
FRUITLESS = 10  # this many workers in a row that die without a clip mean that something else is wrong


@dataclass(frozen=True)
class BadVideo:
    """A video that could not be read: its index in the manifest, its path and the cause.

    lost: it crashed or hung its workers and is not decoded again.
    """

    index: int
    path: str
    cause: str
    lost: bool = False


class Loader(Generic[Item]):
    """Yields collate([dataset[key] for key in keys]) for each `keys` of `batches`, in order.

    workers: processes; 0 decodes in this process, without protection. dataset[key] returns a sample or a `BadVideo`;
    dataset.video_of(key) returns index and path of the key's video. timeout: seconds that a worker may take for one
    clip, or hang between two; 0: no limit. `quarantine` (index -> BadVideo) may be filled before and during the
    iteration. Workers persist between iterations until `close`.
    """

    def __init__(
        self,
        dataset: Any,
        batches: Iterable[list[Any]],
        collate: Callable[[list[Any]], Item],
        workers: int,
        timeout: float = 0.0,
    ) -> None:
        if workers and not hasattr(os, "fork"):
            raise InputError(
                f"data.workers={workers}: this system has no fork, which loader workers need; use data.workers=0"
            )
        self.dataset, self.batches, self.collate = dataset, batches, collate
        self.workers, self.timeout = workers, timeout
        self.quarantine: dict[int, BadVideo] = {}
        self.deaths: dict[int, int] = {}  # index -> workers that it crashed or hung
        self.fruitless = 0
        self._workers: list[_Worker] = []
        # Also when the interpreter exits, where multiprocessing would wait for the workers.
        self._finalizer = weakref.finalize(self, _kill, self._workers)

    def close(self) -> None:
        _kill(self._workers)

    def __iter__(self) -> Iterator[Item]:
        if not self.workers:
            for keys in self.batches:
                yield self.collate([_sample(self.dataset, each) for each in self._without_quarantined(keys)])
            return
        tasks = iter(enumerate(self.batches))
        done: dict[int, Item] = {}
        asked = 0
        try:
            while len(self._workers) < self.workers:
                self._workers.append(self._start())
            for _ in range(AHEAD * self.workers):
                self._assign(tasks)
            while any(worker.tasks for worker in self._workers) or done:
                while asked not in done:
                    for worker in self._wait():
                        self._receive(worker, done)
                self._assign(tasks)
                yield done.pop(asked)
                asked += 1
        finally:
            if any(worker.tasks for worker in self._workers):  # the iteration was abandoned
                self.close()

    def _without_quarantined(self, keys: list[Any]) -> list[Any]:
        if not self.quarantine:
            return keys
        return [self.quarantine.get(self.dataset.video_of(key)[0], key) for key in keys]

    def _assign(self, tasks: Iterator[tuple[int, list[Any]]]) -> None:
        if (task := next(tasks, None)) is not None:
            worker = min(self._workers, key=lambda each: len(each.tasks))
            if not worker.tasks:
                worker.asked = time.monotonic()
            worker.tasks.append(task)
            self._send(worker, task)

    def _send(self, worker: _Worker, task: tuple[int, list[Any]]) -> None:
        with contextlib.suppress(OSError):  # it has died: `_receive` detects it and sends the task to its successor
            worker.connection.send(self._without_quarantined(task[1]))

    def _wait(self) -> list[_Worker]:
        """The workers that have a result or are dead. Kills those that take too long for a clip."""
        busy = {worker.connection: worker for worker in self._workers if worker.tasks}
        ready = connection.wait(list(busy), timeout=1.0)
        if ready:
            return [busy[each] for each in ready]
        for worker in busy.values():
            (place, since), now = worker.progress, time.monotonic()
            if worker.killed:
                if now - worker.killed > DYING:
                    self._replace(worker)
            elif self.timeout and since and now - max(since, worker.asked) > self.timeout:
                what = "decoding it took" if place >= 0 else "its worker hung for"
                worker.kill(f"{what} longer than data.timeout={self.timeout:g} s")
            # CPython before 3.12 may hang in fork while another thread (such as gloo's) is entering Python.
            elif not since and now - worker.started > START_TIME:
                worker.kill()
        return []

    def _receive(self, worker: _Worker, done: dict[int, Item]) -> None:
        try:
            result = _receive_shared(worker.connection, self.timeout)
        except (EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                worker.kill()
            self._replace(worker)
            return
        if isinstance(result, _Failure):
            raise RuntimeError(f"a loader worker failed:\n{result.text}")
        self.fruitless = 0
        done[worker.tasks.popleft()[0]] = result
        worker.asked = time.monotonic()

    def _replace(self, worker: _Worker) -> None:
        worker.process.join(DYING)
        code = worker.process.exitcode
        if code is None:
            _leave(worker.process)
        place = int(worker.progress[0])
        # The clip is in the worker's first task. If it was ended from outside (by a scheduler's SIGTERM), no clip is to
        # blame.
        if place >= 0 and code != -signal.SIGTERM:
            key = worker.tasks[0][1][place]
            index, path = self.dataset.video_of(key)
            self.deaths[index] = self.deaths.get(index, 0) + 1
            # A worker that cannot be killed stays behind, so such a clip is not tried again.
            if self.deaths[index] >= ATTEMPTS or code is None:
                cause = worker.cause or f"its decoder crashed the worker process ({_how(code)})"
                self.quarantine[index] = BadVideo(index, str(path), cause, lost=True)
            self.fruitless = 0
        else:
            self.fruitless += 1
            if self.fruitless >= FRUITLESS:
                raise RuntimeError(
                    f"{FRUITLESS} loader workers in a row died without decoding a clip, the last by {_how(code)}"
                )
        worker.connection.close()
        new = self._start()
        new.tasks = worker.tasks
        self._workers[self._workers.index(worker)] = new
        for task in new.tasks:
            self._send(new, task)

    def _start(self) -> _Worker:
        # fork shares the manifest and imports nothing again. A spawned worker would take seconds to start.
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        progress = context.RawArray("d", [-1.0, 0.0])
        process = context.Process(
            target=_work, args=(theirs, ours, progress, self.dataset, self.collate, os.getpid()), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, progress)


@dataclass
class _Worker:
    """progress: position of the current clip in the first task (-1: none), and when it was started (time.monotonic; 0:
    the worker does not run yet). started: start time of the worker; asked: when it got its first task; killed: when we
    killed it, 0: not yet.
    """

    process: Any
    connection: Any
    progress: Any
    tasks: deque[tuple[int, list[Any]]] = field(default_factory=deque)
    cause: str = ""
    started: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)
    killed: float = 0.0

    def kill(self, cause: str = "") -> None:
        self.cause, self.killed = cause, time.monotonic()
        self.process.kill()


@dataclass(frozen=True)
class _Failure:
    text: str


def _kill(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    deadline = time.monotonic() + DYING
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.exitcode is None:
            _leave(worker.process)
        worker.connection.close()
    workers.clear()


def _leave(process: Any) -> None:
    """Stop waiting for a process; multiprocessing would otherwise wait for ever when the interpreter exits."""
    multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]


def _how(code: int | None) -> str:
    if code is None:
        return "it cannot be killed"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def die_with_parent(parent: int) -> None:
    """Make the system kill this process when its parent dies (Linux), so that no worker outlives a killed training."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _work(
    theirs: Any, ours: Any, progress: Any, dataset: Any, collate: Callable[[list[Any]], Any], parent: int
) -> None:
    """The main loop of a worker, until its parent ends."""
    progress[1] = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the training handles it
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)
    ours.close()
    torch.set_num_threads(1)  # the workers are the parallelism; more threads would only compete
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        _serve(theirs, progress, dataset, collate, parent)


def _serve(theirs: Any, progress: Any, dataset: Any, collate: Callable[[list[Any]], Any], parent: int) -> None:
    while True:
        while not theirs.poll(5):
            if os.getppid() != parent:
                return
        keys = theirs.recv()
        try:
            samples = []
            for place, key in enumerate(keys):
                progress[1] = time.monotonic()
                progress[0] = place
                samples.append(_sample(dataset, key))
            progress[1] = time.monotonic()
            progress[0] = -1
            result = collate(samples)
        except Exception:
            result = _Failure(traceback.format_exc())
        _send_shared(theirs, result)
        del samples, result


def _sample(dataset: Any, key: Any) -> Any:
    return key if isinstance(key, BadVideo) else dataset[key]


class _Pickler(pickle.Pickler):
    """Pickles tensors as NumPy arrays, whose memory pickle can pass out of band."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        # Images are channels-last in memory. pickle copies an array unless its axes are in memory order.
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        return _tensor, (value.permute(order).numpy(), order)


def _tensor(array: np.ndarray, order: list[int]) -> Tensor:
    """The tensor whose axes, taken in `order`, are those of the array."""
    return torch.from_numpy(array).permute(np.argsort(order).tolist())


def _send_shared(pipe: Any, value: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [memoryview(head.getvalue()), *(buffer.raw() for buffer in buffers)]
    places, size = [], 0
    for part in parts:
        places.append((size, size + part.nbytes))
        size += -(-part.nbytes // 64) * 64  # aligned for every kind of number
    with _anonymous_file() as file:
        file.truncate(size)
        for (start, _), part in zip(places, parts, strict=True):
            file.seek(start)
            while part:  # a call may write only a part; this is still faster than writing to a memory map
                part = part[file.write(part) :]
        pipe.send(places)
        reduction.send_handle(pipe, file.fileno(), None)


def _receive_shared(pipe: Any, timeout: float = 0.0) -> Any:
    """Receive a message of `_send_shared`. timeout: seconds to wait for its second part; 0: none. Raises OSError."""
    places = pipe.recv()
    if timeout and not pipe.poll(timeout):
        raise TimeoutError
    descriptor = reduction.recv_handle(pipe)
    try:
        memory = memoryview(mmap.mmap(descriptor, 0))  # lives as long as the tensors in it
    finally:
        os.close(descriptor)
    head, *buffers = (memory[start:end] for start, end in places)
    return pickle.loads(head, buffers=buffers)


def _anonymous_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("vsn-train", os.MFD_CLOEXEC), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
