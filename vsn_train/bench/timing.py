"""Measure times, memory and ratios, and describe the machine.

Machines are noisy: everything that is compared runs in interleaved rounds (engine/interleave.py, also used by
`runtime=auto`), so that a disturbance affects all of them. Results are medians, and ratios within a round with their
quartiles.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from vsn_train.engine.interleave import synchronize


@dataclass(frozen=True)
class Ratio:
    """The ratio of two times within the same rounds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


def ratio(times: np.ndarray, reference: np.ndarray) -> Ratio:
    """The ratio of times to reference, (rounds,) seconds each, measured in interleaved rounds."""
    low, median, high = np.quantile(times / reference, (0.25, 0.5, 0.75))
    return Ratio(float(median), float(low), float(high))


def peak_memory(action: Callable[[], object], device: str) -> int:
    """Peak tensor memory of one call of `action` in bytes, above the memory in use before.

    On a CPU, counts the allocations that torch's profiler records, without scratch memory inside oneDNN.
    """
    synchronize(device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would log every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def hardware(device: str = "cpu") -> dict[str, str]:
    """Facts about the machine for the head of a table: CPU, threads, versions, load, GPU."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    facts = {
        "date": datetime.date.today().isoformat(),
        "cpu": f"{cpu}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "av", "numpy")),
    }
    if hasattr(os, "getloadavg"):
        # Above 1 per core before our measurements: other load, so the times are too long.
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    if device == "cuda":
        facts["gpu"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return facts
