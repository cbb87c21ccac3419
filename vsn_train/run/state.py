"""Build the initial training state from the config: optimizer, schedule, scaler and moving average."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from vsn_train import config as schema
from vsn_train.data.loader import Batch, EpochBatches
from vsn_train.engine.distributed import Process
from vsn_train.engine.finite import Step
from vsn_train.engine.optim import Schedule, build_adamw, build_average, build_sgd, lr_factor, scaled_lr
from vsn_train.engine.precision import autocast_for, scaler_for
from vsn_train.engine.state import TrainState
from vsn_train.engine.train import StepOptions, TrainOptions, train_step
from vsn_train.models import Recognizer


def build_state(config: schema.Train, model: Recognizer, batches: EpochBatches, process: Process) -> TrainState:
    """The state of a new training, at step 0."""
    optimizer = build_optimizer(config, model, learning_rate(config, batches), process)
    schedule = Schedule(optimizer, schedule_factor(config.schedule, len(batches)))
    average = build_average(model, config.optimizer.ema) if config.optimizer.ema else None
    return TrainState(model, optimizer, schedule, scaler_for(config.runtime.precision, process.device), average)


def trial_state(config: schema.Train, model: Recognizer, process: Process) -> TrainState:
    """A state for timing steps: like that of the run, with learning rate 0 and no moving average."""
    optimizer = build_optimizer(config, model, 0.0, process)
    schedule = Schedule(optimizer, lambda steps: 0.0)
    return TrainState(model.train(), optimizer, schedule, scaler_for(config.runtime.precision, process.device))


def trial_step(config: schema.Train, state: TrainState, batch: Batch, videos: int, autocast: torch.autocast) -> Step:
    """One step of a `trial_state` on one batch, which is on the device. videos: number of readable videos in it.

    Computed by this process alone, so the time includes no communication.
    """
    alone, no_draws = Process(0, 1, batch.video.device), np.random.default_rng(0)
    return train_step(state, [batch], StepOptions(autocast, config.optimizer.clip_norm), alone, videos, no_draws)


def train_options(config: schema.Train, process: Process, weights: np.ndarray | None = None) -> TrainOptions:
    """The options of the training loop. weights: (K,), class weights; None: all 1."""
    step = StepOptions(
        autocast_for(config.runtime.precision, process.device),
        config.optimizer.clip_norm,
        config.optimizer.label_smoothing,
        config.augment.mixup,
        config.augment.cutmix,
        None if weights is None else torch.as_tensor(weights, device=process.device),
    )
    return TrainOptions(
        step,
        epochs=config.schedule.epochs,
        seed=config.seed,
        log_every=config.runtime.log_every,
        max_bad_share=config.data.max_bad_share,
        patience=config.schedule.patience,
        prefetch=config.runtime.prefetch,
        lowest_is_best=config.checkpoints.best_by == "loss",
    )


def learning_rate(config: schema.Train, batches: EpochBatches) -> float:
    """The learning rate of the config, scaled with the effective batch size if optimizer.reference_batch is set."""
    return scaled_lr(config.optimizer.lr, batches.step_videos, config.optimizer.reference_batch)


def build_optimizer(config: schema.Train, model: Recognizer, lr: float, process: Process) -> torch.optim.Optimizer:
    options, fused = config.optimizer, config.runtime.fused_optimizer
    fused = process.device.type == "cuda" if fused is None else fused
    if isinstance(options, schema.AdamW):
        betas = (options.betas[0], options.betas[1])
        return build_adamw(
            model, lr, betas, options.eps, options.weight_decay, options.head_lr_factor, fused,
            options.flow_stem_lr_factor,
        )  # fmt: skip
    assert isinstance(options, schema.Sgd)
    return build_sgd(
        model, lr, options.momentum, options.weight_decay, options.head_lr_factor, options.nesterov, fused,
        options.flow_stem_lr_factor,
    )  # fmt: skip


def schedule_factor(schedule: schema.Schedule, steps_per_epoch: int) -> Callable[[float], float]:
    """The schedule as a function: optimizer steps done -> factor of the learning rate."""
    milestones: list[float] = []
    if isinstance(schedule, schema.Multistep):
        milestones = list(schedule.milestones)
    elif isinstance(schedule, schema.Step):
        every = schedule.every
        shares = (max(1, round(share * schedule.epochs)) for share in schedule.milestones)
        milestones = [float(epoch) for epoch in (range(every, schedule.epochs, every) if every else shares)]
    return partial(
        lr_factor,
        steps_per_epoch=steps_per_epoch,
        epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        milestones=None if schedule.shape == "cosine" else milestones,
        factor=schedule.factor if isinstance(schedule, schema.Step | schema.Multistep) else 1.0,
        per=schedule.per,
    )
