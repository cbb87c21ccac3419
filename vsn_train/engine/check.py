"""vsn-train check=true: describe batches, measure loader and network, and name the bottleneck."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from torch import Tensor

from vsn_train.analysis.strip import literal_text, shown_name
from vsn_train.atomic import atomic_path
from vsn_train.data.loader import IGNORED, Batch, EvalVideo
from vsn_train.data.workers import BadVideo, Loader

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend has been chosen


def describe_batch(title: str, batch: Batch, class_names: Sequence[str]) -> list[str]:
    """Shapes, ranges and the histogram of labels."""
    shape = " x ".join(map(str, batch.video.shape))
    labels = batch.label[batch.label != IGNORED].tolist()
    lines = [
        f"{title}: {shape} (B, T, C, H, W) {str(batch.video.dtype).removeprefix('torch.')}, "
        f"values {int(batch.video.min())} to {int(batch.video.max())}, mean {batch.video.float().mean():.1f}",
        f"{title}: labels {_counted(class_names[label] for label in labels)}",
    ]
    return [*lines, *_unreadable(title, batch.bad)]


def describe_videos(title: str, videos: Sequence[EvalVideo | BadVideo], labels: Iterable[str], views: int) -> list[str]:
    """`describe_batch` for a group of evaluated videos. labels: their class names; views: number per video."""
    shapes = [" x ".join(map(str, video.frames.shape)) for video in videos if isinstance(video, EvalVideo)]
    lines = [
        f"{title}: {len(videos)} videos with {views} view(s) each, frames decoded: {_counted(shapes)} (U, C, H, W)",
        f"{title}: labels {_counted(labels)}",
    ]
    return [*lines, *_unreadable(title, (video for video in videos if isinstance(video, BadVideo)))]


def _counted(values: Iterable[str]) -> str:
    """Each value with its number of occurrences, most frequent first; at most 10 values."""
    counts = Counter(values).most_common()
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:10])
    return shown + (f", and {len(counts) - 10} more" if len(counts) > 10 else "")


def _unreadable(title: str, videos: Iterable[BadVideo]) -> list[str]:
    return [f"{title}: unreadable {video.path}: {video.cause}" for video in videos]


def loader_rate(loader: Loader[Batch], batches: int) -> float:
    """Clips per second of the loader alone, without the batches that were prefetched at the start."""
    skipped = min(2 * loader.workers, batches // 2)
    videos, started = 0, time.perf_counter()
    for number, batch in enumerate(loader):
        if number == skipped:
            videos, started = 0, time.perf_counter()
        elif number > skipped:
            videos += batch.size
        if number + 1 == batches:
            break
    return videos / max(time.perf_counter() - started, 1e-9)


def model_rate(step: Callable[[], object], videos: int, repeats: int = 3) -> float:
    """Clips per second of training steps alone: median of `repeats` steps after one warm-up step."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return videos / float(np.median(seconds[1:]))


def what_limits(loading: float, training: float, workers: int) -> str:
    """One sentence that compares the two rates, in clips per second of one process."""
    text = f"clips/s: loader alone {loading:.1f}, model alone {training:.1f}; "
    if loading < 0.9 * training:
        return text + (
            f"the loader is the bottleneck: raise data.workers (now {workers}), or make files that decode faster "
            "(vsn-tools prepare)"
        )
    if training < 0.9 * loading:
        return text + "the model is the bottleneck"
    return text + "loader and model are about equally fast"


def save_contact_sheet(path: Path, video: Tensor, titles: Sequence[str], clips: int = 8) -> None:
    """A PNG of augmented clips: one row per clip, its frames from left to right, its label above.

    video: uint8 (B, T, C, H, W). For flow it shows the first field: x in red, y in green, no motion as grey.
    """
    video = video[:clips].permute(0, 1, 3, 4, 2)
    if video.shape[-1] != 3:
        video = video[..., :3].clone()
        video[..., 2] = 128
    rows, columns, height, width = video.shape[:4]
    scale = 1.4 if rows * columns <= 64 else 1.0
    with literal_text():
        figure, axes = plt.subplots(
            rows, columns, figsize=(scale * columns, (scale * height / width + 0.25) * rows), squeeze=False
        )
        for row in range(rows):
            for column in range(columns):
                axes[row, column].imshow(video[row, column].numpy())
                axes[row, column].axis("off")
            axes[row, 0].set_title(shown_name(titles[row]), fontsize=8, loc="left")
        figure.tight_layout(pad=0.3)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as drawn:
            figure.savefig(drawn, dpi=110, format="png")
        plt.close(figure)
