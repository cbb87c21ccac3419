"""What a training takes in GPUs, loader cores, disk and days, from measured rates.

Plain arithmetic, so that every figure can be followed by hand. What was measured is in MEASURED, with the machine; how
fast a GPU trains is the caller's to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vsn_train.analysis.tables import markdown_table
from vsn_train.errors import InputError

DAY = 86_400  # seconds
FLOP_PER_MAC = 2
# In memory, of a list with Kinetics-400's names: path, id, label, number of frames, and a place in the epoch's order.
BYTES_A_VIDEO = 40 + 28 + 8 + 4 + 8
PASSES = 3  # a backward pass computes two gradients for each product of the forward pass: of its inputs and its weights


@dataclass(frozen=True)
class VideoSet:
    """A data set and its usual training and test. megabytes, frames: of one video, mean. views: of a test video."""

    name: str
    train_videos: int
    val_videos: int
    megabytes: float
    frames: float
    epochs: int = 50
    views: int = 1

    def times(self, factor: int) -> VideoSet:
        """As many times the videos, of the same kind."""
        return replace(
            self,
            name=f"{self.name}x{factor}",
            train_videos=factor * self.train_videos,
            val_videos=factor * self.val_videos,
        )


@dataclass(frozen=True)
class ReadingRates:
    """What one CPU core does a second, and how many times the space of the files their fast-seek copies take."""

    clips: float  # training clips, from the files as they are
    copied_clips: float  # training clips, from fast-seek copies
    test_videos: float  # all views of a test video, from the files as they are
    copies_made: float  # videos
    growth: float


@dataclass(frozen=True)
class Need:
    """gpu_days: of training alone, whatever the number of GPUs. cores: that keep all GPUs supplied, from files and from
    copies. reading_*: from disk by all GPUs' loaders, at most (whole files) and from copies (the wanted frames alone).
    manifest_gb: that each process holds of the training videos' list."""

    clips_millions: float
    gpu_days: float
    days: float
    cores_files: int
    cores_copies: int
    reading_files_mb_s: float
    reading_copies_mb_s: float
    disk_files_gb: float
    disk_copies_gb: float
    copying_core_days: float
    test_gpu_hours: float
    test_core_hours: float
    manifest_gb: float


@dataclass(frozen=True)
class Published:
    """What somebody published of a training. clips_per_s: of one GPU."""

    what: str
    clips_per_s: float


def clips_per_gpu(macs: float, tflops: float) -> float:
    """Training clips a second of a GPU that sustains so many TFLOP/s. macs: of one clip's forward pass."""
    return tflops * 1e12 / (PASSES * FLOP_PER_MAC * macs)


def need(videos: VideoSet, rates: ReadingRates, gpu_clips_s: float, gpus: int, share: float, num_frames: int) -> Need:
    """share: of the GPUs' summed speed that several of them reach together, 0 to 1; one GPU has all of its own.

    A test is counted as one forward pass for each view, a third of a training clip's arithmetic.
    """
    clips = videos.train_videos * videos.epochs
    all_gpus_s = gpus * gpu_clips_s * (share if gpus > 1 else 1.0)
    all_videos = videos.train_videos + videos.val_videos
    files_gb = all_videos * videos.megabytes / 1000
    frame_mb = videos.megabytes * rates.growth / videos.frames
    return Need(
        clips_millions=clips / 1e6,
        gpu_days=clips / gpu_clips_s / DAY,
        days=clips / all_gpus_s / DAY,
        cores_files=math.ceil(all_gpus_s / rates.clips),
        cores_copies=math.ceil(all_gpus_s / rates.copied_clips),
        reading_files_mb_s=all_gpus_s * videos.megabytes,
        reading_copies_mb_s=all_gpus_s * num_frames * frame_mb,
        disk_files_gb=files_gb,
        disk_copies_gb=files_gb * rates.growth,
        copying_core_days=all_videos / rates.copies_made / DAY,
        test_gpu_hours=videos.val_videos * videos.views / (PASSES * gpu_clips_s) / 3600,
        test_core_hours=videos.val_videos / rates.test_videos / 3600,
        manifest_gb=videos.train_videos * BYTES_A_VIDEO / 1e9,
    )


TITLES = {
    "clips_millions": "clips trained, millions",
    "gpu_days": "GPU days of training",
    "days": "days on these GPUs",
    "cores_files": "loader cores, files as they are",
    "cores_copies": "loader cores, fast-seek copies",
    "reading_files_mb_s": "read from disk, MB/s, files (at most)",
    "reading_copies_mb_s": "read from disk, MB/s, copies",
    "disk_files_gb": "disk, GB, files",
    "disk_copies_gb": "disk, GB, copies",
    "copying_core_days": "making the copies, core days",
    "test_gpu_hours": "one test, GPU hours",
    "test_core_hours": "one test, core hours of reading (files)",
    "manifest_gb": "list of videos, GB in each process",
}


def need_table(columns: Sequence[tuple[VideoSet, int, float, Need]]) -> str:
    """Markdown: a column for each data set and number of GPUs. columns: the set, GPUs, clips/s of one GPU, the need."""
    rows = [
        ["training videos", *(f"{videos.train_videos:,}" for videos, *_ in columns)],
        ["epochs", *(str(videos.epochs) for videos, *_ in columns)],
        ["views of a test video", *(str(videos.views) for videos, *_ in columns)],
        ["GPUs (chosen)", *(f"{gpus:,}" for _, gpus, *_ in columns)],
        ["training clips/s of a GPU", *(_figure(rate) for _, _, rate, _ in columns)],
    ]
    for field in fields(Need):
        rows.append([TITLES[field.name], *(_figure(getattr(found, field.name)) for *_, found in columns)])
    return markdown_table(["", *(videos.name for videos, *_ in columns)], rows)


def published_table(published: Sequence[Published], assumed: float) -> str:
    """Markdown: published training clips/s of one GPU, and the assumed ones in units of each."""
    rows = [[each.what, f"{each.clips_per_s:.0f}", f"{assumed / each.clips_per_s:.2f}"] for each in published]
    return markdown_table(["published, ResNet-50", "clips/s of a GPU", f"{assumed:.0f} clips/s, times"], rows)


def _figure(value: float) -> str:
    """Three digits, which is more than the assumptions bear; whole numbers above that."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def check_positive(**values: float | None) -> None:
    """Raises InputError for a value that is given and not above 0, by its option's name."""
    for key, value in values.items():
        if value is not None and not value > 0:
            raise InputError(f"--{key.replace('_', '-')} {value}: expected a number above 0")
