"""What the tests in this folder compute on, and where they write down what they measured.

VSN_TEST_DEVICE=cpu runs them on the CPU, with small sizes and few networks: it finds what is wrong in the tests
themselves before time on a GPU is spent. VSN_TEST_RECORD=FOLDER collects what was measured, one JSON object a line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsn_train.data.loader import Batch
from vsn_train.engine.distributed import Process
from vsn_train.engine.optim import Schedule, build_average, build_sgd
from vsn_train.engine.precision import scaler_for
from vsn_train.engine.state import TrainState
from vsn_train.models import Recognizer, create_model

DEVICE = torch.device(os.environ.get("VSN_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"
ALONE = Process(0, 1, DEVICE)

OPERATORS = ("tsn", "tsm", "tsm_online", "vsn_compact", "vsn_headtail", "sth")
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2") if ON_GPU else ("resnet18", "mobilenet_v2")

needs_gpu = pytest.mark.skipif(not ON_GPU, reason="has no counterpart on the CPU")


def example_model(operator: str, arch: str, num_frames: int = 4, **options: Any) -> Recognizer:
    """On the CPU, the same at every call, with logits and attention that are not all alike."""
    torch.manual_seed(0)
    model = create_model(operator, arch, num_frames, num_classes=10, dropout=0.0, **options)
    nn.init.normal_(model.head.weight, std=0.05)
    for name, parameter in model.named_parameters():
        if name.endswith("attention.weight"):  # starts at zero, where both branches weigh the same
            nn.init.normal_(parameter, std=0.05)
    return model


def example_batch(clips: int, num_frames: int, size: int, device: torch.device = DEVICE) -> Batch:
    """Noise, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(256, (clips, num_frames, 3, size, size), generator=generator, dtype=torch.uint8)
    return Batch(video.to(device), (torch.arange(clips) % 10).to(device), ())


def training_state(
    model: Recognizer, precision: str = "fp32", lr: float = 0.0, ema: float = 0.0, fused: bool = ON_GPU
) -> TrainState:
    """As vsn-train builds it, with a constant learning rate and no weight decay. fused: as it is on a GPU."""
    optimizer = build_sgd(model, lr, 0.9, 0.0, 1.0, fused=fused)
    average = build_average(model, ema) if ema else None
    return TrainState(model, optimizer, Schedule(optimizer, lambda step: 1.0), scaler_for(precision, DEVICE), average)


def worst_gradient(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest relative error of a parameter's gradient, and its name.

    A gradient is measured by its own norm, but one below a hundredth of the norm of all by that: a batch norm takes
    out again what the bias of the one before it adds, so that such a bias has a gradient near zero, the sum of many
    numbers that cancel.
    """
    assert found.keys() == expected.keys()
    exact = {name: each.detach().double().cpu() for name, each in expected.items()}
    least = torch.stack([each.norm() for each in exact.values()]).norm() / 100
    worst = {
        name: float((found[name].detach().double().cpu() - each).norm() / each.norm().clamp(min=least))
        for name, each in exact.items()
    }
    name = max(worst, key=lambda each: worst[each] if worst[each] == worst[each] else math.inf)  # nan is the worst
    return worst[name], name


def record(what: str, **values: Any) -> None:
    """Print what was measured (pytest -rP shows it) and add it to VSN_TEST_RECORD."""
    line = json.dumps({"what": what, "device": device_name(), **values})
    print(line)
    if folder := os.environ.get("VSN_TEST_RECORD"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        # A file for each process: pytest-xdist runs several.
        with Path(folder, f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def device_name() -> str:
    return torch.cuda.get_device_name() if ON_GPU else "cpu"
