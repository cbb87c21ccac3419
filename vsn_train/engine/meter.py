"""Metrics of a training: sums over the videos of an epoch, and peak memory."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from vsn_train.data.loader import IGNORED
from vsn_train.engine.distributed import Process


class Meter:
    """Sums over an epoch's videos, kept on the device; the host reads them only for a log entry.

    sums: the result of `all_gather` in the checkpoint to resume from; empty at the start of an epoch.
    """

    def __init__(self, process: Process, sums: list[list[float]]) -> None:
        self.process = process
        start = [0.0] * 4
        if len(sums) == process.world_size:
            start = sums[process.rank]
        elif sums and process.is_main:  # resumed with another number of processes
            start = np.sum(sums, axis=0).tolist()
        self.sums = torch.tensor(start, dtype=torch.float64, device=process.device)
        self.videos = 0.0
        self.videos_before = process.all_reduce_sum(start[3])[0]  # over all processes, as `read` counts them

    def add(self, loss_sum: Tensor, logits: Tensor, label: Tensor) -> None:
        """Add one batch. loss_sum: scalar; logits: (B, K); label: (B,), IGNORED ones not counted."""
        top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices == label[:, None]
        counted = (label != IGNORED).sum()
        self.sums += torch.stack([loss_sum.double(), top5[:, 0].sum(), top5.sum(), counted]).double()

    def read(self) -> dict[str, float]:
        """Mean loss and accuracies in percent over all processes so far; a collective call."""
        loss, top1, top5, self.videos = self.process.all_reduce_sum(*self.sums.tolist())
        videos = max(self.videos, 1)
        return {"loss": loss / videos, "top1": 100 * top1 / videos, "top5": 100 * top5 / videos}

    @property
    def new_videos(self) -> float:
        """Videos of this launch only."""
        return self.videos - self.videos_before

    def all_gather(self) -> list[list[float]]:
        """The sums of each process, for a checkpoint. Kept apart: summing in another order would round differently."""
        return self.process.all_gather(self.sums.tolist())


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
