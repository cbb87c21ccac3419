"""Asynchronous copies between host and device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vsn_train.data.loader import Batch


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy the tensor to the device. CUDA: asynchronously through pinned memory; the current stream waits for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy the tensor to the host. The returned function waits for the copy and returns it."""
    if tensor.device.type != "cuda":
        return lambda: tensor
    copy = tensor.to("cpu", non_blocking=True)  # torch takes pinned memory for it
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait


def on_device(steps: Iterator[list[Batch]], device: torch.device, prefetch: bool) -> Iterator[list[Batch]]:
    """The same batches on the device. prefetch (CUDA): copy on a side stream while the previous step is computed."""
    if device.type != "cuda":
        yield from steps
        return
    stream = torch.cuda.Stream(device) if prefetch else torch.cuda.current_stream(device)

    def copy(step: list[Batch]) -> list[Batch]:
        with torch.cuda.stream(stream):
            return [Batch(to_device(batch.video, device), to_device(batch.label, device), batch.bad) for batch in step]

    def arrived(step: list[Batch]) -> list[Batch]:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for batch in step:  # their memory was allocated on the side stream and is used on this one
            batch.video.record_stream(current)
            batch.label.record_stream(current)
        return step

    ahead: list[Batch] | None = None
    for step in steps:
        if not prefetch:
            yield copy(step)
            continue
        copied = copy(step)
        if ahead is not None:
            yield arrived(ahead)
        ahead = copied
    if ahead is not None:
        yield arrived(ahead)
