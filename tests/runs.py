"""Trainings that tests start, watch and stop."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.warm import Command

TOOLS = (sys.executable, "-m", "vsn_train.tools.main")  # vsn-tools, as a command of its own


def start(values: list[str], run: Path, **environment: str) -> Command:
    return Command("vsn-train", [*values, f"hydra.run.dir={run}"], run.parent, own_session=True, **environment)


def wait_for_step(process: Command, run: Path, step: int) -> None:
    """Until metrics.jsonl tells of this step."""
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and f'"step": {step},' in (run / "metrics.jsonl").read_text()):
        assert process.poll() is None, process.output()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process: Command) -> tuple[int, str]:
    return process.wait(timeout=120), process.output()


def log_of(run: Path) -> str:
    return (run / "log.txt").read_text()
