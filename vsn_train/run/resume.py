"""The checkpoint that a run resumes from, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsn_train.data.loader import EpochBatches, TrainingClips
from vsn_train.data.manifest import Manifest
from vsn_train.data.workers import BadVideo
from vsn_train.engine.checkpoint import newest_checkpoint
from vsn_train.engine.distributed import Process
from vsn_train.engine.log import QUARANTINE, quarantine_name
from vsn_train.engine.state import Checkpoint, Position
from vsn_train.errors import InputError
from vsn_train.run.record import flatten
from vsn_train.run.same_data import check_same_classes, differing_videos

# Keys that a resumed run may change.
FREE_ON_RESUME = (
    "name", "resume", "check", "runtime.", "checkpoints.", "data.workers", "data.decoder", "data.timeout",
    "data.max_bad_share", "schedule.epochs", "schedule.patience", "dataset.allow_overlap",
)  # fmt: skip
# Except this one: the best validations of a checkpoint would be ranked by two different metrics.
BOUND = {"checkpoints.best_by"}
# These may change while the videos per step stay the same.
DIVISION = {"data.batch_size", "optimizer.accumulate"}
# These may change while the videos stay the same.
PLACE = {"dataset.root", "dataset.annotations"}
# These may change with resume_other_videos=true.
LISTS = {"dataset.train", "dataset.val", "dataset.max_missing_share"}
# Keys that older checkpoints lack. The initialization of the network no longer matters, and the classes are compared
# directly.
ADDED_LATER = {"backbone.temporal_start", "backbone.outer_taps", "dataset.labels", "dataset.flips"}
# Keys that older checkpoints lack, with the values that such a run used.
FORMERLY = {
    "data.balance": "none", "optimizer.class_weights": None, "checkpoints.best_by": "top1", "dataset.val_share": 0.0,
    "dataset.seed": 0,
}  # fmt: skip
# Keys of runtime that change how sums are rounded.
ROUNDING = ("device", "precision", "channels_last", "compile", "tf32", "fused_optimizer", "sync_bn", "threads")


def find_checkpoint(
    resume: bool | str,
    folder: Path,
    given: dict[str, Any],
    step_videos: int,
    manifests: Sequence[Manifest],
    other_videos: bool = False,
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to resume from, if any, and lines for the log.

    resume: True, False, or "auto": only if there is a checkpoint. manifests: of the training and the validation split.
    other_videos: accept added and removed videos. Raises InputError if the folder holds a run and resume is False, and
    if config, videos or classes differ from those of the run.
    """
    if resume == "auto":
        resume = any(folder.glob("*.pt"))
    if not resume:
        if (folder / "last.pt").exists():
            raise InputError(
                f"{folder.parent} already holds a run; continue it (resume=true) or choose another hydra.run.dir"
            )
        return None, []
    path, checkpoint, passed_over = newest_checkpoint(folder)
    if manifests:
        check_same_classes(checkpoint, path, manifests[0])
    differing = differing_videos(checkpoint, manifests, folder.parent)
    before, now = FORMERLY | flatten(checkpoint.config), flatten(given)
    for key in FORMERLY.keys() - now.keys():
        del before[key]
    if not now.get("dataset.val_share"):
        before["dataset.seed"] = now.get("dataset.seed")  # draws nothing
    allowed = ADDED_LATER - before.keys()
    if checkpoint.step_videos == step_videos:
        allowed |= DIVISION
    if checkpoint.manifests == [each.content_hash() for each in manifests] or other_videos:
        allowed |= PLACE
    if other_videos:
        allowed |= LISTS
    changed = [
        f"{key} (was {before.get(key)}, is {now.get(key)})"
        for key in sorted((before.keys() | now.keys()) - allowed)
        if before.get(key) != now.get(key) and (key in BOUND or not key.startswith(FREE_ON_RESUME))
    ]
    if differing and not other_videos:
        raise InputError(
            f"cannot resume from {path}: the videos have changed: {', '.join([*differing, *changed])}; restore them, "
            "or resume with the current videos: resume_other_videos=true"
        )
    if changed:
        raise InputError(
            f"resume=true, but the config differs from that of {path}: {', '.join(changed)}; restore these values, or "
            "start a new run without resume=true"
        )
    notes = [f"skipped checkpoint {text}" for text in passed_over]
    notes += [
        f"now {line}: results will differ from an uninterrupted run (resume_other_videos=true)" for line in differing
    ]
    if manifests and checkpoint.flips_allowed != manifests[0].flips_allowed:
        notes.append(f"flips were {'allowed' if checkpoint.flips_allowed else 'off'} when the run started")
    return checkpoint, [*notes, f"resuming from {path}"]


def not_bit_identical(
    checkpoint: Checkpoint, now: dict[str, Any], batches: EpochBatches, process: Process
) -> list[str]:
    """For the log: why a resumed run will not be bit-identical to an uninterrupted one."""
    before = checkpoint.config.get("runtime", {}) | checkpoint.choices
    changed = [f"runtime.{key} {now[key]} (was {before.get(key)})" for key in ROUNDING if before.get(key) != now[key]]
    if process.world_size != checkpoint.processes:
        changed.insert(0, f"processes {process.world_size} (was {checkpoint.processes})")
    lines = []
    if changed:
        lines.append(
            f"now {', '.join(changed)}: the order of the videos is the same, but sums are rounded differently and "
            "dropout differs between ranks: the weights will not be bit-identical to those of an uninterrupted run"
        )
    if batches.step_videos != checkpoint.step_videos:
        lines.append(
            f"the effective batch size changed from {checkpoint.step_videos} to {batches.step_videos} videos: results "
            "will differ from an uninterrupted run"
        )
    return lines


def describe_position(position: Position, steps: int) -> str:
    text = f"after epoch {position.epoch} (step {position.step})"
    return text + (f", {position.videos} videos into the next one" if position.videos else "")


def read_quarantine(run_folder: Path, clips: TrainingClips, other_videos: bool = False) -> dict[int, BadVideo]:
    """Read the run's quarantine.txt: index -> BadVideo. Each line has a sample id, a tab and the cause.

    An id with unprintable characters is written as JSON, see `quarantine_name`. other_videos: ignore ids that are not
    in the training split; otherwise they raise InputError.
    """
    listing = run_folder / QUARANTINE
    if not listing.exists():
        return {}
    index_of: dict[str, int] = {}
    for index in range(len(clips.manifest)):
        name = clips.manifest.sample_id(index)
        index_of |= {name: index, quarantine_name(name): index}
    found = {}
    try:
        text = listing.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{listing}: not a text file ({error}); remove it, or the line") from error
    for line in filter(None, text.split("\n")):  # not splitlines(): names may contain its other line separators
        name, _, cause = line.partition("\t")
        if name not in index_of:
            if other_videos:
                continue
            raise InputError(f"{listing}: {name!r} is not a video of the training split; remove the line")
        index = index_of[name]
        path = str(clips.manifest.path(index))
        found[index] = BadVideo(index, path, cause or "listed in the quarantine", lost=True)
    return found
