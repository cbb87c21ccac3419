"""From the decoder's colours to RGB, the same way wherever a video is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class RgbConverter:
    """Converts the images of one video; it keeps FFmpeg's tables between them."""

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        # PyAV 17 began to convert colours in as many threads as there are cores.
        self._one_thread: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB, as the frame is stored: not turned."""
        # POINT: take the nearest chroma sample. FFmpeg's fast 8-bit path, which made everybody's training frames, does
        # so whatever it is told; this way 10-bit video is treated alike. Range and matrix are the frame's own.
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="POINT", **self._one_thread)
        plane = rgb.planes[0]
        image = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)[:, : 3 * rgb.width]
        return image.reshape(rgb.height, rgb.width, 3)
