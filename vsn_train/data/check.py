"""Check that every file of a data set can be decoded, with the same frames from every reader.

Of hundreds of thousands of files some abort a decoder or keep it busy for ever: run `check_file` through isolated.py.
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

USUAL = "auto"  # the reader of trainings and tests


@dataclass(frozen=True)
class FileReport:
    """What one file holds.

    frames: that decode one after the other. header: that the container announces, 0 where it does not say. listed: that
    the data set's list announces, None where it does not. compared: frames read at random and compared with the first
    decode; differing: how many of these were another image, by reader; refused: why a reader did not read the file.
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
        """ "" for none. A wrong header alone is none: nothing here relies on it."""
        if USUAL in self.refused:
            return "unreadable"
        if any(self.differing.values()):
            return "readers differ"
        return "wrongly counted" if self.listed not in (None, self.frames) else ""


def check_file(path: Path, modality: str, listed: int | None, readers: tuple[str, ...], sample: int) -> FileReport:
    """Decode one file or folder from first to last, count, and compare `sample` frames as each reader gives them.

    The usual reader is among them always; see `open_video` for others. Raises VideoError where it cannot be read.
    """
    with open_video(path, modality=modality) as video:
        wanted = spread(video.num_frames, sample)
        expected: dict[int, np.ndarray] = {}
        frames = 0
        for frames, image in enumerate(_in_turn(video), start=1):
            if frames - 1 in wanted:
                expected[frames - 1] = image.copy()
        if frames != video.num_frames:
            raise VideoError(str(path), f"{frames} frames decode one after the other, not {video.num_frames}")
        header = video.header_frames if isinstance(video, Video) else 0
        size, fps = (video.width, video.height), video.fps
    backwards = wanted[::-1]  # the order that asks most of a reader
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
    """Every (H, W, C) image, one after the other."""
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
    """Up to `sample` frames from the first to the last."""
    return np.unique(np.linspace(0, num_frames - 1, sample).round().astype(int)).tolist()


def different(images: np.ndarray, expected: Sequence[np.ndarray]) -> int:
    """How many (C, H, W) images are not the expected (H, W, C) one: more than 3 grey levels away on average.

    Readers may round colours differently, by less than 2 levels on 10-bit video. Neighbouring frames of a scene that
    stands still are closer than that too; then it does not matter which one it is.
    """
    pairs = zip(images.transpose(0, 2, 3, 1), expected, strict=True)
    return sum(a.shape != b.shape or float(np.abs(a.astype(np.int16) - b).mean()) > 3 for a, b in pairs)
