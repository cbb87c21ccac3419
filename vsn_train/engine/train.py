"""The one training loop. It reads downwards: batch, forward, loss, backward, clip, step, schedule, EMA, log, save."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from vsn_train.data.loader import IGNORED, Batch, EpochBatches, by_step
from vsn_train.data.mixing import mix_clips
from vsn_train.data.transforms import normalize
from vsn_train.data.workers import BadVideo, Loader
from vsn_train.engine.checkpoint import Checkpoints, Position
from vsn_train.engine.distributed import Process
from vsn_train.engine.interrupts import Interrupted, Interrupts
from vsn_train.engine.log import Progress, RunLog
from vsn_train.engine.meter import Meter, peak_memory
from vsn_train.engine.optim import Schedule
from vsn_train.engine.pictures import clip_grid
from vsn_train.engine.prefetch import on_device
from vsn_train.errors import InputError, StoppedError
from vsn_train.models.hybrid import HybridConv2d


def train(
    model: nn.Module,
    loader: Loader[Batch],
    batches: EpochBatches,
    optimizer: Optimizer,
    schedule: Schedule,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
    position: Position,
    validate: Callable[[Position], float],
    checkpoints: Checkpoints,
    interrupts: Interrupts,
    process: Process,
    log: RunLog,
    *,
    epochs: int,
    clip_norm: float,
    autocast: torch.autocast,
    seed: int,
    log_every: int,
    max_bad_share: float,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    patience: int = 0,
    prefetch: bool = True,
) -> None:
    """Train from `position` to the end of the last epoch, or until `patience` epochs in a row have not been better.

    model: (B, T, C, H, W) -> (B, K), wrapped for several processes where there are several. validate: top-1 in percent
    of the epoch that is about to end; it may raise `Interrupted`. mixup, cutmix: alphas, see `mix_clips`. Raises
    InputError when more than max_bad_share of an epoch's videos cannot be read, and StoppedError before an update with
    a loss that is no number and, after saving, when a signal asked for an end.
    """
    while position.epoch < epochs and not (patience and position.epochs_without_better >= patience):
        model.train()
        batches.epoch, batches.done = position.epoch, position.videos
        meter = Meter(process, position.sums)
        values = meter.read()
        progress = Progress(f"epoch {position.epoch + 1}/{epochs}", process.is_main)
        steps = on_device(by_step(loader, batches), process.device, prefetch)
        for step in progress.over(steps, len(batches), batches.steps_in(position.videos)):
            # Dropout and mixing depend on (seed, step, rank) alone, so a resumed run needs no saved generator.
            torch.manual_seed(int(np.random.SeedSequence((seed, position.step, process.rank)).generate_state(1)[0]))
            mixing = np.random.default_rng((seed, position.step))
            videos, unreadable, stop, due = process.totals(
                sum(batch.size for batch in step), sum(len(batch.bad) for batch in step),
                interrupts.received > 0, checkpoints.due(position.step),
            )  # fmt: skip
            if unreadable:
                position.unreadable += int(unreadable)
                report_bad_videos(step, loader, position.unreadable, batches.videos, max_bad_share, process, log)
            if position.videos == 0:
                log.picture("clips", position.step + 1, clip_grid(step[0].video))

            optimizer.zero_grad(set_to_none=True)
            losses = []
            for batch in step:
                with gradients_shared(model, at_once=batch is step[-1]):
                    video, partner, share = mix_clips(normalize(batch.video), batch.label, mixup, cutmix, mixing)
                    with autocast:
                        logits = model(video)
                    loss_sum = clip_loss(logits.float(), batch.label, partner, share, label_smoothing)
                    # Processes average their gradients; this makes the average the mean over the step's videos.
                    scaler.scale(loss_sum * process.world_size / max(videos, 1)).backward()
                losses.append(loss_sum.detach())
                meter.add(losses[-1], logits.detach(), batch.label)
            scaler.unscale_(optimizer)
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip_norm or float("inf")))
            stop_unless_finite(losses, norm, scaler, optimizer, loader, batches, position, process)
            rates = {str(group["name"]): float(group["lr"]) for group in optimizer.param_groups}
            scaler.step(optimizer)
            scaler.update()
            position.step += 1
            position.videos = min(position.videos + batches.step_videos, batches.videos)
            schedule.step(position.epoch * len(batches) + batches.steps_in(position.videos))
            if average is not None:
                average.update_parameters(model)

            if position.step % log_every == 0 or position.videos == batches.videos:
                values = meter.read() | {"clips_per_s": meter.new_videos / progress.seconds, "lr": rates["weight"]}
                values |= {
                    "grad_norm": norm,
                    "data_wait": progress.waiting_share,
                    "memory_gib": peak_memory(process.device),
                }
                more = {"learning_rate": rates, "attention": attention_shares(model)}
                log.metrics("train", position.epoch + 1, position.step, **values, **more)
                progress.show(summary(values))
            if stop or (due and position.videos < batches.videos):
                position.sums = meter.gather()
                checkpoints.save(position)
            if stop:
                raise stopped_by(interrupts, checkpoints, process)

        position.sums = meter.gather()
        log.line(f"epoch {position.epoch + 1}/{epochs}  train {summary(values)}  {position.unreadable} unreadable")
        try:
            top1 = validate(position)
        except Interrupted:
            checkpoints.save(position)
            raise stopped_by(interrupts, checkpoints, None) from None
        position.end_epoch(top1)
        checkpoints.save(position)


def clip_loss(logits: Tensor, label: Tensor, partner: Tensor, share: float, label_smoothing: float) -> Tensor:
    """Cross-entropy summed over the batch; of a mixed clip `share` is its own label's, the rest its partner's.

    One that is no finite number has no finite gradient either, so that with the gradient all processes hear of it.
    """
    options: Any = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": label_smoothing}
    loss = F.cross_entropy(logits, label, **options)
    if share < 1:
        loss = share * loss + (1 - share) * F.cross_entropy(logits, partner, **options)
    return loss * (1 + 0 * loss.detach())  # times 1, or times nan


def gradients_shared(model: nn.Module, at_once: bool) -> AbstractContextManager[None]:
    """Processes exchange gradients in the backward pass, or leave that to a later batch of the same step."""
    return nullcontext() if at_once or not isinstance(model, DistributedDataParallel) else model.no_sync()


def stop_unless_finite(
    losses: list[Tensor],
    norm: float,
    scaler: torch.amp.GradScaler,
    optimizer: Optimizer,
    loader: Loader[Batch],
    batches: EpochBatches,
    position: Position,
    process: Process,
) -> None:
    """Raise StoppedError in all processes when the loss of any is no number, or the gradient norm is none.

    norm: the same in all processes, and no number where any loss is none, see `clip_loss`. With fp16 an infinite
    gradient alone is an overflow, which the scaler answers by leaving out the update.
    """
    if math.isfinite(norm):
        return
    (broken,) = process.totals(float(not torch.stack(losses).isfinite().all()))
    if not broken and scaler.is_enabled():
        return
    manifest = loader.dataset.manifest
    names = [manifest.sample_id(int(index)) for index in batches.step_at(position.videos)]
    what = "the loss" if broken else "the gradient"
    raise StoppedError(
        f"{what} is not a finite number at step {position.step + 1} (epoch {position.epoch + 1}), learning rate "
        f"{optimizer.param_groups[0]['lr']:.4g}; the weights were not updated. Videos of the step: {', '.join(names)}. "
        "Lower optimizer.lr, lengthen schedule.warmup_epochs or set optimizer.clip_norm, and look at these videos"
    )


def stopped_by(interrupts: Interrupts, checkpoints: Checkpoints, process: Process | None) -> StoppedError:
    """What ends a training that was asked to end, once all is written. process: for all to leave together."""
    checkpoints.wait()
    if process is not None:
        process.totals(0)
    return StoppedError(f"stopped by {interrupts.name}; saved {checkpoints.how_to_go_on()}", interrupts.exit_code)


def summary(values: dict[str, float]) -> str:
    """What the bar and the log say of the training so far."""
    text = f"loss {values['loss']:.3f}  top1 {values['top1']:.1f}"
    if "lr" in values:  # otherwise this launch found the epoch's last step done
        text += (
            f"  lr {values['lr']:.2g}  {values['clips_per_s']:.1f} clips/s  waiting for data {values['data_wait']:.0%}"
        )
    return text


def report_bad_videos(
    step: list[Batch],
    loader: Loader[Batch],
    unreadable: int,
    videos: int,
    max_bad_share: float,
    process: Process,
    log: RunLog,
) -> None:
    """Name each unreadable video of a step; raise InputError once they are more than the stated share of the videos.

    unreadable: how many the epoch has had. Those that took a worker along are touched by no process again.
    """
    mine: list[BadVideo] = [bad for batch in step for bad in batch.bad]
    named = [bad for part in process.gather(mine) for bad in part]
    for bad in named:
        log.line(f"skipped unreadable video {bad.path}: {bad.cause}")
        if bad.lost and bad.index not in log.quarantined:
            log.quarantine(bad.index, loader.dataset.manifest.sample_id(bad.index), bad.cause)
    loader.quarantine.update({bad.index: bad for bad in named if bad.lost})
    if unreadable > max_bad_share * videos:
        raise InputError(
            f"{unreadable} of {videos} training videos could not be read, more than data.max_bad_share="
            f"{max_bad_share}; last: {named[-1].path}: {named[-1].cause}. Repair the videos or take them off the list, "
            "or raise the share"
        )


def attention_shares(model: nn.Module) -> dict[str, float]:
    """Of each STH layer with attention: the mean weight of its temporal branch in the last forward pass, 0 to 1."""
    return {
        name.replace("module.", "").replace("_orig_mod.", ""): float(module.last_attention[:, 0].mean())
        for name, module in model.named_modules()
        if isinstance(module, HybridConv2d) and module.last_attention is not None
    }
