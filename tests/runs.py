"""Trainings that tests start, watch and stop, and the checkpoints of some that never were."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tests.warm import Command
from vsn_train.engine.state import Checkpoint

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


def checkpoint_with(**values: Any) -> Checkpoint:
    """One with these fields, and nothing in the others but the classes that fit."""
    classes = len(values.get("model", {}).get("head.bias", [0]))
    nothing: dict[str, Any] = {
        "model": {}, "average": None, "optimizer": {}, "scaler": {}, "epoch": 0, "step": 0, "config": {},
        "class_names": list(map(str, range(classes))), "flip_pairs": [],
    }  # fmt: skip
    return Checkpoint(**nothing | values)
