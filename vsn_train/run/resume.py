"""What a run goes on from, and whether it may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vsn_train.data.loader import EpochBatches, TrainingClips
from vsn_train.data.workers import BadVideo
from vsn_train.engine.checkpoint import newest_checkpoint
from vsn_train.engine.distributed import Process
from vsn_train.engine.log import QUARANTINE
from vsn_train.engine.state import Checkpoint, Position
from vsn_train.errors import InputError
from vsn_train.run.record import flatten

# A resumed run may differ in these and still be the same run.
FREE_ON_RESUME = (
    "name", "resume", "check", "runtime.", "checkpoints.", "data.workers", "data.decoder", "data.timeout",
    "data.max_bad_share", "schedule.epochs", "schedule.patience",
)  # fmt: skip
# These may differ too, as long as a step takes as many videos, or as long as the lists name the same videos.
DIVISION = {"data.batch_size", "optimizer.accumulate"}
PLACE = {"dataset.root", "dataset.annotations"}
# Keys that older checkpoints lack: how a network started no longer matters to one that is trained.
ADDED_LATER = {"backbone.temporal_start", "backbone.outer_taps"}
# Of the free ones, those that change how sums are rounded.
ROUNDING = ("device", "precision", "channels_last", "compile", "tf32", "fused_optimizer", "sync_bn", "threads")


def find_checkpoint(
    resume: bool, folder: Path, given: dict[str, Any], step_videos: int, manifests: list[str]
) -> tuple[Checkpoint | None, list[str]]:
    """What to go on from, if anything, and lines for the log.

    manifests: content hashes of the training and the validation split.
    Raises InputError when a run is there and resume=true is not, or the config is another run's.
    """
    if not resume:
        if (folder / "last.pt").exists():
            raise InputError(
                f"{folder.parent} already holds a run; go on with it (resume=true) or choose another hydra.run.dir"
            )
        return None, []
    path, checkpoint, passed_over = newest_checkpoint(folder)
    before, now = flatten(checkpoint.config), flatten(given)
    allowed = ADDED_LATER - before.keys()
    if checkpoint.step_videos == step_videos:
        allowed |= DIVISION
    if checkpoint.manifests == manifests:
        allowed |= PLACE
    changed = [
        f"{key} (was {before.get(key)}, is {now.get(key)})"
        for key in sorted((before.keys() | now.keys()) - allowed)
        if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    if changed:
        raise InputError(
            f"resume=true, but the config differs from that of {path}: {', '.join(changed)}; set it back, or start a "
            "new run without resume=true"
        )
    return checkpoint, [*(f"passed over: {text}" for text in passed_over), f"going on from {path}"]


def not_bit_identical(
    checkpoint: Checkpoint, now: dict[str, Any], batches: EpochBatches, process: Process
) -> list[str]:
    """For the log: what keeps a resumed run from giving the very bits of one that was never stopped."""
    before = checkpoint.config["runtime"] | checkpoint.choices
    changed = [f"runtime.{key} {now[key]} (was {before.get(key)})" for key in ROUNDING if before.get(key) != now[key]]
    if process.world_size != checkpoint.processes:
        changed.insert(0, f"{process.world_size} process(es) (was {checkpoint.processes})")
    lines = []
    if changed:
        lines.append(
            f"now {', '.join(changed)}: the videos come in the same order, but sums are rounded in another one, and "
            "dropout differs between processes, so that the weights will not be bit-identical to those of a run that "
            "was never stopped"
        )
    if batches.step_videos != checkpoint.step_videos:
        lines.append(
            f"now {batches.step_videos} videos a step (was {checkpoint.step_videos}): another training from here on"
        )
    return lines


def describe_position(position: Position, steps: int) -> str:
    text = f"after epoch {position.epoch} (step {position.step})"
    return text + (f", {position.videos} videos into the next one" if position.videos else "")


def read_quarantine(run_folder: Path, clips: TrainingClips) -> dict[int, BadVideo]:
    """index -> what stands for it, from the run's quarantine.txt: one sample id a line, a tab, the cause.

    Raises InputError for an id that the training split does not have.
    """
    listing = run_folder / QUARANTINE
    if not listing.exists():
        return {}
    index_of = {clips.manifest.sample_id(index): index for index in range(len(clips.manifest))}
    found = {}
    for line in listing.read_text(encoding="utf-8").splitlines():
        name, _, cause = line.partition("\t")
        if name not in index_of:
            raise InputError(f"{listing}: {name!r} is no video of the training split; remove the line")
        index = index_of[name]
        path = str(clips.manifest.path(index))
        found[index] = BadVideo(index, path, cause or "listed in the quarantine", lost=True)
    return found
