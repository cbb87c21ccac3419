"""A training that is starved of disk or fed with broken videos, with the installed commands."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from scripts.torture import VSN_TRAIN, descendants, is_worker, motion, same, train_on_mutated
from tests.conftest import CLIPS, SMALL, run_command
from tests.runs import finish, log_of, start, wait_for_step
from tests.warm import Command
from vsn_train import atomic


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


MAY_MOUNT = (
    shutil.which("unshare")
    and not subprocess.run(["unshare", "-Urm", "true"], stderr=subprocess.DEVNULL, check=False).returncode
)

# Stands in for a decoder that aborts on one video and hangs on another.
TROUBLE = """
import faulthandler, os, sys, time
if "vsn-train" in sys.argv[0]:
    import vsn_train.data.loader as loader
    whole = loader.open_video
    def open_video(path, *arguments, **options):
        if "abort" in os.environ and path.name == os.environ["abort"]:
            faulthandler.disable()  # pytest's, in the worker: this crash is meant
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
    assert re.search(rf"^ApplyEyeMakeup/{abort}\tits decoder crashed the worker process \(SIGABRT\)$", quarantine, re.M)
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
    while torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] < 3:  # a thread is writing it
        assert process.poll() is None, process.output()
    size = (run / "checkpoints" / "last.pt").stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))  # no file may grow beyond that
    code, text = finish(process)
    assert code == 1, text
    message = [line for line in text.splitlines() if line.startswith("vsn-train: ")]
    assert len(message) == 1
    assert f"cannot save {run}/checkpoints/last.pt: File too large; the previous checkpoint is intact" in message[0]
    assert "Traceback" not in text
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] >= 3
    assert [path.name for path in (run / "checkpoints").glob(".*")] == []

    # A damaged last.pt, and a half-written one beside it: the newest whole one is taken.
    last = run / "checkpoints" / "last.pt"
    (run / "checkpoints" / "epoch_1.pt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:1000])
    half = atomic.part_of(last)
    half = half.with_name(half.name.replace(f"-{os.getpid()}-", "-999999999-"))  # of a process that is no more
    half.write_bytes(b"half")
    code, text = finish(start([*values, "resume=true"], run))
    assert code == 0, text
    assert f"skipped checkpoint {last}: truncated, or not a checkpoint" in text
    assert f"resuming from {run}/checkpoints/epoch_1.pt" in text
    assert not half.exists()


def test_a_folder_that_cannot_be_written_to(cache, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", Path("/sys/run")):
        result = run_command("vsn-train", *motion(cache, 1), f"hydra.run.dir={folder}")
        assert result.code in (1, 2), result.err
        assert result.err.count("\n") == 1, result.err
        assert str(folder.parent) in result.err


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="needs the right to mount file systems")
def test_file_systems_that_are_full_or_read_only(cache, tmp_path):
    run, left = tmp_path / "disk" / "run", tmp_path / "left"
    run.parent.mkdir()
    train = [VSN_TRAIN, *motion(cache, 1), "optimizer.ema=0"]
    # Room for one checkpoint, not for the next one beside it.
    code, text = mounted(f"mount -t tmpfs -o size=130m none {run.parent}", [*train, f"hydra.run.dir={run}"], run, left)
    assert code == 1, text
    (message,) = [line for line in text.splitlines() if line.startswith("vsn-train: ")]
    assert f"cannot save {run}/checkpoints/last.pt: No space left on device; the previous checkpoint is" in message
    before = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
    assert [path.name for path in (left / "checkpoints").iterdir()] == ["last.pt"]
    torch.load(left / "checkpoints" / "last.pt", weights_only=True)

    read_only = f"mount --bind {left} {left} && mount -o remount,bind,ro {left}"
    code, text = mounted(read_only, [*train, f"hydra.run.dir={left}", "resume=true"], left, tmp_path / "copy")
    assert code == 1, text
    assert f"cannot write {left}/.lock: Read-only file system; make room, or choose another place" in text
    assert text.count("\n") == 1
    assert {path: path.read_bytes() for path in left.rglob("*") if path.is_file()} == before


def mounted(mount: str, command: list[str], run: Path, copy: Path) -> tuple[int, str]:
    """Run the command where `mount` has been done for it alone, and copy what is left of its run folder."""
    script = f'{mount} || exit 99; "$@"; code=$?; cp -r {run} {copy}; exit $code'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr if done.returncode == 0 else done.stderr


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


@pytest.mark.slow
def test_a_stopped_worker_is_replaced_and_changes_nothing(cache, tmp_path):
    """SIGSTOP from outside, in the middle of a training and of an evaluation by the installed commands."""
    training = [*motion(cache, 1), "schedule.epochs=1", "data.batch_size=4", "data.workers=1", "data.timeout=3"]
    steps = 15

    def is_left() -> bool:
        return f'"step": {steps},' not in (tmp_path / "met" / "metrics.jsonl").read_text()

    code, text = finish(start(training, tmp_path / "plain"))
    assert code == 0, text
    process = start(training, tmp_path / "met")
    wait_for_step(process, tmp_path / "met", 2)
    stop_the_worker(process, is_left)
    code, text = finish(process)
    assert code == 0, text
    assert not (tmp_path / "met" / "quarantine.txt").exists()
    a, b = (torch.load(tmp_path / run / "checkpoints" / "last.pt", weights_only=True) for run in ("met", "plain"))
    assert same(a["model"], b["model"])

    evaluation = [
        "checkpoint=plain", "protocol.clips=10", "runtime.views_per_batch=10", "data.workers=1", "data.timeout=3",
        "report=false",
    ]  # fmt: skip
    result = run_command("vsn-eval", *evaluation, "hydra.run.dir=once", cwd=tmp_path)
    assert result.code == 0, result.err
    process = Command("vsn-eval", [*evaluation, "hydra.run.dir=stopped"], tmp_path, own_session=True)
    parts = tmp_path / "stopped" / "eval" / "best"
    while not list(parts.glob("*/parts/*.npz")):
        assert process.poll() is None, process.output()
        time.sleep(0.01)
    stop_the_worker(process, lambda: not list(parts.glob("*/scores.npz")))
    code, text = finish(process)
    assert code == 0, text
    (once,), (stopped,) = ((tmp_path / each).glob("eval/best/*/scores.npz") for each in ("once", "stopped"))
    assert once.read_bytes() == stopped.read_bytes()


def stop_the_worker(process: Command, is_left: Callable[[], bool]) -> None:
    """Stop the loader's only worker, and wait until the command has ended it. is_left: whether work is left to do."""
    (worker,) = (pid for pid in descendants(process.pid) if is_worker(pid))
    try:
        os.kill(worker, signal.SIGSTOP)
        deadline = time.monotonic() + 120
        while worker in descendants(process.pid):
            assert process.poll() is None, process.output()
            assert time.monotonic() < deadline, "the stopped worker was not noticed"
            time.sleep(0.01)
        assert is_left()  # or it was ended with the others at the end
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
