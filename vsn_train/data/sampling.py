"""Frame sampling: index arithmetic only.

Both modes follow the TSN and TSM code, with three differences: a video with fewer than T frames is stretched evenly
(TSM repeats its first frame); training segments cover the whole video, including the frames after T × floor(F / T); and
test clips depend only on the video's length (TSM's dense validation is random).
"""

from __future__ import annotations

import numpy as np

DENSE_WINDOW = 64  # span of a dense clip in frames
FLOW_STACK = 5  # consecutive flow fields that form one frame of a clip


def sample_indices(
    num_frames: int,
    T: int,
    clips: int = 1,
    mode: str = "uniform",
    generator: np.random.Generator | None = None,
    length: int = 1,
) -> np.ndarray:
    """int64 (clips, T): the frame numbers of each clip of a video of `num_frames` frames, all in [0, num_frames).

    mode "uniform": the video is divided into T segments of num_frames / T frames; one frame from each.
        With a generator (training): a uniformly random frame of each segment.
        Without (test): the first clip takes the middles of the segments, floor(segment * (k + 1/2)), the n - 1 further
        ones floor(segment * (k + j / n)) without the j nearest the middle. So 2 clips are middles and first frames.
    mode "dense": a window of 64 frames, one frame every 64 // T, indices modulo the video's length.
        With a generator: a uniformly random window. Without: clip j of n starts at
        floor((num_frames - 64) * j / (n - 1)); a single clip takes the middle window. In videos shorter than the
        window, clips start at 0 and wrap around. Videos of at most T or 64 // T frames, in which a window could show a
        single frame T times, are sampled as in "uniform".
    length: number of frames read from each index on, see `flow_stacks`. Uniform segments leave room for them at the
        end, as in TSM, if the video is long enough.

    Raises ValueError for an empty video, an unknown mode, or fewer than one clip, frame or length.
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
    """int64 (clips, T) -> (clips, T, length): each index and the ones after it; past the end the last one is repeated.

    Stacks of optical flow (TSN, section 3.2; TSM code). num_frames: flow fields of the video.
    """
    return np.minimum(indices[..., None] + np.arange(length), num_frames - 1)


def _uniform(num_frames: int, T: int, clips: int, generator: np.random.Generator | None) -> np.ndarray:
    segment = np.arange(T)
    if generator is not None:
        # Segment k covers the frames floor(k F / T) to floor((k + 1) F / T) - 1, or one frame if F < T.
        first = segment * num_frames // T
        length = np.maximum((segment + 1) * num_frames // T - first, 1)
        return (first + generator.integers(length, size=(clips, T))).astype(np.int64)
    # Offsets in units of 1 / (2 n) of a segment, as integers, so that no float rounding decides which frame is read.
    # Of the n starts 0, 1/n, … the one nearest the middle is moved onto it (for even n it is there) and comes first.
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
