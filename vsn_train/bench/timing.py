"""Times, memory and ratios of things that are compared, and the machine that they were measured on.

Machines are noisy: whatever is compared runs in turns (engine/interleave.py, which `runtime=auto` needs too), so that a
disturbance meets all of them, and what is reported are medians and the ratios within a round, with the quartiles of
these ratios.
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
    """Of the times of two things in the same rounds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


def ratio(times: np.ndarray, reference: np.ndarray) -> Ratio:
    """times, reference: (rounds,) seconds, measured in interleaved rounds."""
    low, median, high = np.quantile(times / reference, (0.25, 0.5, 0.75))
    return Ratio(float(median), float(low), float(high))


def peak_memory(action: Callable[[], object], device: str) -> int:
    """Bytes that one call of `action` holds in tensors at its peak, above what was held before.

    On a CPU these are the allocations that torch's profiler sees; scratch memory inside oneDNN is not among them.
    """
    synchronize(device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells the terminal of every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def hardware(device: str = "cpu") -> dict[str, str]:
    """What the figures depend on, for the head of a table."""
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
        # Above 1 per core before anything of ours has run, somebody else is at work and the times are too long.
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    if device == "cuda":
        facts["gpu"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return facts
