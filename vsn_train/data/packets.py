"""Determine which packet of a video file holds which frame, without decoding.

The headers in each packet give the picture in it, whether and when it is shown, whether decoding may start there, and
whether other pictures refer to it. If every packet can be parsed, this gives the number of frames, their order, and the
packets that must be decoded for each. A stream may change midway, where files were joined, cut or damaged, so nothing
is assumed from one packet to the next (pictures.py, and one file per codec). If anything is uncertain, there is no map,
and the video is decoded from the start and counted.

Only the positions of the packets in the file are kept.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from vsn_train.data.av1 import Av1Parser
from vsn_train.data.h264 import H264Parser
from vsn_train.data.hearing import errors_heard
from vsn_train.data.hevc import HevcParser
from vsn_train.data.mpeg4 import Mpeg4Parser, Mpeg4Splitter
from vsn_train.data.pictures import Contradiction, Parser, Picture
from vsn_train.data.vpx import Vp8Parser, Vp9Parser

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Side data of a packet that changes the stream from there on.
_CHANGES = ("new_extradata", "param_change")
_FEW = 600  # pictures
_UNKNOWN = -1 << 40  # still negative when the place within a packet is added


@dataclass(frozen=True)
class FrameMap:
    """The packet of each frame. Packets are numbered after splitting, so each holds one picture.

    packet_of: packet of each frame. frame_of: frame of each packet, -1 if it shows none. start_of: for the packet of
    each frame, the packet from which to decode; -1 for the others. starts: packets at which decoding may start. spare:
    for every packet, whether no other one needs it.
    """

    packet_of: list[int]
    frame_of: list[int]
    start_of: list[int]
    starts: list[int]
    spare: list[bool]


@dataclass
class PacketTable:
    """All packets of a stream, one picture each, without their data.

    places, sizes: position and size of each in the file, in bytes; a negative place: unknown. checks: Adler-32 of each.
    keys: which ones the container marks as key pictures. times: presentation time stamp of each in units of time_base.
    All these are complete only if there is a frame_map. container, codec: FFmpeg's names; stream: its index in the
    file. whole: no damage, loss, join or cut without re-encoding was detected. frame_map: None if it is uncertain.
    """

    places: array[int]
    sizes: array[int]
    checks: array[int]
    keys: list[bool]
    times: list[int | None]
    time_base: Fraction
    container: str
    codec: str
    stream: int
    whole: bool
    frame_map: FrameMap | None

    @property
    def key_pictures_are_starts(self) -> bool:
        """Whether decoding may start at every picture that the container marks as a key picture."""
        starts = set(self.frame_map.starts) if self.frame_map else set()
        return all(i in starts for i, key in enumerate(self.keys) if key)


def _parser_of(stream: VideoStream) -> Parser | H264Parser | HevcParser | None:
    """The parser of the packets of this stream; None if there is none."""
    codec = stream.codec_context.codec.canonical_name
    extradata = stream.codec_context.extradata or b""
    if codec == "vp8":
        return Vp8Parser()
    if codec == "vp9":
        return Vp9Parser()
    if codec == "mpeg4":
        return Mpeg4Parser(extradata)
    # The others need one picture per packet, and time stamps: AVI and MPEG-TS guarantee neither.
    if not stream.container.format.name.startswith(("mov", "matroska")):
        return None
    try:
        if codec == "av1":
            return Av1Parser(extradata)
        if codec == "h264":
            return H264Parser(extradata)
        if codec == "hevc":
            return HevcParser(extradata)
    except (ValueError, IndexError):
        pass  # the container has no valid description of the stream
    return None


def read_packet_table(container: InputContainer, stream: VideoStream, heard: int) -> PacketTable:
    """Read all packets of the stream once. heard: `errors_heard` from before the container was opened."""
    import av

    codec = stream.codec_context.codec.canonical_name
    parser, splitter = _parser_of(stream), Mpeg4Splitter() if codec == "mpeg4" else None
    offset = 4 if container.format.name.startswith("matroska") else 0  # bytes before a block's data
    places, sizes, checks = array("q"), array("q"), array("q")
    keys: list[bool] = []
    times: list[int | None] = []
    pictures: list[Picture] = []
    damaged, understood = False, parser is not None
    may_change = container.format.name.startswith("mov")  # the only such container among those with a parser
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt or packet.is_discard or (may_change and _changes_stream(packet)):
                damaged = True
            if parser is None or not understood:
                continue
            data, place, time, key = bytes(packet), packet.pos, packet.pts, packet.is_keyframe
            place = _UNKNOWN if place is None else place + offset
            try:
                parts = [(data, place)] if splitter is None else splitter(data, place)
                for data, place in parts:
                    picture = parser(data)
                    if picture is None:
                        understood = False
                        break
                    pictures.append(picture)
                    places.append(place)
                    sizes.append(len(data))
                    checks.append(zlib.adler32(data))
                    times.append(time)
                    keys.append(key)
                    key = False
            except Contradiction:
                understood, damaged = False, True
    except av.FFmpegError:  # the file is truncated: keep the packets read so far
        damaged = True
    if codec != "mpeg4":  # there FFmpeg reports placeholders as errors while it looks for key pictures
        damaged |= errors_heard() != heard
    if parser is not None and codec in ("h264", "hevc"):
        damaged |= not understood
    frame_map = None
    if understood and not damaged:
        held = 0
        if isinstance(parser, HevcParser):
            held = parser.reorder or 0
        elif isinstance(parser, H264Parser):
            # PyAV has the number since version 18; before that, only whether there are any.
            decoder = stream.codec_context
            held = max(parser.reorder or 0, getattr(decoder, "reorder_depth", int(decoder.has_b_frames)))
        # If damage inside a picture can drop a frame, decoding from the start must prove the frame number: a B-frame
        # packed behind a damaged picture is lost, and a damaged picture of VP8, VP9 and AV1 may be. In long files that
        # would take too long.
        packed = splitter is not None and splitter.used
        jumps = len(pictures) > _FEW or not (packed or codec in ("vp8", "vp9", "av1"))
        frame_map = map_frames(pictures, times, codec, held, jumps)
    return PacketTable(
        places, sizes, checks, keys, times, stream.time_base or Fraction(1), container.format.name, codec, stream.index,
        not damaged, frame_map,
    )  # fmt: skip


def _changes_stream(packet: Packet) -> bool:
    """Whether the container states that the stream changes at this packet. (Old PyAV cannot tell.)"""
    for beside in getattr(packet, "iter_sidedata", tuple)():  # noqa: SIM110 (half the time of any())
        if beside.data_type in _CHANGES:
            return True
    return False


# ---- From packets to frames ------------------------------------------------------------------------------------------


def map_frames(
    pictures: Sequence[Picture], times: Sequence[int | None], codec: str, held: int, jumps: bool
) -> FrameMap | None:
    """The frame map of a stream; None if the number or order of frames is uncertain.

    times: of the pictures, in any unit. held: pictures that the decoder holds back for reordering; H.264 and HEVC.
    jumps: whether decoding may start at other pictures than the first.
    """
    if not pictures or not pictures[0].start:
        return None
    order = _presentation_order(pictures, times, codec, held)
    if order is None or order[0] != 0:
        return None
    frame_of = [-1] * len(pictures)
    for frame, packet in enumerate(order):
        frame_of[packet] = frame
    # Pictures that follow a start in the file but are shown before it (open GOP) may refer to what lies before it.
    starts: list[int] = []
    start_of = [-1] * len(pictures)
    for i, picture in enumerate(pictures):
        if picture.shown:
            if picture.start and (jumps or not starts):
                starts.append(i)
            latest = starts[-1]
            if frame_of[latest] > frame_of[i]:
                latest = next(k for k in reversed(starts) if frame_of[k] <= frame_of[i])
            start_of[i] = latest
    top_layer = max(picture.layer for picture in pictures)
    return FrameMap(order, frame_of, start_of, starts, [p.spare and p.layer == top_layer for p in pictures])


def _presentation_order(
    pictures: Sequence[Picture], times: Sequence[int | None], codec: str, held: int
) -> list[int] | None:
    """The packets of the shown pictures in presentation order; None if it is uncertain."""
    shown = [i for i, picture in enumerate(pictures) if picture.shown]
    if codec == "mpeg4":
        if len(shown) < len(pictures) and not any(picture.spare for picture in pictures):
            return None  # without B-frames FFmpeg repeats the last picture for a placeholder at the end
        order: list[int] = []
        for i in shown:  # a B-frame is shown at once, anything else when the next one that is no B-frame arrives
            order.insert(len(order) - 1 if pictures[i].spare and order else len(order), i)
        return order
    positions = [picture.position for picture in pictures if picture.position is not None]
    if not positions:
        return shown  # VP8, VP9 and AV1 do not reorder
    order = sorted(shown, key=positions.__getitem__)
    in_time = [times[i] for i in order]
    if len(set(positions)) < len(positions) or any(a is None or b is None or a >= b for a, b in pairwise(in_time)):
        return None  # the time stamps contradict the headers of the pictures
    if order != shown and not _held_back(pictures, positions, order, held):
        return None
    return order


def _held_back(pictures: Sequence[Picture], positions: Sequence[int], order: Sequence[int], held: int) -> bool:
    """Whether a decoder that holds back `held` pictures outputs them in order.

    Beyond that number it outputs one picture for each input, so no picture may come later than that after its place. It
    also does not reorder across a key picture, and an intra picture may act as one.
    """
    if max(packet - frame for frame, packet in enumerate(order)) > held:
        return False
    before = [positions[0], *accumulate(positions, max)]
    after = [*accumulate(reversed(positions), min)][::-1]
    last = len(positions) - 1
    return not any(picture.intra and 0 < i < last and before[i] > after[i + 1] for i, picture in enumerate(pictures))
