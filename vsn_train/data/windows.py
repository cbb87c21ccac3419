"""Windows over a long video: the clips of each window, read in one pass and in bounded memory.

A window is a part of the video with a length in seconds. Its clips are sampled as from a separate video, so a window as
long as the video gives the same clips as the video. Only resized frames that a later window needs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vsn_train.data.loader import EvalVideo, check_shape, frames_of_clips
from vsn_train.data.protocol import Protocol
from vsn_train.data.times import TOLERANCE, even_times, frames_between, windows_between
from vsn_train.data.transforms import resize_short_side
from vsn_train.data.video import Video, open_video
from vsn_train.errors import InputError, VideoError


@dataclass(frozen=True)
class Window:
    """start, end: seconds. video: the window's frames and clips."""

    start: float
    end: float
    video: EvalVideo


@dataclass(frozen=True)
class Windows:
    """Iterates over the windows of one video, or of a part of it.

    bounds: float64 (N, 2), start and end of each window in seconds. start, end: of the part, in seconds. clips: frame
    numbers of each window, int64 (clips, T), or (clips, T, 5) for optical flow. times: float64, of all frames of the
    video, in seconds. read: increasing frame numbers -> frames one by one, uint8 (C, H, W). short_side: pixels that the
    shorter side is resized to.
    """

    bounds: np.ndarray
    start: float
    end: float
    clips: list[np.ndarray]
    times: np.ndarray
    read: Callable[[list[int]], Iterator[Tensor]]
    short_side: int

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[Window]:
        numbers = [np.unique(each) for each in self.clips]
        # If frames are spaced unevenly in time, a later window may start with an earlier frame.
        first_of_later = np.minimum.accumulate([each[0] for each in numbers[::-1]])[::-1]
        wanted = np.unique(np.concatenate(numbers)).tolist()
        decoded = zip(wanted, self.read(wanted), strict=True)
        kept: dict[int, Tensor] = {}
        for index, (start, end) in enumerate(self.bounds.tolist()):
            while not kept or max(kept) < numbers[index][-1]:
                number, frame = next(decoded)
                kept[number] = resize_short_side(frame[None], self.short_side)[0]
            frames = torch.stack([kept[number] for number in numbers[index].tolist()])
            positions = np.searchsorted(numbers[index], self.clips[index])
            yield Window(start, end, EvalVideo(index, frames, positions, numbers[index], self.times[numbers[index]]))
            first = first_of_later[min(index + 1, len(self) - 1)]
            kept = {number: frame for number, frame in kept.items() if number >= first}


@contextmanager
def open_windows(
    path: str | Path,
    num_frames: int,
    protocol: Protocol,
    window: float,
    stride: float,
    modality: str = "rgb",
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[Windows]:
    """Open the windows of a video file or a folder of frames, placed by its time stamps.

    num_frames: T. window, stride, start, end: seconds; end None: to the end of the video. Files are decoded once, with
    the default reader. Raises VideoError, also if the video is shorter than the window.
    """
    with open_video(path, modality=modality) as video:
        check_shape(video, protocol.short_side)

        def read(numbers: list[int]) -> Iterator[Tensor]:
            if isinstance(video, Video):
                return (torch.from_numpy(image).permute(2, 0, 1) for image in video.frames(numbers))
            return (video.read([number])[0] for number in numbers)  # each is a file, or a packet, of its own

        times = video.times
        if times is None:
            raise VideoError(str(path), "its frame rate is unknown, so windows cannot be placed")
        part = frames_between(str(path), times, video.fps, start, end)
        try:
            windows = _plan(times, video.fps, part, start, end, num_frames, protocol, window, stride, modality, read)
        except InputError as error:
            raise VideoError(str(path), str(error)) from error
        yield windows


def windows_of_frames(
    frames: Tensor, fps: float, num_frames: int, protocol: Protocol, window: float, stride: float
) -> Windows:
    """The windows of frames in memory, uint8 (N, C, H, W). fps: frames per second."""
    times = even_times(len(frames), fps)
    assert times is not None

    def read(numbers: list[int]) -> Iterator[Tensor]:
        return (frames[number] for number in numbers)

    return _plan(times, fps, (0, len(times)), 0.0, None, num_frames, protocol, window, stride, "rgb", read)


def _plan(
    times: np.ndarray,
    fps: float,
    part: tuple[int, int],
    start: float,
    end: float | None,
    num_frames: int,
    protocol: Protocol,
    window: float,
    stride: float,
    modality: str,
    read: Callable[[list[int]], Iterator[Tensor]],
) -> Windows:
    """Place the windows and sample their clips. part: the range (first, last + 1) of frames."""
    frame = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / fps if fps else 0.0
    last = float(times[-1] + frame)
    end = last if end is None else min(end, last)
    bounds = windows_between(start, end, window, stride, frame)
    edges = np.searchsorted(times, bounds - TOLERANCE).clip(*part)
    clips = []
    for first, stop in edges.tolist():
        # A window between two frames shows the earlier one.
        first = max(part[0], min(first, stop - 1))
        clips.append(frames_of_clips(first, max(stop, first + 1), num_frames, protocol, modality))
    return Windows(bounds, start, end, clips, times, read, protocol.short_side)
