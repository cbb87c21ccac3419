"""Check that every file of a data set can be decoded, with the same frames from every reader.

In a large data set some files crash or hang a decoder: run `check_file` through isolated.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsn_train.data.fastseek import FastSeekCopy
from vsn_train.data.frames import FrameFolder
from vsn_train.data.video import Video, open_video
from vsn_train.errors import VideoError

USUAL = "auto"  # the default reader of training and evaluation


@dataclass(frozen=True)
class FileReport:
    """The result of checking one file.

    frames: number that decode sequentially. header: number that the container states, 0 if none. listed: number that
    the data set's list states, None if none. compared: number of frames that each reader read out of order, compared
    with the sequential decode. differing: number of these that differ, by reader. refused: cause by reader that did not
    read the file.
    """

    frames: int
    header: int
    listed: int | None
    width: int
    height: int
    fps: float
    compared: int
    differing: dict[str, int]
    refused: dict[str, str]

    @property
    def problem(self) -> str:
        """The problem, or "". A wrong header alone is no problem, as nothing here relies on it."""
        if USUAL in self.refused:
            return "unreadable"
        if any(self.differing.values()):
            return "readers differ"
        return "wrongly counted" if self.listed not in (None, self.frames) else ""


def check_file(path: Path, modality: str, listed: int | None, readers: tuple[str, ...], sample: int) -> FileReport:
    """Decode one file or folder sequentially, count its frames, and compare `sample` frames from each reader.

    The default reader is always compared; readers: others, see `open_video`. Raises VideoError if it cannot be read.
    """
    with open_video(path, modality=modality) as video:
        wanted = spread(video.num_frames, sample)
        expected: dict[int, np.ndarray] = {}
        frames = 0
        for frames, image in enumerate(_in_turn(video), start=1):
            if frames - 1 in wanted:
                expected[frames - 1] = image.copy()
        if frames != video.num_frames:
            raise VideoError(str(path), f"{frames} frames decode sequentially, expected {video.num_frames}")
        header = video.header_frames if isinstance(video, Video) else 0
        size, fps = (video.width, video.height), video.fps
    backwards = wanted[::-1]  # the hardest order for a reader
    differing, refused = {}, {}
    for reader in (USUAL, *readers):
        try:
            with open_video(path, reader, modality) as video:
                images = video.read(backwards).numpy()
            differing[reader] = different(images, [expected[frame] for frame in backwards])
        except VideoError as error:
            refused[reader] = error.cause
    return FileReport(frames, header, listed, *size, fps, len(wanted), differing, refused)


def _in_turn(video: Video | FrameFolder | FastSeekCopy) -> Iterator[np.ndarray]:
    """Yield every image in order, (H, W, C)."""
    if isinstance(video, Video):
        for frame, image in enumerate(video.decode_in_turn()):
            if image.shape[:2] != (video.height, video.width):
                raise VideoError(
                    video.path,
                    f"frame {frame} is {image.shape[1]}x{image.shape[0]}, frame 0 is {video.width}x{video.height}",
                )
            yield image
    else:
        for frame in range(video.num_frames):
            yield video.read([frame])[0].permute(1, 2, 0).numpy()


def spread(num_frames: int, sample: int) -> list[int]:
    """Up to `sample` frame numbers, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, num_frames - 1, sample).round().astype(int)).tolist()


def different(images: np.ndarray, expected: Sequence[np.ndarray]) -> int:
    """The number of images (C, H, W) that differ from the expected (H, W, C) by more than 3 grey levels on average.

    Readers may round colours differently, by less than 2 levels on 10-bit video. Neighbouring frames of a still scene
    may be closer than that; then it does not matter which one was read.
    """
    pairs = zip(images.transpose(0, 2, 3, 1), expected, strict=True)
    return sum(a.shape != b.shape or float(np.abs(a.astype(np.int16) - b).mean()) > 3 for a, b in pairs)
