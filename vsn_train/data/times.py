"""Time stamps of frames, in seconds after the first one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vsn_train.errors import InputError, VideoError

# Next to the images of a folder that was made from a video: the seconds of each frame, one line per frame.
FILE = "times.txt"

TOLERANCE = 1e-6  # seconds: 0.1 s is meant to find the frame at 3003 / 30030 s


def even_times(num_frames: int, fps: float) -> np.ndarray | None:
    """float64 (num_frames,): i / fps. None if fps is 0 (unknown)."""
    return np.arange(num_frames) / fps if fps else None


def rising_times(stamps: Sequence[int | None], unit: float) -> np.ndarray | None:
    """Convert time stamps in units of `unit` seconds to float64 (frames,) seconds after the first. None if one is
    missing or they do not increase."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps) or not known:
        return None
    times = (np.array(known, np.float64) - known[0]) * unit
    return times if (np.diff(times) > 0).all() else None


def rate_of(stated: float, stamps: Sequence[int | None], unit: float) -> float:
    """Frames per second: the rate that the file states, unless its time stamps contradict it. stamps: of the frames, in
    units of `unit` seconds.

    Recordings of browsers state no rate, and FFmpeg then reports their clock of 1000 ticks per second.
    """
    first, last = (stamps[0], stamps[-1]) if stamps else (None, None)
    if first is None or last is None or last <= first:
        return stated
    counted = (len(stamps) - 1) / ((last - first) * unit)
    # One frame more or less, or one frame that is shown for long, is no contradiction.
    return stated if 0.8 < stated / counted < 1.25 or (stated and len(stamps) < 4) else counted


def frames_between(path: str, times: np.ndarray | None, fps: float, start: float, end: float | None) -> tuple[int, int]:
    """The range (first, last + 1) of the frames shown from `start` to before `end`, in seconds; end None: to the last
    frame. Raises VideoError if the range is empty or times is None (unknown)."""
    if times is None:
        raise VideoError(path, "its frame rate is unknown, so start and end cannot be used")
    first = int(np.searchsorted(times, start - TOLERANCE))
    stop = len(times) if end is None else int(np.searchsorted(times, end - TOLERANCE))
    if first >= stop:
        length = float(times[-1]) + (1 / fps if fps else 0.0)
        raise VideoError(path, f"it is {length:.2f} s long and has no frame between start and end")
    return first, stop


def check_windows(window: float, stride: float) -> None:
    """Raise InputError for windows that are not above 0 s or that leave parts of a video out. In seconds."""
    for key, value in {"window": window, "stride": stride}.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{key}={value}: expected seconds above 0")
    if stride > window:
        raise InputError(f"stride={stride} is longer than window={window}: the time between windows would be left out")


def windows_between(start: float, end: float, window: float, stride: float, frame: float) -> np.ndarray:
    """Place the windows of a part of a video: float64 (N, 2), start and end of each, in seconds.

    A window starts every `stride` seconds while it fits. If the last one ends before the part does, one more window
    ends with the part. frame: duration of a frame; differences up to half of it are ignored. Raises InputError if the
    part is shorter than the window or the stride shorter than a frame.
    """
    length, slack = end - start, frame / 2
    if length + slack < window:
        raise InputError(f"window={window:g} is longer than the video, or the part of it, of {length:.2f} s; lower it")
    if stride + slack < frame:
        raise InputError(f"stride={stride:g} is shorter than one frame ({frame:.3g} s); raise it")
    offsets = np.arange(int((length - window + slack) / stride) + 1) * stride
    if length - window - offsets[-1] > slack:
        offsets = np.append(offsets, length - window)
    return np.stack([start + offsets, start + offsets + window], axis=1)


def write_times(folder: Path, times: np.ndarray | None) -> None:
    """Write times.txt next to a folder's images; nothing if times is None (unknown)."""
    if times is not None:
        (folder / FILE).write_text("".join(f"{time:.6f}\n" for time in times.tolist()))


def read_times(folder: Path, num_frames: int) -> np.ndarray | None:
    """Read times.txt: float64 (num_frames,); None if there is no file. Raises VideoError for other content."""
    try:
        lines = (folder / FILE).read_text().split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(str(folder), f"{FILE}: {error}") from error
    try:
        times = np.array(lines, np.float64)
    except ValueError:
        times = np.empty(0)
    if len(times) != num_frames or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise VideoError(
            str(folder), f"{FILE} does not hold {num_frames} increasing times in seconds: correct or remove it"
        )
    return times
