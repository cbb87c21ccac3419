"""vsn-train check=true: report batches, speed and memory without training."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from vsn_train import config as schema
from vsn_train.data.loader import Batch, EpochBatches, training_loader
from vsn_train.data.manifest import Manifest
from vsn_train.engine.check import (
    describe_batch,
    describe_videos,
    loader_rate,
    model_rate,
    save_contact_sheet,
    what_limits,
)
from vsn_train.engine.distributed import Process
from vsn_train.engine.meter import peak_memory
from vsn_train.engine.precision import autocast_for
from vsn_train.models import Recognizer
from vsn_train.run.data import describe_flips, training_clips
from vsn_train.run.evaluate import Evaluation
from vsn_train.run.network import note_random_start, prepare_model
from vsn_train.run.state import trial_state, trial_step


def check_training(
    config: schema.Train,
    manifest: Manifest,
    val_manifest: Manifest,
    model: Recognizer,
    batches: EpochBatches,
    process: Process,
    run_folder: Path,
) -> None:
    """Print two batches each of training and validation, and the bottleneck; save a figure of the training clips."""
    autocast, names = autocast_for(config.runtime.precision, process.device), manifest.class_names
    model = prepare_model(model, config.runtime, process).train()
    loader = training_loader(training_clips(config, manifest), batches, config.data.workers, config.data.timeout)
    evaluation = Evaluation(model, val_manifest, config.validation, config, process, autocast)
    with closing(loader), closing(evaluation.loader):
        first = list(islice(loader, 2))
        lines = [line for number, batch in enumerate(first) for line in describe_batch(f"train {number}", batch, names)]
        for number, group in enumerate(islice(evaluation.loader, 2)):
            labels = [names[val_manifest.labels[video.index]] for video in group]
            lines += describe_videos(f"val {number}", group, labels, config.validation.views)
        loading = loader_rate(loader, min(len(batches) * config.optimizer.accumulate, 4 + 4 * config.data.workers))
    batch = max(first, key=lambda each: each.size)
    state = trial_state(config, model, process)
    here = Batch(batch.video.to(process.device), batch.label.to(process.device), ())

    def step() -> float:
        done = trial_step(config, state, here, batch.size, autocast)
        return float(done.losses[0]) / max(batch.size, 1)  # waits for the device

    training = model_rate(step, len(batch.label))
    lines.append(f"model: loss of the first step {step():.3f} (chance {np.log(len(names)):.3f})")
    lines.append(f"memory: peak {peak_memory(process.device):.2f} GiB")
    lines.append(what_limits(loading, training, config.data.workers))
    if not process.is_main:
        return
    lines.insert(0, describe_flips(manifest, config.augment.flip))
    if random_start := note_random_start(config):
        lines.append(random_start)
    sheet = run_folder / "check.png"
    save_contact_sheet(sheet, batch.video, [names[index] for index in batch.label.tolist()])
    print("\n".join([*lines, f"what the network sees: {sheet}"]))
