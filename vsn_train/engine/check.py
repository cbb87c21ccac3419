"""vsn-train check=true: what goes into the network, how fast, and what limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from torch import Tensor

from vsn_train.data.loader import IGNORED, Batch
from vsn_train.data.workers import Loader

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend has been chosen


def describe_batch(title: str, batch: Batch, class_names: Sequence[str]) -> list[str]:
    """Shapes, ranges and the histogram of labels."""
    shape = " x ".join(map(str, batch.video.shape))
    labels = batch.label[batch.label != IGNORED].numpy()
    counts = sorted(zip(*np.unique(labels, return_counts=True), strict=True), key=lambda pair: -pair[1])
    histogram = ", ".join(f"{class_names[label]} {count}" for label, count in counts[:10])
    more = f", and {len(counts) - 10} more classes" if len(counts) > 10 else ""
    lines = [
        f"{title}: {shape} (B, T, C, H, W) {str(batch.video.dtype).removeprefix('torch.')}, "
        f"values {int(batch.video.min())} to {int(batch.video.max())}, mean {batch.video.float().mean():.1f}",
        f"{title}: labels {histogram}{more}",
    ]
    return lines + [f"{title}: unreadable {bad.path}: {bad.cause}" for bad in batch.bad]


def loader_rate(loader: Loader[Batch], batches: int) -> float:
    """Clips a second that the loader gives when nobody else works; what is in flight at the start is not counted."""
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
    """Clips a second of training steps alone: median of `repeats` after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return videos / float(np.median(seconds[1:]))


def what_limits(loading: float, training: float, workers: int) -> str:
    """One sentence on the two rates, in clips a second of one process."""
    text = f"clips a second: loader alone {loading:.1f}, model alone {training:.1f}; "
    if loading < 0.9 * training:
        return text + f"the loader limits: more data.workers (now {workers}), or files that decode faster"
    if training < 0.9 * loading:
        return text + "the model limits"
    return text + "loader and model are about as fast"


def save_contact_sheet(path: Path, video: Tensor, titles: Sequence[str], clips: int = 8) -> None:
    """A PNG of what the network sees: one row a clip, its frames from left to right, its label above.

    video: uint8 (B, T, C, H, W). Of flow the first field is shown: x in red, y in green, no motion as grey.
    """
    video = video[:clips].permute(0, 1, 3, 4, 2)
    if video.shape[-1] != 3:
        video = video[..., :3].clone()
        video[..., 2] = 128
    rows, columns, height, width = video.shape[:4]
    scale = 1.4 if rows * columns <= 64 else 1.0
    figure, axes = plt.subplots(
        rows, columns, figsize=(scale * columns, (scale * height / width + 0.25) * rows), squeeze=False
    )
    for row in range(rows):
        for column in range(columns):
            axes[row, column].imshow(video[row, column].numpy())
            axes[row, column].axis("off")
        axes[row, 0].set_title(titles[row], fontsize=8, loc="left")
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
