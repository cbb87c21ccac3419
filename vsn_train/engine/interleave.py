"""Time several things in interleaved rounds, so that other load on the machine affects all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch


def interleave(
    actions: Mapping[Any, Callable[[], object]], rounds: int, warmup: int = 1, device: str = "cpu"
) -> dict[Any, np.ndarray]:
    """Run every action once per round; each round starts with another action. Returns (rounds,) seconds for each."""
    keys = list(actions)
    times: dict[Any, list[float]] = {key: [] for key in keys}
    for number in range(warmup + rounds):
        start = number % len(keys)
        for key in keys[start:] + keys[:start]:
            synchronize(device)
            before = perf_counter()
            actions[key]()
            synchronize(device)
            if number >= warmup:
                times[key].append(perf_counter() - before)
    return {key: np.array(values) for key, values in times.items()}


def synchronize(device: str) -> None:
    """Wait until the device is idle. device: "cpu" or "cuda"."""
    if device == "cuda":
        torch.cuda.synchronize()
