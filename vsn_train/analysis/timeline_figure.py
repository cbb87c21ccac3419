"""A figure of a long video's classes over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vsn_train.analysis.strip import image_of, literal_text, shown_name
from vsn_train.analysis.timeline import Segment
from vsn_train.atomic import atomic_path

MOST_CLASSES = 12  # rows of the figure
THUMBNAILS = 8


def draw_timeline(
    path: Path,
    bounds: np.ndarray,
    shares: np.ndarray,
    segments: Sequence[Segment],
    names: Sequence[str],
    thumbnails: Sequence[tuple[float, Tensor]],
    title: str,
) -> None:
    """Write a PNG: frames along the time axis and, below them, the probability of each class that leads at some time.

    bounds: float64 (N, 2), start and end of each window in seconds. shares: float (N, K). thumbnails: (seconds, uint8
    (3 or 2, H, W)). Of many classes, those that lead longest are drawn.
    """
    names = [shown_name(name) for name in names]
    with literal_text():
        rows = classes_drawn(segments)
        start, end = segments[0].start, segments[-1].end
        left_out = len({each.index for each in segments}) - len(rows)
        heights = [1.15, 0.3 * len(rows) + 0.2]
        figure = Figure(figsize=(10, sum(heights) + 1.0), dpi=130, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(shown_name(title), fontsize=9, x=0.01, ha="left")
        above, below = figure.subplots(2, 1, height_ratios=heights, sharex=True)
        _draw_thumbnails(above, thumbnails)
        middles = bounds.mean(axis=1)
        edges = np.concatenate([[start], (middles[:-1] + middles[1:]) / 2, [end]])
        mesh = below.pcolormesh(edges, np.arange(len(rows) + 1), shares[:, rows].T, cmap="Blues", vmin=0, vmax=1)
        mesh.set_rasterized(True)
        for each in segments:
            if each.index in rows:
                place = rows.index(each.index)
                below.plot(
                    [each.start, each.end], [place + 0.93] * 2, color="#D55E00", linewidth=2, solid_capstyle="butt"
                )
        below.set(xlim=(start, end), ylim=(len(rows), 0), yticks=np.arange(len(rows)) + 0.5)
        below.set_yticklabels([names[index] for index in rows], fontsize=8)
        more = f"; {left_out} more classes lead for a shorter time" if left_out else ""
        below.set_xlabel(f"seconds; the line marks the leading class{more}", fontsize=8)
        below.tick_params(axis="x", labelsize=8)
        below.tick_params(axis="y", length=0)
        bar = figure.colorbar(mesh, ax=below, fraction=0.03, pad=0.01, aspect=12)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("probability", fontsize=7)
        with atomic_path(path) as written:
            figure.savefig(written, format="png")


def classes_drawn(segments: Sequence[Segment]) -> list[int]:
    """The classes that lead longest, at most MOST_CLASSES, in the order of their first appearance."""
    seconds: dict[int, float] = {}
    for each in segments:
        seconds[each.index] = seconds.get(each.index, 0.0) + each.end - each.start
    longest = sorted(seconds, key=lambda index: -seconds[index])[:MOST_CLASSES]
    return [index for index in seconds if index in longest]


def _draw_thumbnails(axis: Any, thumbnails: Sequence[tuple[float, Tensor]]) -> None:
    """Draw the frames at equal distances from left to right, each titled with its time."""
    axis.axis("off")
    width = 1 / max(len(thumbnails), 1)
    for place, (seconds, frame) in enumerate(thumbnails):
        inset = axis.inset_axes((place * width, 0, width, 0.88))
        inset.imshow(image_of(frame).permute(1, 2, 0).numpy())
        inset.set_title(f"{seconds:.1f} s", fontsize=7, pad=2)
        inset.axis("off")
