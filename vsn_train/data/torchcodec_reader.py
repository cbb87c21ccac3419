"""Exact frames with TorchCodec, for the files that it reads exactly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from vsn_train.data.packets import PacketTable
from vsn_train.errors import InputError, VideoError


class TorchCodecReader:
    """Reads a video whose packets are known.

    TorchCodec identifies frame i by the i-th presentation time in the file. That is exact if every packet gives one
    frame and has a presentation time. AVI has none; those that FFmpeg derives are right only without B-frames.
    TorchCodec starts decoding at any key frame, so each must reset the decoder. Every image comes with its time, which
    is compared with that of its packet.
    """

    def __init__(self, path: str, height: int, width: int, table: PacketTable) -> None:
        self._path = path
        self._shape = (height, width, 3)
        frame_map = table.frame_map
        if not table.whole:
            raise self._error("damaged, or cut without re-encoding")
        if frame_map is None or not table.container.startswith(("mov", "matroska", "avi")):
            raise self._error(f"codec {table.codec} in container {table.container}")
        times = [table.times[packet] for packet in frame_map.packet_of]
        known = [time for time in times if time is not None]
        if len(known) < len(times) or any(a >= b for a, b in pairwise(known)):
            raise self._error("its time stamps do not define the order of its frames")
        in_turn = list(range(len(frame_map.spare)))
        if table.container == "avi" and not known == frame_map.packet_of == in_turn:
            raise self._error("B-frames in AVI, which has no presentation times")
        if not table.key_pictures_are_starts:
            raise self._error("key frames that do not reset the decoder")
        self._seconds = [float(time * table.time_base) for time in known]
        self._tolerance = float(table.time_base) / 2
        try:
            self._decoder = self.library()(
                path, stream_index=table.stream, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu"
            )
            if len(self._decoder) != len(known):
                raise self._error(f"it counts {len(self._decoder)} frames of {len(known)}")
        except (RuntimeError, ValueError) as error:
            raise self._error(_first_words(error)) from error

    @staticmethod
    def library() -> Any:
        """TorchCodec's VideoDecoder. Raises InputError if it is not installed or finds no FFmpeg."""
        try:
            from torchcodec.decoders import VideoDecoder
        except ModuleNotFoundError as error:
            raise InputError(
                "decoder=torchcodec, but torchcodec is not installed: pip install 'vsn-train[torchcodec]', or use "
                "decoder=auto or pyav"
            ) from error
        except (ImportError, OSError, RuntimeError) as error:
            raise InputError(
                "decoder=torchcodec, but torchcodec cannot load FFmpeg's shared libraries: install FFmpeg (apt install "
                "ffmpeg, dnf install ffmpeg, conda install ffmpeg) and a torchcodec made for this torch; or use "
                "decoder=auto or pyav"
            ) from error
        return VideoDecoder

    def images(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame, image (H, W, 3)) of every wanted frame. wanted: sorted, without repeats."""
        if not wanted:
            return
        try:
            batch = self._decoder.get_frames_at(wanted)
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._error(_first_words(error)) from error
        if batch.data.shape[1:] != self._shape:
            raise self._error(f"images of shape {tuple(batch.data.shape[1:])}")
        for frame, seconds, image in zip(wanted, batch.pts_seconds.tolist(), batch.data.numpy(), strict=True):
            if abs(seconds - self._seconds[frame]) > self._tolerance:
                raise self._error(f"it returned the image at {seconds:.3f} s for frame {frame}")
            yield frame, image

    def _error(self, cause: str) -> VideoError:
        return VideoError(self._path, f"TorchCodec does not read it exactly ({cause}): use decoder=auto or pyav")


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
