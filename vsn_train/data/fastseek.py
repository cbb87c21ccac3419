"""The frames of a fast-seek copy, as scripts/prepare_videos.py writes them: one packet is one whole picture.

An MP4 file of H.264 without prediction between pictures, or of JPEG or PNG pictures taken over as they were. Its index
says where each packet lies, so that opening reads the index alone and a frame costs its own packet alone. Which frame a
packet holds was checked against a full decode when the copy was written, and a tag says so; whatever the tag and the
index do not agree on is read like any other file.

The file keeps the name of what it was made from, `v_X_g01_c01.avi` or the folder's `78687`: FFmpeg looks at what is in
a file, not at its name, and so every list of the data set still fits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from vsn_train.data.colour import RgbConverter
from vsn_train.data.frames import decode_picture, rows_of_frames
from vsn_train.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

PICTURE_CODECS = ("mjpeg", "png")
_TAG = re.compile(r"vsn-train fast-seek copy 1: (?P<frames>\d+) (?P<modality>rgb|flow) frames")


def copy_tag(num_frames: int, modality: str) -> str:
    """The container's "comment" that `places_of_copy` looks for."""
    return f"vsn-train fast-seek copy 1: {num_frames} {modality} frames"


def places_of_copy(container: InputContainer, stream: VideoStream) -> list[tuple[int, int]] | None:
    """Where the packets of a copy lie in the file, as (position, size) in bytes; None for any other file."""
    tag = _TAG.fullmatch(container.metadata.get("comment", ""))
    codec = stream.codec_context.codec.canonical_name
    if tag is None or not container.format.name.startswith("mov") or codec not in ("h264", *PICTURE_CODECS):
        return None
    if hasattr(stream, "index_entries"):
        packets = [(entry.pos, entry.size, entry.is_keyframe) for entry in stream.index_entries]
    else:  # PyAV before 17 does not hand out the index: walk through the file
        packets = [(packet.pos or 0, packet.size, packet.is_keyframe) for packet in container.demux(stream)]
        packets = [packet for packet in packets if packet[1]]
        container.seek(0)
    expected = int(tag["frames"]) * (2 if tag["modality"] == "flow" else 1)
    if len(packets) != expected or not all(is_keyframe for _, _, is_keyframe in packets):
        return None
    return [(position, size) for position, size, _ in packets]


class FastSeekCopy:
    """One open copy, with the interface of `Video`; `open_video` makes it.

    places: of its packets, see `places_of_copy`. modality: "rgb", or "flow": two grey pictures a frame, x and y.
    Raises VideoError where the copy holds the other modality.
    """

    def __init__(
        self,
        path: str,
        container: InputContainer,
        stream: VideoStream,
        places: list[tuple[int, int]],
        modality: str,
    ) -> None:
        held = container.metadata["comment"].split()[-2]
        if modality != held:
            raise VideoError(path, f"this copy holds {held} frames: set data.modality={held}")
        self.path = path
        self.modality = modality
        self.fps = float(stream.average_rate or 0.0)
        self._closed = False
        self._container = container  # closing it would close the decoder
        self._decoder = stream.codec_context
        self._pictures = self._decoder.codec.canonical_name in PICTURE_CODECS
        self._per_frame = 2 if self.modality == "flow" else 1
        self._places = places
        self._to_rgb = RgbConverter()
        self.num_frames = len(self._places) // self._per_frame
        self.height, self.width = self._decoder.height, self._decoder.width
        self._file = os.open(path, os.O_RDONLY)

    def read(self, frames: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """As `Video.read`; of optical flow uint8 (N, 2, H, W)."""
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        rows = rows_of_frames(self.path, self.num_frames, frames)
        channels = 2 if self.modality == "flow" else 3
        images = np.empty((len(frames), self.height, self.width, channels), np.uint8)
        for frame, image in (self._decode_pictures if self._pictures else self._decode_h264)(sorted(rows)):
            if image.shape != images.shape[1:]:
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise VideoError(self.path, f"frame {frame} is {size}, expected {self.width}x{self.height}")
            images[rows[frame]] = image
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def packets(self, frame: int) -> list[bytes]:
        """The compressed pictures of a frame: one, or those of x and y."""
        found = []
        for position, size in self._places[frame * self._per_frame : (frame + 1) * self._per_frame]:
            data = os.pread(self._file, size, position)
            if len(data) < size:
                raise VideoError(self.path, f"the file breaks off before frame {frame}: prepare it again")
            found.append(data)
        return found

    def _decode_pictures(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame in wanted:
            try:
                parts = [decode_picture(data, grey=self.modality == "flow") for data in self.packets(frame)]
                yield frame, np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
            except ValueError as error:
                raise VideoError(self.path, f"frame {frame} {error}: prepare it again") from error

    def _decode_h264(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        import av

        decoded = 0
        try:
            for frame in [*wanted, None]:  # None: hand out what is still held back
                packet = None
                if frame is not None:
                    packet = av.Packet(self.packets(frame)[0])
                    packet.pts = frame  # the decoder hands it on to the image
                for picture in self._decoder.decode(packet):
                    if decoded == len(wanted) or picture.pts != wanted[decoded] or picture.is_corrupt:
                        raise VideoError(self.path, f"damaged near frame {picture.pts}: prepare it again")
                    yield wanted[decoded], self._to_rgb(picture)
                    decoded += 1
        except av.FFmpegError as error:
            raise VideoError(self.path, f"damaged: {error.strerror or error}; prepare it again") from error
        finally:
            self._decoder.flush_buffers()
        if decoded < len(wanted):
            raise VideoError(self.path, f"frame {wanted[decoded]} cannot be decoded: prepare it again")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._file)
            self._container.close()

    def __enter__(self) -> FastSeekCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
