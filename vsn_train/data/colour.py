"""Conversion of decoded frames to RGB, identical for all readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class RgbConverter:
    """Converts the images of one video; it keeps FFmpeg's tables between them."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB, as the frame is stored: not turned."""
        # POINT: take the nearest chroma sample. FFmpeg's fast 8-bit path, which made everybody's training frames, does
        # so whatever it is told; this way 10-bit video is treated alike. Range and matrix are the frame's own.
        # One thread: the loader's worker processes are the parallelism.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="POINT", threads=1)
        plane = rgb.planes[0]
        image = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)[:, : 3 * rgb.width]
        return image.reshape(rgb.height, rgb.width, 3)
