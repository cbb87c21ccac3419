"""Conversion of decoded frames to RGB, identical for all readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class RgbConverter:
    """Converts the images of one video; keeps FFmpeg's conversion tables in between."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Convert to (H, W, 3) uint8 RGB, not rotated."""
        # POINT: use the nearest chroma sample. FFmpeg's fast 8-bit path, with which published training frames were
        # extracted, always does so; this treats 10-bit video alike. Range and matrix are taken from the frame.
        # One thread: the loader's worker processes are the parallelism.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="POINT", threads=1)
        plane = rgb.planes[0]
        image = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)[:, : 3 * rgb.width]
        return image.reshape(rgb.height, rgb.width, 3)
