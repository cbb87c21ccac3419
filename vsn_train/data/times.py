"""Time stamps of frames, in seconds after the first one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vsn_train.errors import InputError, VideoError

# Beside the pictures of a folder that was made of a video: one line a frame, seconds.
FILE = "times.txt"

TOLERANCE = 1e-6  # seconds: 0.1 s is meant to find the frame at 3003 / 30030 s


def even_times(num_frames: int, fps: float) -> np.ndarray | None:
    """float64 (num_frames,): i / fps. None where fps is 0: not known."""
    return np.arange(num_frames) / fps if fps else None


def rising_times(stamps: Sequence[int | None], unit: float) -> np.ndarray | None:
    """float64 (frames,) seconds after the first, of time stamps in units of `unit` seconds; None where one is missing
    or they do not rise from frame to frame."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps) or not known:
        return None
    times = (np.array(known, np.float64) - known[0]) * unit
    return times if (np.diff(times) > 0).all() else None


def rate_of(stated: float, stamps: Sequence[int | None], unit: float) -> float:
    """Frames per second: what a file states, unless its time stamps say something else altogether. stamps: of the
    frames, in units of `unit` seconds.

    What a browser records states no rate, and FFmpeg takes its clock of 1000 ticks a second for one.
    """
    first, last = (stamps[0], stamps[-1]) if stamps else (None, None)
    if first is None or last is None or last <= first:
        return stated
    counted = (len(stamps) - 1) / ((last - first) * unit)
    # One frame more or less, or one that stands for long, is no contradiction.
    return stated if 0.8 < stated / counted < 1.25 or (stated and len(stamps) < 4) else counted


def frames_between(path: str, times: np.ndarray | None, fps: float, start: float, end: float | None) -> tuple[int, int]:
    """First frame and the one past the last of those shown from `start` on and before `end`, in seconds; end None: to
    the last. Raises VideoError where there is none, and where times is None: not known."""
    if times is None:
        raise VideoError(path, "it does not say how many frames a second has, so start and end mean nothing")
    first = int(np.searchsorted(times, start - TOLERANCE))
    stop = len(times) if end is None else int(np.searchsorted(times, end - TOLERANCE))
    if first >= stop:
        length = float(times[-1]) + (1 / fps if fps else 0.0)
        raise VideoError(path, f"it is {length:.2f} s long and has no frame between start and end")
    return first, stop


def check_windows(window: float, stride: float) -> None:
    """Raise InputError for windows, in seconds, that are none or that leave parts of a video out."""
    for key, value in {"window": window, "stride": stride}.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{key}={value}: expected seconds above 0")
    if stride > window:
        raise InputError(f"stride={stride} is longer than window={window}: no window would see what lies between")


def windows_between(start: float, end: float, window: float, stride: float, frame: float) -> np.ndarray:
    """float64 (N, 2): start and end of each window of a part of a video, all in seconds.

    They begin every `stride` seconds for as long as they fit. Where that leaves an end over, one more window ends with
    the part. frame: how long a frame lasts; half of it more or less is no matter. Raises InputError where the part is
    shorter than the window, and for a stride that no frame is in.
    """
    length, slack = end - start, frame / 2
    if length + slack < window:
        raise InputError(f"window={window:g} is longer than the video, or the part of it, of {length:.2f} s; lower it")
    if stride + slack < frame:
        raise InputError(f"stride={stride:g} is shorter than one frame, which lasts {frame:.3g} s; raise it")
    offsets = np.arange(int((length - window + slack) / stride) + 1) * stride
    if length - window - offsets[-1] > slack:
        offsets = np.append(offsets, length - window)
    return np.stack([start + offsets, start + offsets + window], axis=1)


def write_times(folder: Path, times: np.ndarray | None) -> None:
    """Keep the times of a folder's pictures beside them; nothing where they are not known."""
    if times is not None:
        (folder / FILE).write_text("".join(f"{time:.6f}\n" for time in times.tolist()))


def read_times(folder: Path, num_frames: int) -> np.ndarray | None:
    """float64 (num_frames,); None where the folder has none. Raises VideoError where they do not fit."""
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
        raise VideoError(str(folder), f"{FILE} does not hold {num_frames} rising times in seconds: mend or remove it")
    return times
