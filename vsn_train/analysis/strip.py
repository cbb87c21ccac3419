"""The frames that a network saw of a video, as images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vsn_train.atomic import atomic_path
from vsn_train.data.loader import EvalVideo, check_shape
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import resize_short_side
from vsn_train.data.video import VideoError, open_video

PER_ROW = 8


def draw_prediction(
    figure: Path, video_path: Path, video: EvalVideo, best: Sequence[tuple[str, int, float]], protocol: str
) -> None:
    """Write a PNG of the middle clip's frames with their times, and of the best classes (name, index, share)."""
    # The first uniform clip has the middles of the segments; dense clips are in the order of time.
    first_fields = video.clips if video.clips.ndim == 2 else video.clips[..., 0]
    in_time = np.argsort(first_fields.mean(axis=1), kind="stable")
    clip = first_fields[in_time[len(in_time) // 2]]
    numbers = video.numbers[clip]
    captions = [f"frame {number}" for number in numbers]
    if video.times is not None:
        captions = [f"{time:.2f} s" for time in video.times[clip]]
    classes = [(name, share) for name, _, share in best]
    clips = "" if len(video.clips) == 1 else f", middle one of {len(video.clips)} clips"
    draw_strip(figure, video.frames[clip], captions, classes, f"{video_path.name}   {protocol}{clips}")


def draw_strip(
    path: Path,
    frames: Tensor,
    captions: Sequence[str],
    classes: Sequence[tuple[str, float]],
    title: str,
) -> None:
    """Write a PNG: the frames, uint8 (T, 3 or 2, H, W), with captions; below them the classes' probabilities as bars.

    classes: (name, share from 0 to 1), best first.
    """
    with literal_text():
        _draw_strip(path, frames, captions, [(shown_name(name), share) for name, share in classes], shown_name(title))


def literal_text() -> AbstractContextManager[None]:
    """Make matplotlib draw a $ in a name as a $. Wrap both the making and the saving of a figure."""
    return matplotlib.rc_context({"text.parse_math": False})


def shown_name(name: str) -> str:
    """The name of a file or class for a figure: unprintable characters replaced, shortened to one line."""
    text = name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= 120 else f"{text[:80]}…{text[-39:]}"


def _draw_strip(
    path: Path, frames: Tensor, captions: Sequence[str], classes: Sequence[tuple[str, float]], title: str
) -> None:
    count, _, height, width = frames.shape
    columns, rows = min(count, PER_ROW), -(-count // PER_ROW)
    inches = 1.6 if width >= height else 1.6 * width / height
    row_inches = inches * height / width + 0.22
    heights = [rows * row_inches + 0.35, 0.3 * len(classes) + 0.15]
    figure = Figure(
        figsize=(max(columns * inches, 6.0), sum(heights)), dpi=130, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    top, bottom = cast("Any", figure.subfigures(2, 1, height_ratios=heights))
    top.suptitle(title, fontsize=9, x=0.01, ha="left")
    axes = top.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, frame, caption in zip(axes, frames, captions, strict=False):
        axis.imshow(image_of(frame).permute(1, 2, 0).numpy())
        axis.set_title(caption, fontsize=7, pad=2)
    bars = bottom.subplots()
    names, shares = [name for name, _ in classes], np.array([share for _, share in classes])
    bars.barh(range(len(classes)), 100 * shares, color=["#0072B2"] + ["#9CC3DD"] * (len(classes) - 1), height=0.7)
    for place, share in enumerate(shares):
        bars.text(100 * share + 1, place, f"{100 * share:.1f} %", va="center", fontsize=8)
    bars.set(xlim=(0, 112), yticks=range(len(classes)), xticks=[])
    bars.set_yticklabels(names, fontsize=8)
    bars.invert_yaxis()
    bars.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        bars.spines[side].set_visible(False)
    with atomic_path(path) as written:
        figure.savefig(written, format="png")


def jpeg_frames(path: Path, count: int, short_side: int, decoder: str = "auto", modality: str = "rgb") -> list[bytes]:
    """The middle frames of `count` segments of a video as small JPEG files; none if it cannot be read."""
    try:
        with open_video(path, decoder, modality) as video:
            check_shape(video, short_side)
            frames = resize_short_side(video.read(sample_indices(video.num_frames, count)[0]), short_side)
    except VideoError:
        return []
    return [as_jpeg(image_of(frame)) for frame in frames]


def as_jpeg(image: Tensor) -> bytes:
    """uint8 (3, H, W) as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=80)
    return file.getvalue()


def image_of(frame: Tensor) -> Tensor:
    """An image (3, H, W) of a frame; optical flow (2, H, W): x in red, y in green, no motion as grey."""
    return frame if len(frame) == 3 else torch.cat([frame, torch.full_like(frame[:1], 128)])
