"""The frames of one video, exact, behind one interface.

    with open_video(path) as video:
        clip = video.read([4, 13, 22])      # uint8 (3, C, H, W), RGB

Frame i is the i-th image of a full sequential decode in presentation order, whatever the container or the codec.

How it stays exact and fast. Opening reads all packets without decoding them and looks at the first bytes of each: which
picture does it hold, is it shown, may decoding start there, does anything refer to it? Where every packet is understood,
that gives the number of frames and their order at once, and `read` decodes from the nearest safe key picture on, leaving
out pictures that nothing refers to and nobody asked for. Every decoded image carries the number of its packet, so an image
can be missing but never be taken for its neighbour. Everything else (unknown codec, damage, interlaced H.264, edit lists,
useless time stamps) is decoded from the start and counted: slow, but never wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from vsn_train.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DECODERS = ("auto", "decord", "pyav")

# Packets beyond this are read from the file again for every `read` instead of being kept: a long film fits in memory.
MAX_PACKET_BYTES = 256 * 2**20


class VideoError(InputError):
    """A video that cannot be read. `path` names the file, `cause` says why in a few words."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(path, cause)  # both in `args`: the error must survive pickling between processes
        self.path = path
        self.cause = cause

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.cause}"


class _Unexpected(Exception):
    """The decoder did not deliver what the packets announced."""


# ---- What one packet holds -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """The picture in one packet.

    shown: it gives a frame. start: decoding may start here. spare: no other picture refers to it (in its temporal layer).
    """

    shown: bool = True
    start: bool = False
    spare: bool = False
    layer: int = 0


def _h26x_picture(data: bytes, length_size: int, hevc: bool) -> _Picture | None:
    """H.264 and HEVC: walk the length-prefixed NAL units. None unless they fill the packet and hold one whole picture."""
    position = pictures = layer = 0
    start, spare = False, True
    while position < len(data):
        nal = position + length_size
        position = nal + int.from_bytes(data[position:nal], "big")
        if nal + 2 >= len(data) or position > len(data):
            return None
        if hevc:
            kind = data[nal] >> 1 & 0x3F
            if kind < 32:
                layer = (data[nal + 1] & 7) - 1
                pictures += data[nal + 2] >> 7  # first_slice_segment_in_pic_flag
                start |= 16 <= kind <= 21  # BLA, IDR, CRA
                spare &= kind < 16 and kind % 2 == 0
                if start and data[nal + 2] & 0x40:
                    return None  # no_output_of_prior_pics_flag: frames before it may vanish
            spare &= not 32 <= kind <= 34  # parameter sets
        else:
            kind = data[nal] & 0x1F
            if kind in (1, 5):
                pictures += data[nal + 1] >> 7  # first_mb_in_slice is 0
                # IDR only: what is merely flagged as key may open a GOP whose pictures refer further back.
                start |= kind == 5
                spare &= data[nal] & 0x60 == 0
            spare &= kind not in (7, 8)  # parameter sets
            if kind in (2, 3, 4, 20, 21):
                return None  # data partitions, scalable or stereo coding
    return _Picture(start=start, spare=spare, layer=layer) if pictures == 1 else None


def _mpeg4_picture(data: bytes, has_volume_header: bool) -> _Picture | None:
    """MPEG-4 part 2 (DivX, Xvid) after packed B-frames were unpacked: one VOP, or a place holder without an image."""
    position = data.find(b"\0\0\1\xb6")
    if position < 0 or len(data) - position <= 19:  # FFmpeg's bound for place holders too
        return _Picture(shown=False) if len(data) <= 19 else None
    if data.find(b"\0\0\1\xb6", position + 4) >= 0:
        return None
    kind = data[position + 4] >> 6  # 0 I, 1 P, 2 B, 3 S
    return _Picture(start=kind == 0 and has_volume_header, spare=kind == 2)


def _vp9_picture(data: bytes) -> _Picture | None:
    """VP9 after superframes were split."""
    if data[0] >> 6 != 2 or data[0] & 0x30 == 0x30:  # no frame marker; profile 3 has its bits elsewhere
        return None
    if data[0] & 0x08:  # shows an earlier picture again
        return _Picture()
    shown = data[0] & 0x02 != 0
    return _Picture(shown=shown, start=shown and data[0] & 0x04 == 0)


def _picture_parser(stream: VideoStream) -> Callable[[Packet], _Picture | None] | None:
    """How to look into the packets of this stream; None where that is not known."""
    codec = stream.codec_context.codec.canonical_name
    extradata = stream.codec_context.extradata or b""
    if codec == "vp8":
        return lambda packet: _Picture(shown=bytes(packet)[0] & 0x10 != 0, start=bytes(packet)[0] & 1 == 0)
    if codec == "vp9":
        return lambda packet: _vp9_picture(bytes(packet))
    if codec == "mpeg4":
        has_volume_header = any(bytes([0, 0, 1, code]) in extradata for code in range(0x20, 0x30))
        return lambda packet: _mpeg4_picture(bytes(packet), has_volume_header)
    # The other codecs need presentation times that can be trusted: AVI has none, MPEG-TS may lose packets.
    if not stream.container.format.name.startswith(("mov", "matroska")):
        return None
    if codec == "av1":  # a packet is a temporal unit, which shows exactly one picture
        return lambda packet: _Picture(start=packet.is_keyframe)
    if codec in ("h264", "hevc") and len(extradata) > 22 and extradata[0] == 1:
        length_size = (extradata[4 if codec == "h264" else 21] & 3) + 1
        return lambda packet: _h26x_picture(bytes(packet), length_size, codec == "hevc")
    return None


# ---- From packets to frames ------------------------------------------------------------------------------------------

# FFmpeg's bitstream filters that put every picture into a packet of its own.
_SPLIT = {"mpeg4": "mpeg4_unpack_bframes", "vp9": "vp9_superframe_split"}


@dataclass(frozen=True)
class _FrameMap:
    """Which packet gives which frame.

    packet_of: packet of each frame. frame_of: the inverse. start_of: packet -> where to start decoding for it.
    spare: packets that no other one needs.
    """

    packet_of: list[int]
    frame_of: dict[int, int]
    start_of: dict[int, int]
    spare: list[bool]


def _presentation_order(pictures: Sequence[_Picture], times: Sequence[int | None], codec: str) -> list[int] | None:
    """Packets of the shown pictures in the order in which they are shown; None where it is not certain."""
    shown = [i for i, picture in enumerate(pictures) if picture.shown]
    if codec in ("vp8", "vp9"):
        return shown  # these codecs do not reorder
    if codec == "mpeg4":
        if len(shown) < len(pictures) and not any(picture.spare for picture in pictures):
            return None  # without B-frames FFmpeg repeats the last picture for a place holder at the end
        order: list[int] = []
        for i in shown:  # a B-frame is shown at once, anything else when the next one that is no B-frame arrives
            order.insert(len(order) - 1 if pictures[i].spare and order else len(order), i)
        return order
    known = [time for time in times if time is not None]
    if len(set(known)) < len(pictures):
        return None
    if min(known) < known[0]:
        return None  # pictures shown before the first key picture: decoders drop them where they refer to what is not there
    latest = list(accumulate(known, max))
    if any(picture.start and known[i] < latest[i] for i, picture in enumerate(pictures)):
        return None  # times that contradict the order of coding
    return sorted(shown, key=known.__getitem__)


def _map_frames(packets: Sequence[Packet], times: Sequence[int | None], stream: VideoStream) -> _FrameMap | None:
    """The frames in these packets, without decoding; None unless every packet is understood."""
    parse = _picture_parser(stream)
    codec = stream.codec_context.codec.canonical_name
    pictures = []
    for packet in packets if parse else ():
        picture = None if packet.is_corrupt or packet.is_discard else parse(packet)
        if picture is None:
            return None
        pictures.append(picture)
    if not pictures or not pictures[0].start:
        return None
    order = _presentation_order(pictures, times, codec)
    if order is None or order[0] != 0:
        return None
    frame_of = {packet: frame for frame, packet in enumerate(order)}
    # Pictures that follow a start in the file but are shown before it (open GOP) may refer to what lies before it.
    starts, start_of = [0], {}
    for i, picture in enumerate(pictures):
        if picture.shown:
            if picture.start:
                starts.append(i)
            start_of[i] = next((k for k in reversed(starts) if frame_of[k] <= frame_of[i]), 0)
    top_layer = max(picture.layer for picture in pictures)
    return _FrameMap(order, frame_of, start_of, [p.spare and p.layer == top_layer for p in pictures])


def _open_container(path: str) -> tuple[InputContainer, VideoStream]:
    """The container and its largest video stream, which is the one that decord takes too."""
    import av

    if not os.path.isfile(path):
        raise VideoError(path, "it is a folder, not a file" if os.path.isdir(path) else "no such file")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty")
    try:
        # "file:" lets a name hold a colon; the tags of old AVI files are often not UTF-8.
        container = av.open("file:" + path, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, _reason(error)) from error
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    still = (
        container.format.name == "tty" or "image2" in container.format.name or container.format.name.endswith("_pipe")
    )
    if not streams or still:  # FFmpeg takes a text or a single picture for a video
        container.close()
        raise VideoError(path, f"it holds no video ({container.format.long_name})")
    stream = max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
    stream.codec_context.thread_count = 1  # the loader's worker processes are the parallelism
    return container, stream


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# ---- Images ----------------------------------------------------------------------------------------------------------


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turn and mirror an (H, W, C) image as the frame's display matrix says, in steps of 90 degrees."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class Video:
    """One open video; `open_video` makes it. Close it, or use it in a `with` statement.

    num_frames: images that a full decode delivers. fps: average frames per second, 0.0 where the file does not say.
    height, width: pixels of the images that `read` returns, turned as the display matrix says, pixel aspect not applied.
    """

    def __init__(self, path: str) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        self._closed = False
        self._container, self._stream = _open_container(path)
        try:
            self.fps = float(self._stream.average_rate or 0.0)
            self._decoder = self._stream.codec_context
            self._rgb = VideoReformatter()
            self._map: _FrameMap | None = None
            self._load_packets()
            first = self._first_frame()
            if first is None:
                self._map = None
                self.num_frames, first = self._count_frames()
            else:
                self.num_frames = len(self._map.packet_of)
            self.height, self.width = self._image(first).shape[:2]
        except BaseException:
            self.close()
            raise
