"""Trainings that tests start, watch and stop."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from scripts.torture import VSN_TRAIN


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
