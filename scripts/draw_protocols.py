"""Draw the frames and crops of the protocols: docs/drawings/{clips,crops}.png, explained in docs/evaluation.md.

Writes OUTPUT/clips.png and OUTPUT/crops.png, by default to docs/drawings.

    python scripts/draw_protocols.py

The frames come from `sample_indices` and the windows from `crop_windows`, as in an evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window system needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vsn_train.data.sampling import DENSE_WINDOW, sample_indices
from vsn_train.data.transforms import crop_windows

BLUE, ORANGE = "#0072B2", "#E69F00"  # Okabe and Ito: colour-blind safe
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}
T = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/drawings"), help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, draw in (("clips", draw_clips), ("crops", draw_crops)):
        path = arguments.output / f"{name}.png"
        figure = draw()
        figure.savefig(path, dpi=130, facecolor="white")
        plt.close(figure)
        print(f"written: {path}")


def draw_clips() -> plt.Figure:
    """One row per clip: its frames along the video's time."""
    cases = [
        ("center_1clip: the middle frame of each of 8 segments", 120, 1, "uniform"),
        ("center_2clip: that, and the first frame of each segment", 120, 2, "uniform"),
        ("…_10clip: ten windows of 64 frames, every eighth frame", 240, 10, "dense"),
        ("center_2clip of a video of five frames: frames repeat", 5, 2, "uniform"),
    ]
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(10, 8), height_ratios=[1.2, 1.6, 4.2, 1.6], layout="constrained"
    )
    for axis, (title, frames, clips, mode) in zip(axes, cases, strict=True):
        indices = sample_indices(frames, T, clips, mode)
        draw_frames(axis, indices, frames, mode)
        axis.set_title(f"{title} ({frames} frames)", size=10, loc="left")
    axes[-1].set_xlabel("frame")
    return figure


def draw_frames(axis: Axes, indices: np.ndarray, frames: int, mode: str) -> None:
    """Mark the frames of each clip; repeated frames are labelled with their number. indices: (clips, T)."""
    for clip, row in enumerate(indices):
        if mode == "dense":
            axis.barh(clip, min(DENSE_WINDOW, frames), left=row[0], height=0.8, color="#DDDDDD", zorder=1)
        numbers, counts = np.unique(row, return_counts=True)
        axis.scatter(numbers + 0.5, np.full(len(numbers), clip), color=BLUE, marker="s", s=26, zorder=3)
        for number, count in zip(numbers, counts, strict=True):
            if count > 1:
                axis.text(number + 0.5 + 0.012 * frames, clip, f"{count} times", va="center", size=9, bbox=WHITE)
    if mode == "uniform":
        for segment in range(T + 1):
            axis.axvline(segment * frames / T, color="#888888", lw=0.8, zorder=2)
    axis.set(xlim=(0, frames), ylim=(len(indices) - 0.4, -0.6))
    axis.set_yticks(range(len(indices)), [f"clip {clip + 1}" for clip in range(len(indices))], size=9)
    axis.tick_params(axis="y", length=0)


def draw_crops() -> plt.Figure:
    """Each crop's window in a frame of 454 x 256 pixels, one panel per crop; a flipped crop's arrow is reversed."""
    height, width = 256, 454
    rows = [(1, 224), (3, 256), (5, 224), (10, 224)]
    figure, axes = plt.subplots(5, 5, figsize=(10, 6.4), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    line = 0
    for crops, size in rows:
        windows = crop_windows(height, width, crops, size)
        for number, (top, left, flipped) in enumerate(windows):
            axis = axes[line + number // 5, number % 5]
            axis.add_patch(Rectangle((0, 0), width, height, facecolor="#DDDDDD"))
            axis.add_patch(Rectangle((left, top), size, size, facecolor=ORANGE if flipped else BLUE, edgecolor="black"))
            middle, half = left + size / 2, size / 4 * (-1 if flipped else 1)
            axis.annotate(
                "", (middle + half, top + size / 2), (middle - half, top + size / 2),
                arrowprops={"arrowstyle": "->", "lw": 2, "color": "black" if flipped else "white"},
            )  # fmt: skip
            axis.set(xlim=(-4, width + 4), ylim=(height + 4, -4), aspect="equal")
            if number == 0:
                axis.set_title(f"protocol.crops={crops}, crop_size={size}", size=9, loc="left")
        line += -(-len(windows) // 5)
    return figure


if __name__ == "__main__":
    main()
