"""vsn-train in each process that the launcher has started: from the config to the training loop."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vsn_train import __version__
from vsn_train import config as schema
from vsn_train.data.loader import Batch, EpochBatches, training_loader
from vsn_train.data.manifest import Manifest
from vsn_train.data.workers import Loader
from vsn_train.engine.checkpoint import Checkpoints
from vsn_train.engine.checkpoint_fields import resume_state
from vsn_train.engine.distributed import Process, join_processes, launched_before
from vsn_train.engine.figures import confusion_figure
from vsn_train.engine.interrupts import Interrupts
from vsn_train.engine.log import QUARANTINE, RunLog
from vsn_train.engine.state import Checkpoint, Position, TrainState
from vsn_train.engine.train import train as run_training
from vsn_train.folder_lock import folder_lock, refuse_links
from vsn_train.models.layouts import mixing_of
from vsn_train.run.check import check_training
from vsn_train.run.class_weights import class_weights
from vsn_train.run.data import (
    check_flips,
    check_overlap,
    describe_flips,
    load_manifest,
    note_empty_classes,
    note_missing,
    training_clips,
)
from vsn_train.run.evaluate import Evaluation, describe
from vsn_train.run.network import (
    build_model,
    check_network,
    choose_speed,
    fetch_weights,
    note_random_start,
    prepare_model,
    start_weights,
    wrap_network,
)
from vsn_train.run.own_split import check_place, draws_split, kept_split, note_unlisted, save_split
from vsn_train.run.record import computed, flatten, write_config
from vsn_train.run.resume import describe_position, find_checkpoint, not_bit_identical, read_quarantine
from vsn_train.run.same_data import FOLDER as MANIFESTS
from vsn_train.run.same_data import save_manifests
from vsn_train.run.state import build_state, learning_rate, train_options
from vsn_train.typed_paths import paste


def train(config: schema.Train, run_folder: Path) -> None:
    """Run vsn-train in this process, one of those that the launcher started.

    Nothing is written into the run folder until data, network and checkpoint have been checked.
    """
    given = schema.plain(config)  # the config that a checkpoint keeps
    check_network(config.backbone, config.data.modality)
    with join_processes(config.runtime.device, config.runtime.threads) as process, ExitStack() as held:
        # 1. Data and network.
        resume = schema.resume_choice(config.resume) or launched_before(run_folder)
        resumes = resume and any((run_folder / "checkpoints").glob("*.pt"))
        check_place(config.dataset, run_folder)
        dataset = kept_split(config.dataset, run_folder) if resumes else config.dataset
        manifests = [load_manifest(dataset, split, process, config.data) for split in ("train", "val")]
        weights_of_classes = class_weights(config.optimizer.class_weights, manifests[0])
        check_flips(config.validation, manifests[1].flips_allowed, manifests[1].name, manifests[1].class_names)
        batches = EpochBatches(
            len(manifests[0]), config.data.batch_size, process.rank, process.world_size, config.seed,
            config.optimizer.accumulate, manifests[0].labels if config.data.balance == "classes" else None,
        )  # fmt: skip
        torch.manual_seed(config.seed)
        classes = manifests[0].class_names
        model = build_model(config.backbone, len(classes), config.data.modality).to(process.device)
        fetch_weights(config, process)
        weights = start_weights(model, config, classes)
        if config.check:
            process.on_rank_zero(lambda: check_overlap(manifests[0], manifests[1], config.dataset))
            check_training(config, manifests[0], manifests[1], model, batches, process, run_folder)
            return

        # 2. The checkpoint to resume from, if any, and the fastest settings on this machine.
        process.on_rank_zero(lambda: hold(held, run_folder))
        hashes = [each.content_hash() for each in manifests]
        found, notes = process.on_rank_zero(
            lambda: find_checkpoint(
                resume, run_folder / "checkpoints", given, batches.step_videos, manifests, config.resume_other_videos
            )
        )
        # A run of an older version may continue despite an overlap, with a line in the log.
        refuse = not found or "allow_overlap" in found.config["dataset"]
        overlap = process.on_rank_zero(lambda: check_overlap(manifests[0], manifests[1], config.dataset, refuse))
        other_videos = bool(found and found.manifests and found.manifests != hashes)
        choices, reasons = choose_speed(config, model, process, found.choices if found else None)
        config = replace(config, runtime=replace(config.runtime, **choices))

        # 3. The training state, new or resumed.
        state = build_state(config, prepare_model(model, config.runtime, process), batches, process)
        if found:
            resume_state(state, found)
            if other_videos and state.position.videos:
                state.position.begin_epoch_anew()
                notes.append(f"epoch {state.position.epoch + 1} restarts, with the current videos")
            notes += not_bit_identical(found, given["runtime"] | choices, batches, process)
        state.set_rates(batches)
        state.network = wrap_network(config, state.model, process)

        # 4. Loader, log and checkpoints.
        log = open_log(config, run_folder, process, state.position.step, found.metrics_bytes if found else 0)
        held.callback(log.close)
        loader = open_loader(config, manifests[0], batches, process, run_folder, log)
        options, interrupts = train_options(config, process, weights_of_classes), Interrupts()
        scored = state.average.module if state.average else state.model
        evaluation = Evaluation(scored, manifests[1], config.validation, config, process, options.step.autocast)
        facts = facts_of(given, choices, state, manifests[0], hashes, batches, process)
        checkpoints = open_checkpoints(config, run_folder, state, facts, log, process)
        if process.is_main:
            write_config(run_folder, given, computed(config.runtime.precision, state.model, process), state.model)
        origin = f"resumed {describe_position(state.position, len(batches))}" if found else f"weights: {weights}"
        if dataset is not config.dataset and process.is_main and (added := note_unlisted(config.dataset, manifests)):
            notes.append(added)
        said = [origin, *notes, *([overlap] if overlap else []), *reasons, describe_step(config, batches, process)]
        if random_start := note_random_start(config):
            said.append(random_start)  # last, and once more at the end
        for line in describe_run(config, manifests, process, run_folder) + said:
            log.line(line)

        # 5. The training.
        started = time.monotonic()
        with interrupts.caught(), closing(loader), closing(evaluation.loader):
            if not state.position.step:
                log.settings(flatten(given))
            if not found or other_videos:
                # At once, to detect a full disk or a read-only folder before the first epoch.
                checkpoints.save()
            if process.is_main:
                save_manifests(run_folder, manifests)
                if draws_split(dataset):
                    save_split(run_folder, manifests)
            validate = validation(config, evaluation, hashes[1], interrupts, process, log)
            run_training(state, loader, batches, validate, checkpoints, interrupts, process, log, options)
            checkpoints.wait()
        for line in final_summary(config, state.position, loader, log, run_folder, time.monotonic() - started):
            log.line(line)


def hold(held: ExitStack, run_folder: Path) -> None:
    """Lock the run folder. Raises InputError if another training is writing there, and if it has links that lead out of
    it."""
    held.enter_context(folder_lock(run_folder, "choose another hydra.run.dir"))
    logs = [path.name for path in run_folder.glob("log*.txt")]
    refuse_links(run_folder, *logs, "metrics.jsonl", QUARANTINE, "tensorboard", "checkpoints", MANIFESTS)


def open_log(config: schema.Train, run_folder: Path, process: Process, steps: int, metrics_bytes: int) -> RunLog:
    """steps, metrics_bytes: of the checkpoint that the run resumes from."""
    others = run_folder / f"log_rank{process.rank}.txt" if config.runtime.rank_logs else None
    return RunLog(run_folder if process.is_main else None, steps, metrics_bytes, others)


def open_loader(
    config: schema.Train, manifest: Manifest, batches: EpochBatches, process: Process, run_folder: Path, log: RunLog
) -> Loader[Batch]:
    """The training loader; it skips the videos that earlier launches of the run have quarantined."""
    clips = training_clips(config, manifest)
    loader = training_loader(clips, batches, config.data.workers, config.data.timeout)
    loader.quarantine |= process.on_rank_zero(lambda: read_quarantine(run_folder, clips, config.resume_other_videos))
    log.quarantined |= loader.quarantine.keys()
    return loader


def facts_of(
    given: dict[str, Any],
    choices: dict[str, Any],
    state: TrainState,
    manifest: Manifest,
    hashes: list[str],
    batches: EpochBatches,
    process: Process,
) -> dict[str, Any]:
    """The fields of a checkpoint that do not change during training; see `Checkpoint`.

    manifest: of the training split. hashes: content hashes of the training and the validation split.
    """
    return {
        "version": __version__,
        "processes": process.world_size,
        "step_videos": batches.step_videos,
        "choices": choices,
        "config": given,
        "class_names": list(manifest.class_names),
        "flip_pairs": [list(pair) for pair in manifest.flip_pairs],
        "flips_allowed": manifest.flips_allowed,
        "manifests": hashes,
        "mixing": mixing_of(state.model),
    }


def open_checkpoints(
    config: schema.Train, run_folder: Path, state: TrainState, facts: dict[str, Any], log: RunLog, process: Process
) -> Checkpoints:
    saving = config.checkpoints

    def current() -> Checkpoint:
        return Checkpoint(**facts, **state.state_dict(), metrics_bytes=log.flush())

    return Checkpoints(
        run_folder / "checkpoints", current, process.is_main, saving.every_steps, saving.every_minutes,
        saving.keep_best, saving.milestones,
    )  # fmt: skip


def validation(
    config: schema.Train, evaluation: Evaluation, manifest: str, interrupts: Interrupts, process: Process, log: RunLog
) -> Callable[[Position], float]:
    """The function that the loop calls at the end of an epoch: it validates, logs the metrics and returns the one that
    checkpoints.best_by names: an accuracy in percent, or the loss.

    manifest: content hash of the validation split.
    """
    name = config.validation.name(config.data.short_side, config.data.crop_size)

    def validate(position: Position) -> float:
        process.broadcast_buffers(evaluation.model)  # from rank 0: batch-norm statistics differ between ranks
        with interrupts.raised_at_once():  # not after the first log entry: a resumed run repeats the validation
            scores = evaluation("validate", {"protocol": {"name": name, **asdict(config.validation)}})
        epoch = position.epoch + 1
        values = {name: getattr(scores, name)() for name in ("loss", "top1", "top5", "mean_class")}
        log.line(f"epoch {epoch}/{config.schedule.epochs}  val {describe(scores, name)}")
        log.metrics(
            "val", epoch, position.step, **values, n=len(scores), protocol=name,
            manifest=manifest, checkpoint=f"epoch {epoch}",
        )  # fmt: skip
        log.figure("confusion", position.step, confusion_figure(*scores.confused(), len(scores.class_names)))
        best_by = values[config.checkpoints.best_by]
        return best_by if math.isfinite(best_by) else sys.float_info.max  # the loss if no video was readable

    return validate


def describe_run(config: schema.Train, manifests: list[Manifest], process: Process, run_folder: Path) -> list[str]:
    """For the log: the run, its videos and the missing ones; rank 0 writes lists of the missing videos."""
    train, val = manifests
    lines = [
        f"{config.name}: {len(train)} training and {len(val)} validation videos of {len(train.class_names)} classes, "
        f"on {process.device.type}, processes: {process.world_size}, run folder {run_folder}"
    ]
    if process.is_main:
        lines += [line for each in manifests if (line := note_missing(each, run_folder))]
    lines += [note for each in manifests for note in each.notes]
    if config.data.balance == "classes" or config.optimizer.class_weights:
        counts = np.bincount(train.labels, minlength=len(train.class_names))
        lines.append(
            f"{counts[counts > 0].min()} to {counts.max()} training videos per class; "
            f"data.balance={config.data.balance}, optimizer.class_weights={config.optimizer.class_weights or 'null'}"
        )
    if empty := note_empty_classes(train):
        lines.append(empty)
    return [*lines, describe_flips(train, config.augment.flip)]


def describe_step(config: schema.Train, batches: EpochBatches, process: Process) -> str:
    """For the log: effective batch and learning rate."""
    options = config.optimizer
    text = (
        f"effective batch: {batches.step_videos} videos (data.batch_size={config.data.batch_size}, processes: "
        f"{process.world_size}, optimizer.accumulate={options.accumulate}), {len(batches)} steps per epoch; "
        f"learning rate {learning_rate(config, batches):.6g}"
    )
    if options.reference_batch:
        return (
            f"{text} = {options.lr:g} x {batches.step_videos} / {options.reference_batch} (optimizer.reference_batch)"
        )
    return f"{text}, not scaled with the batch (optimizer.reference_batch=0)"


def final_summary(
    config: schema.Train, position: Position, loader: Loader[Batch], log: RunLog, run_folder: Path, seconds: float
) -> list[str]:
    """The last lines of the log."""
    value, epoch = position.best[0]
    best_by = {"mean_class": "mean class accuracy"}.get(config.checkpoints.best_by, config.checkpoints.best_by)
    protocol = config.validation.name(config.data.short_side, config.data.crop_size)
    lines = [f"done: {position.epoch} epochs, {position.step} steps; this launch took {seconds / 60:.1f} min"]
    if position.epoch < config.schedule.epochs:
        lines.append(
            f"stopped early: validation has not improved for {position.epochs_without_better} epochs "
            f"(schedule.patience={config.schedule.patience})"
        )
    lines.append(
        f"best val {best_by} {value:.{3 if best_by == 'loss' else 2}f} after epoch {epoch} ({protocol}"
        f"{', averaged weights' if config.optimizer.ema else ''})"
    )
    if loader.quarantine:
        lines.append(
            f"{len(loader.quarantine)} videos crashed or hung a loader worker and were quarantined; see "
            f"{run_folder / QUARANTINE}"
        )
    if random_start := note_random_start(config):
        lines.append(random_start)
    return [*lines, f"evaluate: {paste('vsn-eval', checkpoint=run_folder / 'checkpoints' / 'best.pt')}"]
