"""The one training loop. It reads downwards: batch, forward, loss, backward, clip, step, schedule, log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vsn_train.data.loader import IGNORED, BadVideo, Batch, EpochBatches
from vsn_train.data.mixing import mix_clips
from vsn_train.data.transforms import normalize
from vsn_train.engine.distributed import Process
from vsn_train.engine.log import Progress, RunLog
from vsn_train.errors import InputError


@dataclass
class Position:
    """Where a training stands: epochs and optimizer steps done, the best validation top-1 so far in percent."""

    epoch: int = 0
    step: int = 0
    best_top1: float = -1.0


def train(
    model: nn.Module,
    loader: Iterable[Batch],
    batches: EpochBatches,
    optimizer: Optimizer,
    schedule: LRScheduler,
    position: Position,
    end_of_epoch: Callable[[Position], None],
    process: Process,
    log: RunLog,
    *,
    epochs: int,
    clip_norm: float,
    autocast: torch.autocast,
    seed: int,
    log_every: int,
    max_bad_share: float,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> None:
    """Train from `position` to the end of the last epoch; `end_of_epoch` validates and saves.

    model: (B, T, C, H, W) -> (B, K), wrapped for several processes where there are several. mixup, cutmix: alphas, see
    `mix_clips`. Raises InputError when more than max_bad_share of an epoch's videos cannot be read.
    """
    while position.epoch < epochs:
        model.train()
        batches.epoch = position.epoch
        progress = Progress(f"epoch {position.epoch + 1}/{epochs}", process.is_main)
        meter, bad = Meter(process), 0
        for batch in progress.over(loader, len(batches)):
            # Dropout depends on (seed, step, rank) alone, so a resumed run needs no saved generator.
            torch.manual_seed(int(np.random.SeedSequence((seed, position.step, process.rank)).generate_state(1)[0]))
            videos, failed = process.totals(batch.size, len(batch.bad))
            if failed:
                bad += int(failed)
                report_bad_videos(process.gather(batch.bad), bad, batches.videos, max_bad_share, log)

            video = normalize(batch.video.to(process.device, non_blocking=True))
            label = batch.label.to(process.device, non_blocking=True)
            # From (seed, step) alone: the same mix in every process and after a restart.
            generator = np.random.default_rng((seed, position.step))
            video, partner_label, share = mix_clips(video, label, mixup, cutmix, generator)
            with autocast:
                logits = model(video)
            loss_sum = F.cross_entropy(logits.float(), label, ignore_index=IGNORED, reduction="sum")
            if share < 1:
                partner_sum = F.cross_entropy(logits.float(), partner_label, ignore_index=IGNORED, reduction="sum")
                loss_sum = share * loss_sum + (1 - share) * partner_sum
            # Processes average their gradients; this makes the average the mean over the step's videos.
            loss = loss_sum * process.world_size / max(videos, 1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
            learning_rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            position.step += 1

            meter.add(loss_sum.detach(), logits.detach(), label)
            if position.step % log_every == 0 or position.step % len(batches) == 0:
                values = meter.read() | {"clips_per_s": meter.videos / progress.seconds}
                values |= {"lr": learning_rate, "grad_norm": float(norm), "data_wait": progress.waiting_share}
                log.metrics("train", position.epoch + 1, position.step, **values)
                progress.show(summary(values))
        position.epoch += 1
        log.line(f"epoch {position.epoch}/{epochs}  train {summary(values)}" + (f"  {bad} unreadable" if bad else ""))
        end_of_epoch(position)


def summary(values: dict[str, float]) -> str:
    """What the bar and the log say of the training so far."""
    return (
        f"loss {values['loss']:.3f}  top1 {values['top1']:.1f}  lr {values['lr']:.2g}  "
        f"{values['clips_per_s']:.1f} clips/s  waiting for data {values['data_wait']:.0%}"
    )


class Meter:
    """Sums over an epoch's videos on the device; the host reads them only when it logs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.sums = torch.zeros(4, dtype=torch.float64, device=process.device)
        self.videos = 0.0

    def add(self, loss_sum: Tensor, logits: Tensor, label: Tensor) -> None:
        """Add one batch. loss_sum: scalar; logits: (B, K); label: (B,), IGNORED ones not counted."""
        top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices == label[:, None]
        counted = (label != IGNORED).sum()
        self.sums += torch.stack([loss_sum.double(), top5[:, 0].sum(), top5.sum(), counted]).double()

    def read(self) -> dict[str, float]:
        """Mean loss and accuracies in percent over all processes so far."""
        loss, top1, top5, self.videos = self.process.totals(*self.sums.tolist())
        videos = max(self.videos, 1)
        return {"loss": loss / videos, "top1": 100 * top1 / videos, "top5": 100 * top5 / videos}


def report_bad_videos(
    found: list[tuple[BadVideo, ...]], bad: int, videos: int, max_bad_share: float, log: RunLog
) -> None:
    """Name each unreadable video; raise InputError once they are more than the stated share of the videos."""
    named = [video for videos_of_one in found for video in videos_of_one]
    for video in named:
        log.line(f"skipped unreadable video {video.path}: {video.cause}")
    if bad > max_bad_share * videos:
        raise InputError(
            f"{bad} of {videos} training videos could not be read, more than data.max_bad_share={max_bad_share}; last: "
            f"{named[-1].path}: {named[-1].cause}. Repair the videos or take them off the list, or raise the share"
        )


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """precision "auto", "fp32" or "bf16" as an autocast context. "auto": bf16 where the hardware multiplies in it."""
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Other CPUs accept bf16 too and run it slower than fp32.
    amx: Any = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(amx and amx())
