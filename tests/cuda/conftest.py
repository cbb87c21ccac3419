"""Marked `cuda`: `make test-cuda` runs these, `make test` does not; skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cuda.device import ON_GPU
from vsn_train.engine.precision import allow_tf32

# Several processes run the tests: those that start commands take longest and come first, the many quick ones last.
LONGEST_FIRST = ("evaluation", "resume", "training", "compile", "export", "memory", "operators")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    missing = ON_GPU and not torch.cuda.is_available()
    for item in own:
        item.add_marker("cuda")
        if missing:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))
    own.sort(key=lambda item: LONGEST_FIRST.index(item.path.stem.removeprefix("test_cuda_")))
    items[:] = [item for item in items if Path(__file__).parent not in item.path.parents] + own


@pytest.fixture(autouse=True)
def plain_fp32() -> Iterator[None]:
    """fp32 is fp32: products are not rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(False)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    if ON_GPU and torch.cuda.is_available():
        torch.cuda.empty_cache()  # other test processes share the device
