"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vsn_train.data.loader import Batch


def on_device(steps: Iterator[list[Batch]], device: torch.device, prefetch: bool) -> Iterator[list[Batch]]:
    """The same batches on the device. prefetch (CUDA): copied on a side stream while the step before is computed."""
    if device.type != "cuda":
        yield from steps
        return
    stream = torch.cuda.Stream(device) if prefetch else torch.cuda.current_stream(device)

    def copy(step: list[Batch]) -> list[Batch]:
        with torch.cuda.stream(stream):
            return [
                Batch(
                    batch.video.pin_memory().to(device, non_blocking=True),
                    batch.label.pin_memory().to(device, non_blocking=True),
                    batch.bad,
                )
                for batch in step
            ]

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
