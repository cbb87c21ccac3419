"""vsn-train, once the launcher has started the processes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vsn_train import __version__
from vsn_train import config as schema
from vsn_train.data.loader import Batch, EpochBatches, training_loader
from vsn_train.data.workers import Loader
from vsn_train.engine.checkpoint import Checkpoints, Position
from vsn_train.engine.distributed import Process, join_processes, launched_before, settle_buckets
from vsn_train.engine.interrupts import Interrupts
from vsn_train.engine.log import QUARANTINE, RunLog
from vsn_train.engine.optim import Schedule, build_adamw, build_average, build_sgd, lr_factor, scaled_lr
from vsn_train.engine.pictures import confusion_picture
from vsn_train.engine.precision import autocast_for, scaler_for
from vsn_train.engine.train import train as run_training
from vsn_train.models import Recognizer
from vsn_train.models.layouts import mixing_of
from vsn_train.run.check import check_training
from vsn_train.run.data import load_manifest, note_missing, training_clips
from vsn_train.run.evaluate import Evaluation, describe
from vsn_train.run.network import build_model, choose_speed, clip_shape, prepare_model, start_weights
from vsn_train.run.record import flatten, write_config
from vsn_train.run.resume import describe_position, find_checkpoint, not_bit_identical, read_quarantine, restore


def train(config: schema.Train, stored: dict[str, Any], run_folder: Path) -> None:
    """vsn-train in this process, one of those that the launcher started.

    stored: the config as plain types with its interpolations, what a checkpoint keeps. Nothing is written into the
    run folder before data, network and checkpoint have been found to fit.
    """
    options, runtime = config.optimizer, config.runtime
    with join_processes(runtime.device, runtime.threads) as process:
        manifest = load_manifest(config.dataset, "train", process, config.data)
        val_manifest = load_manifest(config.dataset, "val", process, config.data)
        torch.manual_seed(config.seed)
        model = build_model(config.backbone, len(manifest.class_names), config.data.modality).to(process.device)
        weights = start_weights(model, config, manifest.class_names)
        batches = EpochBatches(
            len(manifest), config.data.batch_size, process.rank, process.world_size, config.seed, options.accumulate
        )
        if config.check:
            check_training(config, manifest, val_manifest, model, batches, process, run_folder)
            return
        folder, resume = run_folder / "checkpoints", config.resume or launched_before(run_folder)
        manifests = [manifest.content_hash(), val_manifest.content_hash()]
        found, notes = process.main_does(
            lambda: find_checkpoint(resume, folder, stored, batches.step_videos, manifests)
        )
        choices, reasons = choose_speed(config, model, process, found["choices"] if found else None)
        runtime = replace(runtime, **choices)
        model = prepare_model(model, runtime, process)
        lr = scaled_lr(options.lr, batches.step_videos, options.reference_batch)
        optimizer = build_optimizer(options, model, lr, runtime, process)
        schedule = Schedule(optimizer, schedule_factor(config.schedule, len(batches)))
        scaler = scaler_for(runtime.precision, process.device)
        average = build_average(model, options.ema) if options.ema else None
        position = Position()
        if found:
            restore(found, model, optimizer, scaler, average, position)
            notes += not_bit_identical(found, stored["runtime"] | choices, batches, process)
        schedule.step(position.epoch * len(batches) + batches.steps_in(position.videos))

        log = RunLog(
            run_folder if process.is_main else None,
            position.step,
            found["metrics_bytes"] if found else 0,
            run_folder / f"log_rank{process.rank}.txt" if runtime.rank_logs else None,
        )
        clips = training_clips(config, manifest)
        loader = training_loader(clips, batches, config.data.workers, config.data.timeout)
        loader.quarantine |= process.main_does(lambda: read_quarantine(run_folder, clips))
        log.quarantined |= loader.quarantine.keys()
        autocast = autocast_for(runtime.precision, process.device)
        evaluation = Evaluation(
            average.module if average else model, val_manifest, config.validation, config, process, autocast
        )

        def content() -> dict[str, Any]:
            return {
                "version": __version__,
                "model": model.state_dict(),
                "average": average.module.state_dict() if average else None,
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "processes": process.world_size,
                "step_videos": batches.step_videos,
                "choices": choices,
                "metrics_bytes": log.flush(),
                "config": stored,
                "class_names": list(manifest.class_names),
                "flip_pairs": [list(pair) for pair in manifest.flip_pairs],
                "flips_allowed": manifest.flips_allowed,
                "manifests": manifests,
                "mixing": mixing_of(model),
            }

        interrupts, saving = Interrupts(), config.checkpoints
        checkpoints = Checkpoints(
            folder, content, process.is_main, saving.every_steps, saving.every_minutes, saving.keep_best,
            saving.milestones,
        )  # fmt: skip

        def validate(position: Position) -> float:
            process.share_buffers(evaluation.model)
            name = config.validation.name(config.data.short_side, config.data.crop_size)
            with interrupts.raised_at_once():  # only where nothing has been logged yet: the validation is done again
                scores = evaluation("validate", {"protocol": {"name": name, **asdict(config.validation)}})
            epoch = position.epoch + 1
            top1, top5 = scores.top1(), scores.top5()
            log.line(f"epoch {epoch}/{config.schedule.epochs}  val {describe(scores, name)}")
            log.metrics(
                "val", epoch, position.step, loss=scores.loss(), top1=top1, top5=top5, n=len(scores),
                protocol=name, manifest=manifests[1], checkpoint=f"epoch {epoch}",
            )  # fmt: skip
            log.picture("confusion", position.step, confusion_picture(scores.confusion()))
            return top1

        if process.is_main:
            write_config(run_folder, stored)
        log.line(
            f"{config.name}: {len(manifest)} training and {len(val_manifest)} validation videos of "
            f"{len(manifest.class_names)} classes, {process.world_size} process(es) on {process.device.type}, "
            f"run folder {run_folder}"
        )
        for each in (manifest, val_manifest):
            if process.is_main and (line := note_missing(each, run_folder)):
                log.line(line)
        if config.augment.flip and not manifest.flips_allowed:
            log.line("training without mirrors: they would change classes into ones that are not known (flip pairs)")
        log.line(f"weights: {weights}" if not found else f"resumed {describe_position(position, len(batches))}")
        for line in (*notes, *reasons, describe_step(config, batches, lr, process)):
            log.line(line)
        network: nn.Module = torch.compile(model) if runtime.compile else model  # type: ignore[assignment]
        if process.world_size > 1:
            # Of 1x1 kernels, whose strides can be written in two ways.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            network = DistributedDataParallel(
                network, gradient_as_bucket_view=runtime.gradient_as_bucket_view, static_graph=runtime.static_graph
            )
            settle_buckets(network.train(), torch.zeros(clip_shape(config, model), device=process.device), autocast)
        started = time.monotonic()
        with interrupts.caught(), closing(loader), closing(evaluation.loader):
            if not position.step:
                log.settings(flatten(stored))
            if not found:
                # At once: a full disk or a folder that cannot be written to is better found now than after an epoch.
                checkpoints.save(position)
            run_training(
                network,
                loader,
                batches,
                optimizer,
                schedule,
                scaler,
                average,
                position,
                validate,
                checkpoints,
                interrupts,
                process,
                log,
                epochs=config.schedule.epochs,
                clip_norm=options.clip_norm,
                autocast=autocast,
                seed=config.seed,
                log_every=runtime.log_every,
                max_bad_share=config.data.max_bad_share,
                label_smoothing=options.label_smoothing,
                mixup=config.augment.mixup,
                cutmix=config.augment.cutmix,
                patience=config.schedule.patience,
                prefetch=runtime.prefetch,
            )
            checkpoints.wait()
        for line in final_summary(config, position, loader, log, folder, time.monotonic() - started):
            log.line(line)
        log.close()


def build_optimizer(
    options: schema.Optimizer, model: Recognizer, lr: float, runtime: schema.Runtime, process: Process
) -> torch.optim.Optimizer:
    fused = runtime.fused_optimizer
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
    """optimizer steps done -> what the learning rate is multiplied by."""
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


def describe_step(config: schema.Train, batches: EpochBatches, lr: float, process: Process) -> str:
    """For the log: effective batch and learning rate."""
    options = config.optimizer
    text = (
        f"a step: {config.data.batch_size} videos x {process.world_size} process(es) x {options.accumulate} = "
        f"{batches.step_videos} videos, {len(batches)} steps an epoch; learning rate {lr:.6g}"
    )
    if options.reference_batch:
        return (
            f"{text} = {options.lr:g} x {batches.step_videos} / {options.reference_batch} (optimizer.reference_batch)"
        )
    return f"{text}, not scaled with the batch (optimizer.reference_batch=0)"


def final_summary(
    config: schema.Train, position: Position, loader: Loader[Batch], log: RunLog, folder: Path, seconds: float
) -> list[str]:
    """What the terminal shows at the end."""
    top1, epoch = position.best[0]
    protocol = config.validation.name(config.data.short_side, config.data.crop_size)
    lines = [f"done: {position.epoch} epochs, {position.step} steps; this launch took {seconds / 60:.1f} min"]
    if position.epoch < config.schedule.epochs:
        lines.append(
            f"ended early: no better validation for {position.epochs_without_better} epochs "
            f"(schedule.patience={config.schedule.patience})"
        )
    lines.append(
        f"best val top1 {top1:.2f} after epoch {epoch} ({protocol}"
        f"{', averaged weights' if config.optimizer.ema else ''})"
    )
    if loader.quarantine:
        lines.append(f"{len(loader.quarantine)} clips took their worker along: {folder.parent / QUARANTINE}")
    return [*lines, f"evaluate: vsn-eval checkpoint={folder / 'best.pt'}"]
