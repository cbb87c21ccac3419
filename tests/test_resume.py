"""A training that is stopped or killed and resumed, with the installed commands."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from scripts.torture import SMALL, descendants, differences, is_worker, moments, motion
from tests.conftest import run_command
from tests.runs import finish, log_of, start, wait_for_step
from vsn_train.data.datasets.motion import load_motion


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("processes", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_stopped_and_killed_in_the_middle_and_resumed_is_bit_identical(processes, cache, tmp_path):
    values = [*motion(cache, processes), "schedule.epochs=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, text = finish(start(values, whole))
    assert code == 0, text

    # Asked to stop: as Slurm does it, and by Ctrl-C.
    number, expected = (signal.SIGTERM, 75) if processes == 1 else (signal.SIGINT, 130)
    process = start(values, killed)
    wait_for_step(process, killed, 4)
    os.kill(process.pid, number)
    code, text = finish(process)
    assert code == expected, text
    assert f"stopped by {number.name}; saved {killed}/checkpoints/last.pt" in text
    assert f"resume=true hydra.run.dir={killed}" in text
    assert "Traceback" not in text

    # Killed: a worker, which costs nothing, then everything while a checkpoint is being written; with two processes
    # one of them, which ends the other.
    process = start([*values, "resume=true"], killed)
    saved = torch.load(killed / "checkpoints" / "last.pt", weights_only=True)["step"]
    wait_for_step(process, killed, saved + 1)
    if processes == 1:
        os.kill(next(pid for pid in descendants(process.pid) if is_worker(pid)), signal.SIGKILL)
        saving = moments(killed, "saving", random.Random(0))
        while not saving():
            assert process.poll() is None, process.output()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    else:
        ranks = [pid for pid in descendants(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(max(pid for pid in ranks if not is_worker(pid)), signal.SIGKILL)
        killed_at = time.monotonic()
        code, text = finish(process)
        assert time.monotonic() - killed_at < 30
        assert code == 1
        assert "was killed by SIGKILL" in text
    code, text = finish(start([*values, "resume=true"], killed))
    assert code == 0, text
    assert "videos into the next one" in log_of(killed)
    assert differences(whole, killed) == []

    if processes == 1:
        again = run_command("vsn-train", *values, f"hydra.run.dir={killed}")
        assert again.code == 2
        assert "already holds a run; continue it (resume=true)" in again.err
        other = run_command("vsn-train", *values, f"hydra.run.dir={killed}", "resume=true", "optimizer.lr=0.5")
        assert other.code == 2
        assert "optimizer.lr (was 0.02, is 0.5)" in other.err
        assert differences(whole, killed) == []


def test_the_videos_may_lie_elsewhere_if_they_are_the_same(cache, tmp_path):
    videos = load_motion(cache, "train", train_videos=60, val_videos=24).root
    run, moved, fewer = (tmp_path / name for name in ("run", "moved", "fewer"))
    shutil.copytree(videos, moved)
    values = ["dataset=custom", "experiment=motion", *SMALL, f"hydra.run.dir={run}"]
    assert run_command("vsn-train", *values, f"dataset.root={videos}", "schedule.epochs=1").code == 0
    resumed = [*values, "schedule.epochs=2", "resume=true"]
    result = run_command("vsn-train", *resumed, f"dataset.root={moved}")
    assert result.code == 0, result.err
    assert "resumed after epoch 1" in log_of(run)

    shutil.copytree(videos, fewer)
    next((fewer / "train" / "left").iterdir()).unlink()
    result = run_command("vsn-train", *resumed, f"dataset.root={fewer}")
    assert result.code == 2
    assert f"dataset.root (was {moved}, is {fewer})" in result.err


def test_two_processes_with_half_the_batch_are_one_with_the_whole(cache, tmp_path):
    losses = []
    for processes in (1, 2):
        values = [*motion(cache, processes), "schedule.epochs=1", "backbone.frozen_bn=true", "backbone.dropout=0"]
        code, text = finish(start(values, tmp_path / str(processes)))
        assert code == 0, text
        lines = map(json.loads, (tmp_path / str(processes) / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines])
    assert len(losses[0]) == 9  # 60 videos in steps of 8, and a validation
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
