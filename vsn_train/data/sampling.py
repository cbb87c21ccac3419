"""Frame sampling: index arithmetic only.

Both ways of choosing frames go back to the TSN and TSM code. Three things differ from it and are stated here: a video
too short for its T frames is stretched evenly where TSM repeats its first frame; training segments end where the next
one begins, so that the frames after T × floor(F / T) are seen too; and a test clip depends on nothing but the video's
length, where TSM's dense validation is random.
"""

from __future__ import annotations

import numpy as np

DENSE_WINDOW = 64  # frames that a dense clip spans
FLOW_STACK = 5  # consecutive flow fields that stand for one frame


def sample_indices(
    num_frames: int,
    T: int,
    clips: int = 1,
    mode: str = "uniform",
    generator: np.random.Generator | None = None,
    length: int = 1,
) -> np.ndarray:
    """int64 (clips, T): the frames of each clip of a video of `num_frames` frames, every one in [0, num_frames).

    mode "uniform": the video is cut into T segments of num_frames / T frames each, one frame from each.
        With a generator (training): a whole-frame position drawn evenly within each segment.
        Without (test): the first clip takes the segments' middles, floor(segment * (k + 1/2)), and n - 1 further ones
        floor(segment * (k + j / n)), the j nearest the middle left out. So 2 clips are middles and first frames.
    mode "dense": a window of 64 frames, one frame every 64 // T, indices modulo the video's length.
        With a generator: a window drawn evenly. Without: clip j of n starts at floor((num_frames - 64) * j / (n - 1)),
        a single clip takes the middle window. Videos shorter than the window start at 0 and wrap round. Those of at
        most T or 64 // T frames, where a window may show a single frame T times, are stretched as in "uniform".
    length: how many frames are read from each index on, see `flow_stacks`. Uniform segments leave room for them at the
        end, as TSM's do, wherever the video is long enough for that.

    Raises ValueError for an empty video, a mode that is neither, or fewer than one clip, frame or length.
    """
    if num_frames < 1 or T < 1 or clips < 1 or length < 1:
        raise ValueError(f"num_frames {num_frames}, T {T}, clips {clips}, length {length}: expected at least 1 each")
    if mode == "uniform":
        room = num_frames - length + 1
        return _uniform(room if room >= T else num_frames, T, clips, generator)
    if mode == "dense":
        return _dense(num_frames, T, clips, generator)
    raise ValueError(f"mode {mode!r}: expected uniform or dense")


def flow_stacks(indices: np.ndarray, num_frames: int, length: int = FLOW_STACK) -> np.ndarray:
    """int64 (clips, T) -> (clips, T, length): each index and the ones after it, the video's last one repeated.

    Stacks of optical flow (TSN, section 3.2; TSM code). num_frames: flow fields of the video.
    """
    return np.minimum(indices[..., None] + np.arange(length), num_frames - 1)


def _uniform(num_frames: int, T: int, clips: int, generator: np.random.Generator | None) -> np.ndarray:
    segment = np.arange(T)
    if generator is not None:
        # Segment k covers the frames floor(k F / T) to floor((k + 1) F / T) - 1, or one frame where F < T.
        first = segment * num_frames // T
        length = np.maximum((segment + 1) * num_frames // T - first, 1)
        return (first + generator.integers(length, size=(clips, T))).astype(np.int64)
    # Offsets in units of 1 / (2 n) of a segment, as integers: no float rounding decides which frame is read.
    # Of n starts 0, 1/n, … the one nearest the middle moves onto it (n even: it is there) and comes first.
    offsets = [2 * clip for clip in range(clips)]
    middle = clips // 2
    offsets = [clips, *offsets[:middle], *offsets[middle + 1 :]]
    return np.stack([(2 * clips * segment + offset) * num_frames // (2 * clips * T) for offset in offsets]).astype(
        np.int64
    )


def _dense(num_frames: int, T: int, clips: int, generator: np.random.Generator | None) -> np.ndarray:
    stride = max(1, DENSE_WINDOW // T)
    if num_frames <= max(T, stride):
        if generator is not None:
            return _uniform(num_frames, T, clips, generator)
        return _uniform(num_frames, T, 1, None).repeat(clips, axis=0)
    last_start = max(0, num_frames - DENSE_WINDOW)
    if generator is not None:
        starts = generator.integers(last_start + 1, size=clips)
    elif clips == 1:
        starts = np.array([last_start // 2])
    else:
        starts = np.arange(clips) * last_start // (clips - 1)
    return ((starts[:, None] + stride * np.arange(T)) % num_frames).astype(np.int64)
