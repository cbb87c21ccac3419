"""Compute the GPUs, loader cores, disk space and days of a training from measured rates.

Plain arithmetic, so that every figure can be checked by hand. The caller passes the measured reading rates and the
training speed of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vsn_train.analysis.tables import markdown_table
from vsn_train.errors import InputError

DAY = 86_400  # seconds
FLOP_PER_MAC = 2
# In memory, for names as in Kinetics-400: path, id, label, number of frames, and position in the epoch's order.
BYTES_A_VIDEO = 40 + 28 + 8 + 4 + 8
PASSES = 3  # the backward pass has two products for each one of the forward pass: gradients of inputs and of weights


@dataclass(frozen=True)
class VideoSet:
    """A data set with its usual training and test. megabytes, frames: mean per video. views: per test video."""

    name: str
    train_videos: int
    val_videos: int
    megabytes: float
    frames: float
    epochs: int = 50
    views: int = 1

    def times(self, factor: int) -> VideoSet:
        """A data set with `factor` times as many videos of the same kind."""
        return replace(
            self,
            name=f"{self.name}x{factor}",
            train_videos=factor * self.train_videos,
            val_videos=factor * self.val_videos,
        )


@dataclass(frozen=True)
class ReadingRates:
    """Rates of one CPU core per second, and the size of fast-seek copies relative to the files."""

    clips: float  # training clips, from the original files
    copied_clips: float  # training clips, from fast-seek copies
    test_videos: float  # all views of a test video, from the original files
    copies_made: float  # videos
    growth: float


@dataclass(frozen=True)
class Need:
    """gpu_days: of training alone, for any number of GPUs. cores_*: needed to feed all GPUs, from files or from copies.
    reading_*: disk reads of all loaders: upper bound for files (whole files), and for copies (only the wanted frames).
    manifest_gb: size of the list of training videos in each process."""

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
    """A published training speed. clips_per_s: of one GPU."""

    what: str
    clips_per_s: float


def clips_per_gpu(macs: float, tflops: float) -> float:
    """Training clips per second of a GPU that sustains this many TFLOP/s. macs: of one clip's forward pass."""
    return tflops * 1e12 / (PASSES * FLOP_PER_MAC * macs)


def need(videos: VideoSet, rates: ReadingRates, gpu_clips_s: float, gpus: int, share: float, num_frames: int) -> Need:
    """Compute the needs. share: scaling efficiency of several GPUs, 0 to 1, relative to their summed speed.

    An evaluation is counted as one forward pass per view, a third of the arithmetic of a training clip.
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
    """Markdown: one column per data set and number of GPUs. columns: the set, GPUs, clips/s of one GPU, the needs."""
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
    """Markdown: published training clips/s of one GPU, and the assumed ones as ratios to each."""
    rows = [[each.what, f"{each.clips_per_s:.0f}", f"{assumed / each.clips_per_s:.2f}"] for each in published]
    return markdown_table(["published, ResNet-50", "clips/s of a GPU", f"{assumed:.0f} clips/s, times"], rows)


def _figure(value: float) -> str:
    """Three significant digits, more than the assumptions justify; whole numbers from 100."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def check_positive(**values: float | None) -> None:
    """Raise InputError, with the option's name, for a value that is given and not above 0."""
    for key, value in values.items():
        if value is not None and not value > 0:
            raise InputError(f"--{key.replace('_', '-')} {value}: expected a number above 0")
