"""Which packet of a video file holds which frame, found out without decoding.

The headers in each packet tell: which picture does it hold, is it shown, may decoding start there, does anything refer
to it? Where every packet is understood, that gives the number of frames, their order, and what has to be decoded for
each. Where anything is not certain there is no map, and the video has to be decoded from the start and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream


# ---- What one packet holds -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """The picture in one packet.

    shown: it gives a frame. start: decoding may start here. spare: nothing in its temporal layer refers to it.
    """

    shown: bool = True
    start: bool = False
    spare: bool = False
    layer: int = 0


def _h26x_picture(data: bytes, length_size: int, hevc: bool) -> _Picture | None:
    """H.264, HEVC: walk the length-prefixed NAL units. None unless they fill the packet and hold one whole picture."""
    position = pictures = layer = 0
    start, spare = False, True
    while position < len(data):
        nal = position + length_size
        position = nal + int.from_bytes(data[position:nal], "big")
        if not nal < position <= len(data):
            return None
        if hevc:
            kind = data[nal] >> 1 & 0x3F
            if kind < 32:
                if position - nal < 3:
                    return None
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
                if position - nal < 2:
                    return None
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
    if position < 0 and len(data) <= 19:  # FFmpeg's bound for place holders too
        return _Picture(shown=False)
    if position < 0 or len(data) - position <= 19:
        return None  # a tiny picture or a place holder: not worth telling apart
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
class FrameMap:
    """Which packet gives which frame.

    packet_of: packet of each frame. frame_of: the inverse. start_of: packet -> where to start decoding for it.
    starts: packets at which decoding may start. spare: for every packet, whether no other one needs it.
    """

    packet_of: list[int]
    frame_of: dict[int, int]
    start_of: dict[int, int]
    starts: list[int]
    spare: list[bool]


def _presentation_order(
    pictures: Sequence[_Picture], times: Sequence[int | None], decoder: VideoCodecContext
) -> list[int] | None:
    """Packets of the shown pictures in the order in which they are shown; None where it is not certain."""
    codec = decoder.codec.canonical_name
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
        return None  # decoders drop some of the pictures that are shown before the first key picture
    latest = list(accumulate(known, max))
    if any(picture.start and known[i] < latest[i] for i, picture in enumerate(pictures)):
        return None  # times that contradict the order of coding
    if known == latest and decoder.has_b_frames:
        return None  # times of coding, not of showing
    return sorted(shown, key=known.__getitem__)


def _map_frames(
    pictures: Sequence[_Picture], times: Sequence[int | None], decoder: VideoCodecContext
) -> FrameMap | None:
    """The frames of a stream, without decoding; None where their number or order is not certain."""
    if not pictures or not pictures[0].start:
        return None
    order = _presentation_order(pictures, times, decoder)
    if order is None or order[0] != 0:
        return None
    frame_of = {packet: frame for frame, packet in enumerate(order)}
    # Pictures that follow a start in the file but are shown before it (open GOP) may refer to what lies before it.
    starts: list[int] = []
    start_of: dict[int, int] = {}
    for i, picture in enumerate(pictures):
        if picture.shown:
            if picture.start:
                starts.append(i)
            start_of[i] = next(k for k in reversed(starts) if frame_of[k] <= frame_of[i])
    top_layer = max(picture.layer for picture in pictures)
    return FrameMap(order, frame_of, start_of, starts, [p.spare and p.layer == top_layer for p in pictures])


@dataclass
class PacketTable:
    """All packets of a stream, one picture each, still compressed: a second of video takes about 100 kB.

    packets: their pts is their number here. times: their own presentation times in units of time_base. container,
    codec: FFmpeg's names; stream: its index in the file. whole: nothing is damaged, and nothing was cut off without
    re-encoding. frame_map: None where it is not certain.
    """

    packets: list[Packet]
    times: list[int | None]
    time_base: Fraction
    container: str
    codec: str
    stream: int
    whole: bool
    frame_map: FrameMap | None

    @property
    def key_pictures_are_starts(self) -> bool:
        """Whether whoever trusts the file's own key pictures may start decoding at each of them."""
        starts = set(self.frame_map.starts) if self.frame_map else set()
        return all(i in starts for i, packet in enumerate(self.packets) if packet.is_keyframe)


def read_packet_table(container: InputContainer, stream: VideoStream) -> PacketTable:
    """Read all packets of the stream."""
    packets, times, damaged = _read_packets(container, stream)
    codec = stream.codec_context.codec.canonical_name
    parse = _picture_parser(stream)
    pictures = [parse(packet) for packet in packets] if parse else []
    damaged |= None in pictures and codec in ("h264", "hevc")
    whole = not damaged and not any(packet.is_discard for packet in packets)
    certain = whole and None not in pictures
    frame_map = _map_frames([p for p in pictures if p], times, stream.codec_context) if certain else None
    return PacketTable(
        packets, times, stream.time_base or Fraction(1), container.format.name, codec, stream.index, whole, frame_map
    )


def _read_packets(container: InputContainer, stream: VideoStream) -> tuple[list[Packet], list[int | None], bool]:
    """The packets, one picture each and numbered by their pts; their presentation times; whether any is damaged."""
    import av
    from av.bitstream import BitStreamFilterContext

    split = _SPLIT.get(stream.codec_context.codec.canonical_name)
    splitter = BitStreamFilterContext(split, stream) if split else None
    packets: list[Packet] = []
    times: list[int | None] = []
    damaged = False
    try:
        for whole in container.demux(stream):
            try:
                parts = splitter.filter(whole) if splitter else [whole]
            except av.FFmpegError:  # the decoder, which splits with the same filter, would lose this packet too
                parts, damaged = [], True
            for packet in parts:
                if packet.size:
                    damaged |= packet.is_corrupt
                    times.append(packet.pts)
                    packet.pts, packet.dts = len(packets), None  # the decoder hands pts on to the image
                    packets.append(packet)
    except av.FFmpegError:  # the file breaks off: what was read so far counts
        damaged = True
    return packets, times, damaged
