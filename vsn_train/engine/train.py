"""The training step and the one loop around it: batch, forward, loss, backward, clip, step, EMA, schedule, log, save.

`train_step` is the only training step: check=true, runtime=auto and the benchmarks time the same function.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from vsn_train.data.loader import IGNORED, Batch, EpochBatches, by_step
from vsn_train.data.mixing import mix_clips
from vsn_train.data.transforms import normalize
from vsn_train.data.workers import BadVideo, Loader
from vsn_train.engine.checkpoint import Checkpoints
from vsn_train.engine.distributed import Process
from vsn_train.engine.figures import clip_grid
from vsn_train.engine.finite import FiniteCheck, Step
from vsn_train.engine.interrupts import Interrupted, Interrupts
from vsn_train.engine.log import Progress, RunLog, duration
from vsn_train.engine.meter import Meter, peak_memory
from vsn_train.engine.prefetch import on_device
from vsn_train.engine.state import Position, TrainState
from vsn_train.errors import InputError, StoppedError


@dataclass(frozen=True)
class StepOptions:
    """clip_norm: largest gradient norm; 0: any. mixup, cutmix: alphas, see `mix_clips`. class_weights: (K,), on the
    device, see `clip_loss`; None: all 1."""

    autocast: torch.autocast
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: Tensor | None = None


@dataclass(frozen=True)
class TrainOptions:
    """epochs: of the training; patience: stop after this many epochs without improvement, 0: never. log_every: steps.

    max_bad_share: share of an epoch's videos that may be unreadable, 0 to 1. prefetch: see `on_device`.
    lowest_is_best: whether the lowest value of validations is the best, as for a loss.
    """

    step: StepOptions
    epochs: int
    seed: int
    log_every: int
    max_bad_share: float
    patience: int = 0
    prefetch: bool = True
    lowest_is_best: bool = False

    def ended(self, position: Position) -> bool:
        return position.epoch >= self.epochs or 0 < self.patience <= position.epochs_without_better


def train(
    state: TrainState,
    loader: Loader[Batch],
    batches: EpochBatches,
    validate: Callable[[Position], float],
    checkpoints: Checkpoints,
    interrupts: Interrupts,
    process: Process,
    log: RunLog,
    options: TrainOptions,
) -> None:
    """Train from the state's position to the end of the last epoch, or until early stopping.

    validate: the value by which checkpoints.best_by ranks the epoch that is about to end; it may raise `Interrupted`.
    Raises InputError when more than max_bad_share of an epoch's videos cannot be read. Raises StoppedError when a loss
    or gradient is not finite, before it changes a weight, and, after saving, when a signal asks to stop.
    """
    position, finite = state.position, FiniteCheck(state, loader, batches, process)
    after_epoch = 0.0  # seconds of the latest validation and saving
    while not options.ended(position):
        state.network.train()
        batches.epoch, batches.done = position.epoch, position.videos
        # Continues the sums that an earlier launch saved in this epoch.
        meter = Meter(process, position.sums)
        values = meter.read()
        progress = Progress(f"epoch {position.epoch + 1}/{options.epochs}", process.is_main)
        steps = on_device(by_step(loader, batches), process.device, options.prefetch)
        for step in progress.over(steps, len(batches), batches.steps_in(position.videos)):
            # One all-reduce: the number of videos of the step, the unreadable ones, whether any process received a
            # signal, and whether rank 0 wants to save, so that all ranks save and stop at the same step.
            videos, unreadable, stop, due = process.all_reduce_sum(
                sum(batch.size for batch in step), sum(len(batch.bad) for batch in step),
                interrupts.received > 0, checkpoints.due(position.step),
            )  # fmt: skip
            if unreadable:
                position.unreadable += int(unreadable)
                report_bad_videos(step, loader, batches, position, options.max_bad_share, process, log)
            if position.videos == 0:
                log.figure("clips", position.step + 1, clip_grid(step[0].video))

            draws = seed_step(options.seed, position.step, process.rank)
            done = train_step(state, step, options.step, process, int(videos), draws)
            finite.add(done)
            for batch, loss_sum, logits in zip(step, done.losses, done.logits, strict=True):
                meter.add(loss_sum, logits, batch.label)
            rates = state.rates
            state.advance(batches)

            logged = position.step % options.log_every == 0 or position.videos == batches.videos
            if logged or stop or due:
                finite.wait()  # before logging and saving: raises if the step was not finite
            if logged:
                values = meter.read()  # a sum over the processes
                values |= {"clips_per_s": meter.new_videos / progress.seconds, "lr": rates["weight"]}
                values |= {"grad_norm": float(done.grad_norm), "data_wait": progress.waiting_share}
                values |= {"memory_gib": peak_memory(process.device)}
                more = {"learning_rate": rates, **state.model.diagnostics()}
                log.metrics("train", position.epoch + 1, position.step, **values, **more)
                ahead = steps_ahead(position, batches, options.epochs)
                epochs_ahead = options.epochs - position.epoch
                left = progress.seconds / max(progress.passed + 1, 1) * ahead + after_epoch * epochs_ahead
                progress.show([f"end in {duration(left)}", *summary(values)])
            if stop or (due and position.videos < batches.videos):
                position.sums = meter.all_gather()  # every process's sums, for the main one to save
                checkpoints.save()
            if stop:
                raise stopped_by(interrupts, checkpoints, process)

        position.sums = meter.all_gather()  # saved if the validation is interrupted
        log.line(f"{progress.title}  train {'  '.join(summary(values, position.unreadable))}")
        ended = time.perf_counter()
        try:
            value = validate(position)
        except Interrupted:
            checkpoints.save()
            raise stopped_by(interrupts, checkpoints, None) from None
        position.end_epoch(value, options.lowest_is_best)
        checkpoints.save()
        after_epoch = time.perf_counter() - ended


def train_step(
    state: TrainState,
    batches: list[Batch],
    options: StepOptions,
    process: Process,
    videos: int,
    draws: np.random.Generator,
) -> Step:
    """Update the weights, and their moving average, from the batches of one step. Does not change the position.

    A gradient that is not finite changes no weight; the caller checks the norm, see `FiniteCheck`.

    batches: of this process, on the device: video uint8 (B, T, C, H, W), label (B,). videos: number in the step, over
    all processes; the gradient is the mean over them. draws: generator for mixing clips, the same in all processes.
    """
    losses: list[Tensor] = []
    predictions: list[Tensor] = []
    scaler = state.scaler
    state.optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        with gradient_sync(state.network, enabled=batch is batches[-1]):
            video, partner, share = mix_clips(
                normalize(batch.video), batch.label, options.mixup, options.cutmix, draws
            )  # fmt: skip
            with options.autocast:
                logits = state.network(video)
            loss_sum = clip_loss(
                logits.float(), batch.label, partner, share, options.label_smoothing, options.class_weights
            )
            # Processes average their gradients; this makes the average the mean over the step's videos.
            scaler.scale(loss_sum * process.world_size / max(videos, 1)).backward()
        losses.append(loss_sum.detach())
        predictions.append(logits.detach())
    scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), options.clip_norm or float("inf"))
    update_unless_broken(state.optimizer, scaler, norm)
    if state.average is not None:
        state.average.update_parameters(state.model)
    return Step(losses, predictions, norm)


def update_unless_broken(optimizer: Optimizer, scaler: torch.amp.GradScaler, norm: Tensor) -> None:
    """One step of the optimizer, or none if the gradient is not finite. norm: (), of the gradient, on its device."""
    if scaler.is_enabled():  # the scaler checks the gradient itself
        scaler.step(optimizer)
        scaler.update()
        return
    if optimizer.defaults.get("fused"):
        # Fused kernels read found_inf on the device, as set by a scaler, so the host does not wait for the gradient.
        optimizer.grad_scale, optimizer.found_inf = None, (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif norm.isfinite():
        optimizer.step()


def seed_step(seed: int, step: int, rank: int) -> np.random.Generator:
    """Seed torch's generator, for dropout, and return the generator for mixing, the same in all processes.

    Both depend only on (seed, step, rank), so a resumed run needs no saved generator.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))
    return np.random.default_rng((seed, step))


def clip_loss(
    logits: Tensor,
    label: Tensor,
    partner: Tensor,
    share: float,
    label_smoothing: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy summed over the batch. A mixed clip has weight `share` on its own label, the rest on its partner's.

    class_weights: (K,), multiplies each class's part of the target (label, partner and label smoothing). The sum is not
    normalized by the weights, so the gradient is the mean over the videos for any number of batches and processes.
    A loss that is not finite gives a gradient that is not finite, so all ranks detect it through the all-reduce.
    """
    options: Any = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": label_smoothing}
    options["weight"] = class_weights
    loss = F.cross_entropy(logits, label, **options)
    if share < 1:
        loss = share * loss + (1 - share) * F.cross_entropy(logits, partner, **options)
    return loss * (1 + 0 * loss.detach())  # times 1, or times nan


def gradient_sync(network: nn.Module, enabled: bool) -> AbstractContextManager[None]:
    """All-reduce gradients in the backward pass, or defer that to the last batch of the step."""
    return nullcontext() if enabled or not isinstance(network, DistributedDataParallel) else network.no_sync()


def stopped_by(interrupts: Interrupts, checkpoints: Checkpoints, process: Process | None) -> StoppedError:
    """Wait for the checkpoint; return the error that ends a training after a signal. process: for a barrier, so that no
    rank ends before rank 0 has written; None: no barrier."""
    checkpoints.wait()
    if process is not None:
        process.all_reduce_sum(0)  # a barrier: no rank ends before rank 0 has written
    return StoppedError(f"stopped by {interrupts.name}; saved {checkpoints.how_to_resume()}", interrupts.exit_code)


def summary(values: dict[str, float], unreadable: int = 0) -> list[str]:
    """The state of the training for the progress bar and the log, most important first."""
    parts = [f"loss {values['loss']:.3f}", f"top1 {values['top1']:.1f}"]
    if "lr" in values:  # missing if this launch resumed after the last step of the epoch
        parts += [f"lr {values['lr']:.2g}", f"{values['clips_per_s']:.1f} clips/s"]
        parts += [f"data wait {values['data_wait']:.0%}"]
    return parts + ([f"{unreadable} unreadable"] if unreadable else [])  # only then: most lines fit 80 columns


def steps_ahead(position: Position, batches: EpochBatches, epochs: int) -> int:
    """Optimizer steps from here to the end of the last epoch."""
    steps = len(batches)
    return (epochs - position.epoch) * steps - batches.steps_in(position.videos)


def report_bad_videos(
    step: list[Batch],
    loader: Loader[Batch],
    batches: EpochBatches,
    position: Position,
    max_bad_share: float,
    process: Process,
    log: RunLog,
) -> None:
    """Log each unreadable video of a step; raise InputError once they exceed max_bad_share of the epoch's videos.

    position: already counts the step. Videos that crashed or hung a worker are quarantined on all ranks.
    """
    mine: list[BadVideo] = [bad for batch in step for bad in batch.bad]
    # Every rank gets them all: rank 0 logs the names, and all ranks skip the quarantined videos.
    named = [bad for part in process.all_gather(mine) for bad in part]
    for bad in named:
        log.line(f"skipped unreadable video {bad.path}: {bad.cause}")
        if bad.lost and bad.index not in log.quarantined:
            log.quarantine(bad.index, loader.dataset.manifest.sample_id(bad.index), bad.cause)
    loader.quarantine.update({bad.index: bad for bad in named if bad.lost})
    if position.unreadable == batches.videos:
        raise InputError(
            f"none of the {batches.videos} training videos could be read; check dataset.root and the files; last: "
            f"{named[-1].path}: {named[-1].cause}"
        )
    if position.unreadable > max_bad_share * batches.videos:
        raise InputError(
            f"{position.unreadable} of {batches.videos} training videos could not be read, more than "
            f"data.max_bad_share={max_bad_share}; last: {named[-1].path}: {named[-1].cause}. Repair the videos, remove "
            "them from the list, or raise the share"
        )
