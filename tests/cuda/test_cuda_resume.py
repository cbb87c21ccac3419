"""A training on the device that is stopped, killed and resumed ends with the weights of one that was never stopped.

Bit by bit, where torch has deterministic kernels for all that the network needs. Where a kernel has no such form torch
warns of it (`use_deterministic_algorithms` with warn_only), and only the kernel's name is recorded.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from scripts.torture import differences, motion
from tests.cuda.command import Command
from tests.cuda.device import DEVICE, ON_GPU, record
from tests.runs import log_of, wait_for_step

# What networks and precisions differ in: kernels, the scaler's state, recomputed blocks.
CASES = {
    "tsm resnet18 bf16": ["backbone=tsm", "runtime.precision=bf16"],
    "sth mobilenet_v2 fp16": ["backbone=sth", "backbone.arch=mobilenet_v2", "runtime.precision=fp16"],
    "vsn_compact resnet50 fp32 recompute": [
        "backbone=vsn_compact", "backbone.arch=resnet50", "runtime.precision=fp32", "runtime.recompute=true",
    ],
}  # fmt: skip
CASES = CASES if ON_GPU else {"tsm resnet18 fp32": ["backbone=tsm", "runtime.precision=fp32"]}
DETERMINISTIC = {"VSN_TEST_DETERMINISTIC": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def start(values: list[str], run: Path) -> Any:
    number = len(list(run.parent.glob("*.txt")))
    return Command(
        "vsn-train", *values, f"hydra.run.dir={run}", output=run.parent / f"launch-{number}.txt", **DETERMINISTIC
    )


@pytest.mark.parametrize("case", CASES)
def test_stopped_killed_and_resumed_is_bit_identical(case, tmp_path):
    # `motion` of scripts/torture.py: three epochs of 8 steps with mixup, dropout and averaged weights.
    values = [*motion(tmp_path / "videos", 1), f"runtime.device={DEVICE.type}", *CASES[case]]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, text = start(values, whole).finish()
    assert code == 0, text

    process = start(values, killed)
    wait_for_step(process, killed, 4)
    os.kill(process.pid, signal.SIGTERM)
    code, stopped = process.finish()
    assert code == 75, stopped

    process = start([*values, "resume=true"], killed)
    wait_for_step(process, killed, 12)
    os.killpg(process.pid, signal.SIGKILL)
    process.finish()

    code, resumed = start([*values, "resume=true"], killed).finish()
    assert code == 0, resumed
    assert "resumed after epoch" in log_of(killed)

    found = differences(whole, killed)
    kernels = sorted(set(re.findall(r"(\S+) does not have a deterministic implementation", text)))
    record("resume", case=case, differences=found, kernels_without_deterministic_form=kernels)
    if found and kernels:
        pytest.xfail(f"{case}: not bit-identical; without a deterministic form: {', '.join(kernels)}")
    assert found == []
