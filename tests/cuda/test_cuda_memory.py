"""Peak memory of a training step: an operator that only moves channels keeps nothing of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cuda.device import ALONE, DEVICE, ON_GPU, OPERATORS, example_batch, example_model, record, training_state
from vsn_train.engine.precision import autocast_for
from vsn_train.engine.train import StepOptions, train_step

ARCH, CLIPS, FRAMES, SIZE = ("resnet50", 4, 8, 224) if ON_GPU else ("resnet18", 1, 4, 32)


def peak(operator: str, precision: str) -> int:
    """Bytes of the second step; the first one makes the optimizer's buffers and the libraries' workspaces."""
    model = example_model(operator, ARCH, FRAMES).to(DEVICE, memory_format=torch.channels_last)
    state, batch = training_state(model, precision, lr=0.01), example_batch(CLIPS, FRAMES, SIZE)
    options, draws = StepOptions(autocast_for(precision, DEVICE), clip_norm=20.0), np.random.default_rng(0)
    train_step(state, [batch], options, ALONE, CLIPS, draws)
    if not ON_GPU:
        pytest.skip("the CPU's allocator does not count")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    train_step(state, [batch], options, ALONE, CLIPS, draws)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_tsm_and_vsn_takes_the_memory_of_one_of_tsn(precision):
    peaks = {operator: peak(operator, precision) for operator in OPERATORS}
    ratios = {operator: bytes / peaks["tsn"] for operator, bytes in peaks.items()}
    record(
        "peak memory of a step", arch=ARCH, clips=CLIPS, frames=FRAMES, size=SIZE, precision=precision,
        mib={operator: round(bytes / 2**20, 1) for operator, bytes in peaks.items()}, ratios=ratios,
    )  # fmt: skip
    for operator in ("tsm", "vsn_compact", "vsn_headtail"):  # STH keeps the two branches that it adds up
        assert ratios[operator] <= 1.02, operator
