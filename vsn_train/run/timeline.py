"""vsn-predict window=…: the leading class over the course of a long video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vsn_train import config as schema
from vsn_train.analysis.timeline import leading_segments, segment_table, write_timeline
from vsn_train.analysis.timeline_figure import THUMBNAILS, draw_timeline
from vsn_train.data.windows import Window, Windows, open_windows
from vsn_train.engine.log import Progress
from vsn_train.trained import TrainedModel


def predict_timeline(
    trained: TrainedModel,
    config: schema.Predict,
    path: Path,
    run_folder: Path,
    stem: str,
    protocol: str,
    begin: Callable[[], None],
) -> dict[str, Any]:
    """Score the windows of one video, print the segments in which one class leads, and write <stem>.csv and .png.

    Returns the video's entry of prediction.json. protocol: its name. begin: called before files are written.
    Raises VideoError for a video that cannot be read.
    """
    stride = stride_of(config)
    assert config.window is not None
    assert stride is not None
    names = trained.class_names
    with open_windows(
        path, trained.num_frames, trained.protocol, config.window, stride, trained.modality, config.start, config.end
    ) as windows:
        scored = trained.score_windows(windows)
        rows: list[np.ndarray] = []
        thumbnails: list[tuple[float, Tensor]] = []
        shown = set(np.linspace(0, len(windows) - 1, min(THUMBNAILS, len(windows))).round().astype(int).tolist())
        for window, scores in Progress("windows", True).over(scored, len(windows)):
            rows.append(trained.probabilities(scores))
            if len(rows) - 1 in shown:
                thumbnails.append(middle_frame(window))
    shares = np.stack(rows)
    segments = leading_segments(windows.bounds, shares, windows.start, windows.end)
    begin()
    table, figure = run_folder / f"{stem}.csv", run_folder / f"{stem}.png"
    write_timeline(table, windows.bounds, shares, names)
    title = f"{path.name}   {protocol}, windows of {config.window:g} s, one every {stride:g} s"
    draw_timeline(figure, windows.bounds, shares, segments, names, thumbnails, title)
    print(f"{path}: {describe(windows, config.window, stride)}")
    print(segment_table(segments, names))
    mean = shares.mean(axis=0)
    best = np.argsort(-mean, kind="stable")[: config.top_k]
    return {
        "video": str(path), "timeline": table.name, "picture": figure.name, "windows": len(windows),
        "segments": [asdict(each) | {"name": names[each.index]} for each in segments],
        "classes": [{"name": names[i], "index": int(i), "probability": float(mean[i])} for i in best],
    }  # fmt: skip


def stride_of(config: schema.Predict) -> float | None:
    """Seconds from the start of one window to the next; default half a window; None without windows."""
    if config.window is None or config.live:
        return None
    return config.window / 2 if config.stride is None else config.stride


def describe(windows: Windows, window: float, stride: float) -> str:
    seconds = windows.end - windows.start
    count = f"{len(windows)} windows" if len(windows) > 1 else "1 window"
    return f"{seconds:.2f} s, {count} of {window:g} s, one every {stride:g} s"


def middle_frame(window: Window) -> tuple[float, Tensor]:
    """The frame nearest to the window's middle, with its time in seconds."""
    times = window.video.times
    assert times is not None
    nearest = int(np.abs(times - (window.start + window.end) / 2).argmin())
    return float(times[nearest]), window.video.frames[nearest].clone()
