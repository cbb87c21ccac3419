"""Exact frames with decord, for the files that it reads exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vsn_train.data.packets import PacketTable
from vsn_train.errors import InputError, VideoError


class DecordReader:
    """Reads a video whose packets are known.

    decord aborts the process on some damaged files, so it only gets intact files. After a seek it returns wrong frames
    for packed B-frames, open GOPs and HEVC, so it seeks only if every key frame resets the decoder. Otherwise it
    decodes from the start, which is exact for AVI, MP4 and Matroska, but not for MPEG-TS. VP9 fails with more than one
    thread. Without fault_tol, decord replaces a frame that cannot be decoded by a neighbour.
    """

    def __init__(self, path: str, height: int, width: int, table: PacketTable) -> None:
        decord = self.library()
        self._path = path
        self._shape = (height, width, 3)
        if not table.whole:
            raise self._error("damaged, or cut without re-encoding")
        if not table.container.startswith(("mov", "matroska", "avi")):
            raise self._error(f"container {table.container}")
        self._open = lambda: decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        # RuntimeError: a file that it cannot open.
        self._failures = (decord.DECORDError, decord.DECORDLimitReachedError, StopIteration, IndexError, RuntimeError)
        frame_map = table.frame_map
        self._jumps = (
            frame_map is not None
            and table.codec in ("h264", "vp8", "vp9", "mpeg4")
            and not (table.codec == "mpeg4" and frame_map.packet_of != list(range(len(frame_map.spare))))
            and table.key_pictures_are_starts
        )
        self._reader = self._try(self._open)

    @staticmethod
    def library() -> Any:
        """The decord package. Raises InputError if it is not installed."""
        try:
            import decord
        except ImportError as error:
            raise InputError("decoder=decord, but decord is not installed: use decoder=auto or pyav") from error
        return decord

    def images(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame, image (H, W, 3)) of every wanted frame. wanted: sorted, without repeats."""
        if self._jumps:
            for frame in wanted:
                yield frame, self._array(self._try(self._reader.__getitem__, frame))
            return
        reader = self._try(self._open)
        for frame in range(wanted[-1] + 1 if wanted else 0):
            image = self._try(reader.next)
            if frame in wanted:
                yield frame, self._array(image)

    def _array(self, image: Any) -> np.ndarray:
        if image.shape != self._shape:  # seen: 4 channels from a rotated video
            raise self._error(f"image of shape {image.shape}")
        return image.asnumpy()

    def _try(self, step: Callable[..., Any], *args: int) -> Any:
        try:
            return step(*args)
        except self._failures as error:
            raise self._error(" ".join(str(error).split())[:200]) from error

    def _error(self, cause: str) -> VideoError:
        return VideoError(self._path, f"decord does not read it exactly ({cause}): use decoder=auto or pyav")
