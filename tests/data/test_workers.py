import faulthandler
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vsn_train.data import workers as module
from vsn_train.data.workers import BadVideo, Loader

VIDEOS = 24
BATCHES = [list(range(start, start + 3)) for start in range(0, VIDEOS, 3)]


class Numbers:
    """Stands in for a data set: sample i is a tensor full of i; some keys do to the worker what bad videos do."""

    def __init__(self, trouble=None, marks: Path | None = None):
        self.trouble = trouble or {}
        self.marks = marks

    def __getitem__(self, key):
        todo = self.trouble.get(key)
        if todo == "once":  # a worker killed from outside, not by its clip
            if not (self.marks / "killed").exists():
                (self.marks / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif todo == "abort":
            faulthandler.disable()  # pytest's, in the worker: this crash is meant
            os.abort()
        elif todo == "hang":
            time.sleep(1000)
        elif todo == "raise":
            raise ValueError("a mistake of the program")
        elif todo == "unreadable":
            return BadVideo(key, f"{key}.mp4", "no video")
        return torch.full((2, 5), key, dtype=torch.uint8), np.array([key])

    def video_of(self, key):
        return key, f"{key}.mp4"


def gone(pid: int) -> bool:
    """No such process, or it has ended and nobody has asked how yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def values(batches):
    return [
        [each.index if isinstance(each, BadVideo) else (int(each[0].sum()) // 10, int(each[1][0])) for each in batch]
        for batch in batches
    ]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whoever_makes_them(workers):
    loader = Loader(Numbers(), BATCHES, list, workers)
    expected = [[(key, key) for key in batch] for batch in BATCHES]
    assert values(loader) == expected
    pids = [worker.process.pid for worker in loader._workers]
    assert values(loader) == expected
    assert pids == [worker.process.pid for worker in loader._workers]  # they stay between epochs
    loader.close()
    assert all(gone(pid) for pid in pids)


def test_what_a_worker_sends_can_be_written_to():
    (batch, *_) = Loader(Numbers(), BATCHES, list, 1)
    batch[0][0].add_(1)
    assert batch[0][0].sum() == 10


def test_tensors_arrive_as_they_lay_in_memory():
    def images(samples):  # as a batch of clips is made: (B, T, C, H, W) with the channels last
        return torch.stack([each[0].view(1, 2, 1, 5) for each in samples]).permute(0, 1, 4, 2, 3)

    (here, *_) = Loader(Numbers(), BATCHES, images, 0)
    (there, *_) = Loader(Numbers(), BATCHES, images, 1)
    assert torch.equal(there, here)
    assert there.stride() == here.stride()
    assert there.untyped_storage().nbytes() == here.numel()


def test_a_clip_that_takes_workers_along_costs_one_clip_and_no_order(tmp_path):
    trouble = {4: "abort", 11: "hang", 17: "unreadable", 20: "once"}
    loader = Loader(Numbers(trouble, tmp_path), BATCHES, list, 2, timeout=0.5)
    found = list(loader)
    expected = [[key if key in (4, 11, 17) else (key, key) for key in batch] for batch in BATCHES]
    assert values(found) == expected
    assert {index: (bad.path, bad.lost) for index, bad in loader.quarantine.items()} == {
        4: ("4.mp4", True),
        11: ("11.mp4", True),
    }
    assert "SIGABRT" in loader.quarantine[4].cause
    assert "longer than data.timeout=0.5 s" in loader.quarantine[11].cause
    started = time.monotonic()
    assert values(loader) == expected  # quarantined ones are not touched again
    assert time.monotonic() - started < 0.5
    loader.close()

    listed = Loader(Numbers({17: "unreadable"}), BATCHES, list, 2)
    listed.quarantine.update(loader.quarantine)
    assert values(listed) == expected
    listed.close()


def test_a_mistake_of_the_program_is_no_bad_video():
    loader = Loader(Numbers({5: "raise"}), BATCHES, list, 1)
    with pytest.raises(RuntimeError, match=r"a mistake of the program"):
        list(loader)
    assert not loader._workers


def test_left_half_way_and_begun_again():
    loader = Loader(Numbers(), BATCHES, list, 2)
    iterator = iter(loader)
    next(iterator)
    iterator.close()
    assert values(loader) == [[(key, key) for key in batch] for batch in BATCHES]
    loader.close()


def test_workers_end_with_a_killed_training():
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        loader = Loader(Numbers({0: "hang"}), BATCHES, list, 2)
        loader.timeout = 0.0
        loader._workers = [loader._start(), loader._start()]
        os.write(write, " ".join(str(worker.process.pid) for worker in loader._workers).encode())
        time.sleep(1000)
        os._exit(0)
    pids = [int(pid) for pid in os.read(read, 100).split()]
    time.sleep(0.2)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_that_never_begins_is_replaced(tmp_path, monkeypatch):
    whole = module._work

    def hang_once(*arguments):
        if not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            time.sleep(1000)
        whole(*arguments)

    monkeypatch.setattr(module, "_work", hang_once)
    monkeypatch.setattr(module, "START_TIME", 0.5)
    loader = Loader(Numbers(), BATCHES, list, 1)
    assert values(loader) == [[(key, key) for key in batch] for batch in BATCHES]
    assert (tmp_path / "hung").exists()
    assert loader.quarantine == {}
    loader.close()


def pids_of(loader):
    return [worker.process.pid for worker in loader._workers]


@pytest.mark.parametrize("when", ["idle", "at_a_clip", "sending"])
def test_a_worker_that_stands_still_is_replaced(when, tmp_path, monkeypatch):
    """SIGSTOP, as by a debugger or a batch system; a worker stands between two clips far more often than in one."""

    def stop_once(*_):
        if not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)

    if when == "sending":  # between the two parts of a message
        whole = module.reduction.send_handle
        monkeypatch.setattr(module.reduction, "send_handle", lambda *given: (stop_once(), whole(*given)))
    loader = Loader(Numbers({7: stop_once} if when == "at_a_clip" else {}), BATCHES, list, 1, timeout=0.5)
    iterator = iter(loader)
    found = [next(iterator)]
    if when == "idle":
        time.sleep(0.3)  # it has done all that it was asked for
        os.kill(pids_of(loader)[0], signal.SIGSTOP)
    started = time.monotonic()
    found += iterator
    assert values(found) == [[(key, key) for key in batch] for batch in BATCHES]
    assert time.monotonic() - started < 30
    assert loader.quarantine == {}
    loader.close()


def test_a_worker_that_cannot_even_be_killed_is_left_behind(monkeypatch):
    """As one that waits in the kernel for a file system that does not answer."""
    monkeypatch.setattr(module, "DYING", 0.3)
    monkeypatch.setattr(multiprocessing.get_context("fork").Process, "kill", lambda self: None)
    loader = Loader(Numbers({4: "hang"}), BATCHES, list, 1, timeout=0.3)
    found = list(loader)
    stuck = next(iter(loader.quarantine.values()))
    assert (stuck.path, stuck.lost) == ("4.mp4", True)
    assert values(found) == [[key if key == 4 else (key, key) for key in batch] for batch in BATCHES]
    loader.close()
