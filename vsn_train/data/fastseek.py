"""Read fast-seek copies, as `vsn-tools prepare` writes them: each packet is a whole image.

A copy is an MP4 file with H.264 key frames only, or with the unchanged JPEG or PNG images of a folder. An index at its
end, in a box that other programs ignore, has the decoder's settings and the position of each packet. So opening a copy
reads only the index, and reading a frame only its packet. The mapping of frames to packets was verified with a full
decode when the copy was written. A file without the index, such as a copy that another program has rewritten, is read
like any other video.

A copy of `v_X_g01_c01.avi` has the same name: FFmpeg recognizes the content of a file, not its suffix. The folder
`78687` becomes `78687.mp4`. So the lists of a data set remain valid.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vsn_train.data.colour import RgbConverter
from vsn_train.data.frames import MAX_PIXELS, decode_image_bytes, rows_of_frames
from vsn_train.data.times import even_times
from vsn_train.errors import VideoError

# The file ends with: "free" box of [JSON line, positions and sizes as int64, times as float64, length of these three as
# 8 digits, MARK]. Copies made before 2026-11-28 have no times, and no checksum of the rest in the JSON line.
MARK = b"vsn-train seek 1"
_TAIL = 8 + len(MARK)


@dataclass(frozen=True)
class Index:
    """codec: "h264", "mjpeg" or "png". modality: "rgb", or "flow": two grey images per frame, x and y.
    extradata: for the decoder. places: int64 (packets, 2), position and size in bytes. times: float64 (frames,),
    seconds after the first frame; None: unknown."""

    codec: str
    modality: str
    fps: float
    height: int
    width: int
    extradata: bytes
    places: np.ndarray
    times: np.ndarray | None


def append_index(
    path: Path, codec: str, modality: str, fps: float, height: int, width: int, times: np.ndarray | None
) -> None:
    """Append the index to an MP4 file whose packets are whole images. times: of the frames; None: unknown."""
    import av

    with av.open("file:" + str(path)) as container:
        stream = container.streams.video[0]
        places = [(packet.pos, packet.size) for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata or b""
    head: dict[str, Any] = {"codec": codec, "modality": modality, "fps": fps, "height": height, "width": width}
    head |= {"extradata": extradata.hex(), "times": 0 if times is None else len(times)}
    rest = np.array(places, "<i8").tobytes() + (b"" if times is None else times.astype("<f8").tobytes())
    body = json.dumps(head | {"crc32": _checksum(head, rest)}).encode() + b"\n" + rest
    box = body + b"%08d" % len(body) + MARK
    with path.open("ab") as file:
        file.write((8 + len(box)).to_bytes(4, "big") + b"free" + box)


def _checksum(head: dict[str, Any], rest: bytes) -> int:
    return zlib.crc32(json.dumps(head).encode() + b"\n" + rest)


def read_index(path: str) -> Index | None:
    """The index at the end of a file. None if there is none or it is invalid; the file is then read like any video."""
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        tail = os.pread(file.fileno(), _TAIL, max(0, end - _TAIL))
        if tail[8:] != MARK or not tail[:8].isdigit():
            return None
        length = int(tail[:8])
        head, _, places = os.pread(file.fileno(), length, max(0, end - _TAIL - length)).partition(b"\n")
    try:
        values = json.loads(head)
        checksum = values.pop("crc32", None)
        if checksum is not None and checksum != _checksum(values, places):
            return None
        values["extradata"] = bytes.fromhex(values["extradata"])
        stop = len(places) - 8 * values.pop("times", 0)
        times = np.frombuffer(places[stop:], "<f8") if stop < len(places) else None
        found = Index(**values, places=np.frombuffer(places[:stop], "<i8").reshape(-1, 2), times=times)
        return found if _plausible(found, end) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _plausible(index: Index, size: int) -> bool:
    """Whether the index is valid for a file of `size` bytes."""
    sides = (index.height, index.width)
    per_frame = 2 if index.modality == "flow" else 1
    return (
        index.codec in ("h264", "mjpeg", "png")
        and index.modality in ("rgb", "flow")
        and all(type(side) is int and side > 0 for side in sides)
        and index.height * index.width <= MAX_PIXELS
        and type(index.fps) in (int, float)
        and 0 <= index.fps <= 1e6
        and len(index.places) >= per_frame
        and len(index.places) % per_frame == 0
        and bool((index.places >= 0).all() and (index.places.max(axis=1) <= size).all())
        and (
            index.times is None
            or (len(index.times) == len(index.places) // per_frame and bool((np.diff(index.times) > 0).all())
                and bool(np.isfinite(index.times).all()))
        )
    )  # fmt: skip


class FastSeekCopy:
    """One open copy, with the interface of `Video`; made by `open_video`.

    modality: "rgb" or "flow". times: seconds of each frame, as in the source. Raises VideoError if the copy holds the
    other modality.
    """

    def __init__(self, path: str, index: Index, modality: str) -> None:
        import av

        if modality != index.modality:
            raise VideoError(path, f"this copy holds {index.modality} frames: set data.modality={index.modality}")
        self.path = path
        self.modality = modality
        self.fps, self.height, self.width = index.fps, index.height, index.width
        self._per_frame = 2 if modality == "flow" else 1
        self._places = index.places
        self.num_frames = len(self._places) // self._per_frame
        self.times = even_times(self.num_frames, self.fps) if index.times is None else index.times
        self._decoder: Any = None
        if index.codec == "h264":
            self._decoder = av.CodecContext.create("h264", "r")
            self._decoder.extradata = index.extradata
            self._decoder.thread_count = 1
        self._to_rgb = RgbConverter()
        self._closed = False
        self._file = os.open(path, os.O_RDONLY)

    def read(self, frames: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """As `Video.read`; of optical flow uint8 (N, 2, H, W)."""
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        rows = rows_of_frames(self.path, self.num_frames, frames)
        channels = 2 if self.modality == "flow" else 3
        images = np.empty((len(frames), self.height, self.width, channels), np.uint8)
        for frame, image in (self._decode_h264 if self._decoder else self._decode_images)(sorted(rows)):
            if image.shape != images.shape[1:]:
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise VideoError(self.path, f"frame {frame} is {size}, expected {self.width}x{self.height}")
            images[rows[frame]] = image
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def packets(self, frame: int) -> list[bytes]:
        """The compressed images of a frame: one, or those of x and y."""
        found = []
        for position, size in self._places[frame * self._per_frame : (frame + 1) * self._per_frame].tolist():
            data = os.pread(self._file, size, position)
            if len(data) < size:
                raise VideoError(self.path, f"the file is truncated before frame {frame}: prepare it again")
            found.append(data)
        return found

    def _decode_images(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame in wanted:
            try:
                parts = [decode_image_bytes(data, grey=self.modality == "flow") for data in self.packets(frame)]
                yield frame, np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
            except ValueError as error:
                raise VideoError(self.path, f"frame {frame} {error}: prepare it again") from error

    def _decode_h264(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        import av

        decoded = 0
        try:
            for frame in [*wanted, None]:  # None: flush the decoder
                packet = None
                if frame is not None:
                    data = self.packets(frame)[0]
                    packet = av.Packet(len(data))  # its memory is padded with zeros, as decoders expect
                    packet.update(data)
                    packet.pts = frame  # the decoder copies it to the image
                for image in self._decoder.decode(packet):
                    if decoded == len(wanted) or image.pts != wanted[decoded] or image.is_corrupt:
                        raise VideoError(self.path, f"damaged near frame {image.pts}: prepare it again")
                    yield wanted[decoded], self._to_rgb(image)
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

    def __enter__(self) -> FastSeekCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
