"""Who starts whom: torchrun, srun, sweeps; and what is printed before and after a training."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.torture import SMALL, VSN_TRAIN
from tests.conftest import run_command
from vsn_train.cli import SWEEP_LOCK
from vsn_train.folder_lock import folder_lock
from vsn_train.launch import _first_host, _tasks_per_node

TORCHRUN = str(Path(sys.executable).with_name("torchrun"))


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    return [
        f"dataset.root={root}", "dataset.train_videos=24", "dataset.val_videos=12", "schedule.epochs=1",
        "data.batch_size=2", *SMALL, "data.workers=1",
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def machines(values: list[str], cwd: Path, *options: str) -> list[subprocess.Popen[str]]:
    """Two node ranks of torchrun on this host."""
    endpoint = f"localhost:{free_port()}"
    return [
        start(
            [TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}",
             f"--rdzv-id={endpoint}", *options, VSN_TRAIN, "name=two", *values],
            cwd,
        )
        for _ in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_two_machines_leave_one_run_folder(values, tmp_path):
    both = machines(values, tmp_path)
    for process in both:
        text = process.communicate(timeout=200)[0]
        assert process.returncode == 0, text
    (run,) = (tmp_path / "runs" / "two").iterdir()
    assert "on cpu, processes: 2" in (run / "log.txt").read_text()
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert not list(run.glob("log_rank*"))


@pytest.mark.slow
def test_a_lost_machine_ends_the_other_and_both_can_start_anew(values, tmp_path):
    values = [*values, "schedule.epochs=30"]
    both = machines(values, tmp_path)
    wait_for_validation(tmp_path, both)
    both[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    text = both[0].communicate(timeout=60)[0]
    assert time.monotonic() - killed < 30
    assert both[0].returncode == 1
    assert "lost the connection to another process of this run" in text
    both[1].communicate()

    # With restarts: a killed worker process is started anew and goes on from the checkpoint, in the same folder.
    (tmp_path / "again").mkdir()
    both = machines([*values, "schedule.epochs=3"], tmp_path / "again", "--max-restarts=2")
    wait_for_validation(tmp_path / "again", both)
    worker = subprocess.run(["pgrep", "-P", str(both[1].pid)], capture_output=True, text=True, check=True)
    os.kill(int(worker.stdout.split()[0]), signal.SIGKILL)
    for process in both:
        text = process.communicate(timeout=300)[0]
        assert process.returncode == 0, text
    (run,) = (tmp_path / "again" / "runs" / "two").iterdir()
    assert "resumed after epoch" in (run / "log.txt").read_text()


def wait_for_validation(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 120
    while not any("  val " in path.read_text() for path in folder.glob("runs/two/*/log.txt")):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_srun_tells_who_is_who(values, tmp_path):
    environment = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": "7", "SLURM_NODEID": "0", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    tasks = [
        start([VSN_TRAIN, "name=two", *values], tmp_path, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **environment)
        for i in range(2)
    ]
    for task in tasks:
        text = task.communicate(timeout=200)[0]
        assert task.returncode == 0, text
    (run,) = (tmp_path / "runs" / "two").iterdir()
    assert "on cpu, processes: 2" in (run / "log.txt").read_text()


def test_slurms_lists():
    assert _tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert _tasks_per_node("4") == [4]
    for text, host in {
        "gpu[003-007,9],login1": "gpu003",
        "gpu7": "gpu7",
        "n[12,14]-ib": "n12-ib",
        "a1,a2": "a1",
    }.items():
        assert _first_host(text) == host


def test_an_occupied_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_command(
            "vsn-train", cwd=tmp_path, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="localhost",
            MASTER_PORT=port,
        )  # fmt: skip
    assert result.code == 2, result.err
    assert f"vsn-train: port {port} of this machine is in use" in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_goes_on_after_a_failure_and_ends_with_a_table(values, tmp_path):
    sweep = f"hydra.sweep.dir={tmp_path}/sweep"
    result = run_command(
        "vsn-train", "--multirun", "optimizer.lr=0.01,1e30,0.02", "optimizer.clip_norm=0", sweep, *values
    )
    assert result.code == 1, result.err
    assert "is not a finite number" in result.err
    assert "Traceback" not in result.err
    lines = result.out[result.out.index("\nrun ") :].splitlines()[1:]
    assert re.fullmatch(r"run +lr +done +best top-1 % +last top-1 % +time +params", lines[0])
    assert re.fullmatch(r"0 +0\.01 +1 of 1 +[\d.]+ +[\d.]+ +0:\d\d:\d\d +11\.\d M", lines[1])
    assert re.fullmatch(r"1 +1e\+30 +0 of 1 +- +- +- +11\.\d M", lines[2])
    assert re.fullmatch(r"2 +0\.02 +1 of 1 +[\d.]+ +[\d.]+ +0:\d\d:\d\d +11\.\d M", lines[3])
    assert (tmp_path / "sweep" / "sweep.md").read_text().count("0.02") == 2
    assert (tmp_path / "sweep" / "sweep.csv").read_text().startswith("optimizer.lr,runs,validated,best_top1_mean,")
    assert lines[-1] == "failed: 1 (exit code 1)"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("submitit"), reason="needs the extra slurm")
def test_a_sweep_through_submitit(values, tmp_path):
    # As on a cluster, but for the queue: jobs are pickled, and run in processes that submitit starts.
    sweep = tmp_path / "sweep"
    result = run_command(
        "vsn-train", "--multirun", "hydra/launcher=submitit_local", "optimizer.lr=0.01,1e30", "optimizer.clip_norm=0",
        f"hydra.sweep.dir={sweep}", *values, cwd=tmp_path,
    )  # fmt: skip
    assert result.code == 1, result.err
    lines = result.out[result.out.index("\nrun ") :].splitlines()[1:]
    assert re.fullmatch(r"0 +0\.01 +1 of 1 +[\d.]+ +[\d.]+ +0:\d\d:\d\d +11\.\d M", lines[1])
    assert re.fullmatch(r"1 +1e\+30 +0 of 1 +- +- +- +11\.\d M", lines[2])
    assert f"failed: 1 (exit code 1); their messages: {sweep}/.submitit/*/*.err" in result.out
    assert any("is not a finite number" in path.read_text() for path in sweep.glob(".submitit/*/*.err"))
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@pytest.mark.skipif(not find_spec("submitit"), reason="needs the extra slurm")
def test_jobs_in_processes_of_their_own_share_the_folder_of_their_sweep(values, tmp_path):
    result = run_command("vsn-train", "--multirun", "hydra/launcher=submitit_local", "seed=0,1", *values, cwd=tmp_path)
    assert result.code == 0, result.err
    (sweep,) = (tmp_path / "runs" / "multirun").iterdir()
    assert [(sweep / job / "checkpoints" / "last.pt").is_file() for job in ("0", "1")] == [True, True]


def test_two_sweeps_share_no_folder(values, tmp_path):
    """Started in one second, in a named folder, or of one checkpoint: nothing of them is mixed."""
    now = datetime.now()
    for seconds in range(300):  # whenever it starts, another one has started in that second
        (tmp_path / "runs" / "multirun" / f"{now + timedelta(seconds=seconds):%Y-%m-%d_%H-%M-%S}").mkdir(parents=True)
    result = run_command("vsn-train", "--multirun", "seed=3", *values, cwd=tmp_path)
    assert result.code == 0, result.err
    (sweep,) = (tmp_path / "runs" / "multirun").glob("*_2")
    assert f"run folders: runs/multirun/{sweep.name}, with sweep.md" in result.out
    assert {path.name for path in sweep.iterdir()} == {"0", "multirun.yaml", "sweep.md", "sweep.csv"}
    assert not any(list(other.iterdir()) for other in sweep.parent.iterdir() if other != sweep)

    run = sweep / "0"
    evaluation = ["vsn-eval", "--multirun", f"checkpoint={run}", "protocol=center_1clip,center_2clip"]
    for folder, command in (
        (sweep, ["vsn-train", "--multirun", "seed=4", f"hydra.sweep.dir={sweep}", *values]),
        (run, evaluation),
    ):
        (folder / "failed.txt").write_text("of the first one\n")
        with folder_lock(folder, "", SWEEP_LOCK):
            second = run_command(*command, cwd=tmp_path)
        assert second.code == 2, second.out
        assert second.err.startswith(f"{command[0]}: {folder} is in use by process {os.getpid()} on ")
        assert second.err.endswith("; wait for that sweep, or choose another hydra.sweep.dir\n")
        assert (folder / "failed.txt").read_text() == "of the first one\n"
    (tmp_path / "outside").write_text("whole")
    (run / "multirun.yaml").symlink_to(tmp_path / "outside")
    linked = run_command(*evaluation, cwd=tmp_path)
    assert linked.code == 2
    assert f"{run}/multirun.yaml is a link to {tmp_path}/outside" in linked.err
    assert (tmp_path / "outside").read_text() == "whole"


def test_check_shows_what_the_network_sees_and_trains_nothing(values, tmp_path):
    run = tmp_path / "run"
    result = run_command("vsn-train", *values, "check=true", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    assert "train 0: 2 x 4 x 3 x 32 x 32 (B, T, C, H, W) uint8, values " in result.out
    assert re.search(r"train 1: labels \w+ \([12]\)", result.out)
    assert "val 0: 12 videos with 1 view(s) each, frames decoded: 4 x 3 x 40 x 40 (12) (U, C, H, W)" in result.out
    assert re.search(r"val 0: labels \w+ \(1\), .*, and 2 more$", result.out, re.M)
    assert re.search(r"clips/s: loader alone [\d.]+, model alone [\d.]+; ", result.out)
    assert [path.name for path in run.iterdir()] == ["check.png"]
    assert (run / "check.png").read_bytes().startswith(b"\x89PNG")
