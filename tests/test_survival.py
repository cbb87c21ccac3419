"""A training that is killed, stopped, starved of disk or fed with broken videos, with the installed commands."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from scripts.torture import VSN_TRAIN, descendants, differences, is_worker, moments, motion, same, train_on_mutated
from tests.conftest import CLIPS, SMALL, run_command


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def start(values: list[str], run: Path) -> subprocess.Popen[str]:
    command = [VSN_TRAIN, *values, f"hydra.run.dir={run}"]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=run.parent
    )


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until metrics.jsonl tells of this step."""
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and f'"step": {step},' in (run / "metrics.jsonl").read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    text = process.communicate(timeout=120)[0]
    return process.returncode, text


def log_of(run: Path) -> str:
    return (run / "log.txt").read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_and_killed_in_the_middle_and_resumed_is_bit_identical(processes, cache, tmp_path):
    values = [*motion(cache, processes), "schedule.epochs=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, text = finish(start(values, whole))
    assert code == 0, text

    # Asked to stop: as Slurm does it, and by Ctrl-C.
    number, expected = ((signal.SIGTERM, 75), (signal.SIGINT, 130))[processes - 1]
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
            assert process.poll() is None, process.communicate()[0]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    else:
        ranks = [pid for pid in descendants(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(max(pid for pid in ranks if not is_worker(pid)), signal.SIGKILL)
        killed_at = time.monotonic()
        code, text = finish(process)
        assert time.monotonic() - killed_at < 30
        assert code == 1
        assert "was ended by SIGKILL" in text
    code, text = finish(start([*values, "resume=true"], killed))
    assert code == 0, text
    assert "videos into the next one" in log_of(killed)
    assert differences(whole, killed) == []

    if processes == 1:
        again = run_command("vsn-train", *values, f"hydra.run.dir={killed}")
        assert again.code == 2
        assert "already holds a run; go on with it (resume=true)" in again.err
        other = run_command("vsn-train", *values, f"hydra.run.dir={killed}", "resume=true", "optimizer.lr=0.5")
        assert other.code == 2
        assert "optimizer.lr (was 0.02, is 0.5)" in other.err
        assert differences(whole, killed) == []


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


# Stands in for a decoder that aborts on one video and hangs on another.
TROUBLE = """
import os, sys, time
if "vsn-train" in sys.argv[0]:
    import vsn_train.data.loader as loader
    whole = loader.open_video
    def open_video(path, *arguments, **options):
        if "abort" in os.environ and path.name == os.environ["abort"]:
            os.abort()
        if "hang" in os.environ and path.name == os.environ["hang"]:
            time.sleep(1000)
        return whole(path, *arguments, **options)
    loader.open_video = open_video
"""


def test_videos_that_abort_or_hang_the_decoder_cost_themselves(ucf101, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(TROUBLE)
    values = [
        "dataset=ucf101", f"dataset.root={ucf101}", *SMALL, "schedule.epochs=2", "data.max_bad_share=0.5",
        "data.timeout=4", "data.workers=2",
    ]  # fmt: skip
    abort, hang = "v_ApplyEyeMakeup_g02_c01.avi", "v_SoccerJuggling_g02_c01.avi"
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = run_command("vsn-train", *values, f"hydra.run.dir={tmp_path}/met", PYTHONPATH=path, abort=abort, hang=hang)
    assert result.code == 0, result.err
    quarantine = (tmp_path / "met" / "quarantine.txt").read_text()
    assert re.search(rf"^ApplyEyeMakeup/{abort}\tits decoder ended the worker process \(SIGABRT\)$", quarantine, re.M)
    assert re.search(rf"^SoccerJuggling/{hang}\tdecoding it took longer than data.timeout=4 s$", quarantine, re.M)
    assert log_of(tmp_path / "met").count("skipped unreadable video") == 4  # two in each epoch
    assert len(re.findall("train .* 2 unreadable", log_of(tmp_path / "met"))) == 2

    # The same as if both had been listed from the start.
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "quarantine.txt").write_text(quarantine)
    result = run_command("vsn-train", *values, f"hydra.run.dir={tmp_path}/listed")
    assert result.code == 0, result.err
    a, b = (torch.load(tmp_path / run / "checkpoints" / "last.pt", weights_only=True) for run in ("met", "listed"))
    assert same(a["model"], b["model"])


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
def test_mutated_videos(tmp_path):
    assert train_on_mutated(tmp_path, CLIPS, 24, 3, []) == []


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
def test_a_thousand_mutated_videos(tmp_path):
    assert train_on_mutated(tmp_path, CLIPS, 1000, 0, []) == []


def test_a_full_disk_ends_in_one_message_and_leaves_the_previous_checkpoint(cache, tmp_path):
    run, values = tmp_path / "run", [*motion(cache, 1), "schedule.epochs=1"]
    process = start(values, run)
    wait_for_step(process, run, 4)
    size = (run / "checkpoints" / "last.pt").stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))  # no file may grow beyond that
    code, text = finish(process)
    assert code == 1, text
    message = [line for line in text.splitlines() if line.startswith("vsn-train: ")]
    assert len(message) == 1
    assert f"cannot save {run}/checkpoints/last.pt: File too large; the previous checkpoint is whole" in message[0]
    assert "Traceback" not in text
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] >= 3
    assert [path.name for path in (run / "checkpoints").glob(".*")] == []

    # A damaged last.pt, and a half-written one beside it: the newest whole one is taken.
    last = run / "checkpoints" / "last.pt"
    (run / "checkpoints" / "epoch_1.pt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:1000])
    (run / "checkpoints" / ".last.pt.123").write_bytes(b"half")
    code, text = finish(start([*values, "resume=true"], run))
    assert code == 0, text
    assert f"passed over: {last}: truncated, or not a checkpoint" in text
    assert f"going on from {run}/checkpoints/epoch_1.pt" in text
    assert not (run / "checkpoints" / ".last.pt.123").exists()


def test_a_folder_that_cannot_be_written_to(cache, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", Path("/sys/run")):
        result = run_command("vsn-train", *motion(cache, 1), f"hydra.run.dir={folder}")
        assert result.code in (1, 2), result.err
        assert result.err.count("\n") == 1, result.err
        assert str(folder.parent) in result.err


def test_a_loss_that_is_no_number_stops_before_the_update(cache, tmp_path):
    run = tmp_path / "run"
    result = run_command(
        "vsn-train", *motion(cache, 1), "optimizer.lr=1e30", "optimizer.clip_norm=0", f"hydra.run.dir={run}"
    )
    assert result.code == 1, result.err
    (message,) = [line for line in result.err.splitlines() if line.startswith("vsn-train: ")]
    assert re.search(r"the (loss|gradient) is not a finite number at step \d+ \(epoch 1\), learning rate \S+;", message)
    assert re.search(r"Videos of the step: (\S+\.mp4, ){7}\S+\.mp4\. ", message)
    assert "Traceback" not in result.err
