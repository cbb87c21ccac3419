"""What one packet of a compressed video holds, read from its headers alone, without decoding.

A parser is made for a stream from what the container says of it, and is called with every packet in turn. It returns
the picture in the packet, or None where it does not understand it. It raises Contradiction where something that must be
the same throughout (parameter sets, volume header, size, what encoded it) is another than before. In both cases nothing
can be said about the stream any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vsn_train.data.bits import Bits


class Picture(NamedTuple):
    """The picture in one packet.

    shown: it gives a frame. start: decoding may start here. spare: nothing in its temporal layer refers to it.
    position: pictures are shown in the order of it; None: the codec has another rule. intra: it refers to no other.
    """

    shown: bool = True
    start: bool = False
    spare: bool = False
    layer: int = 0
    position: int | None = None
    intra: bool = False


Parser = Callable[[bytes], Picture | None]


class Contradiction(ValueError):
    """Something that has to be the same throughout a stream is another than before, or a picture is missing."""


_START = b"\0\0\1"
VOP = b"\0\0\1\xb6"  # MPEG-4 part 2: here a picture begins


class Mpeg4Parser:
    """MPEG-4 part 2 (ISO/IEC 14496-2; DivX, Xvid): packets that hold at most one picture (splitting.py).

    How FFmpeg orders pictures depends on low_delay: with it each is shown at once, without it all but B-frames are held
    back for one picture. It takes the flag from volume headers and clears it at the first B-frame, so streams that
    change it lose or repeat a picture. B-frames whose time lies outside their neighbours' are passed over.
    """

    def __init__(self, extradata: bytes) -> None:
        self._known = set(extradata.split(_START)[1:])
        self._volume: _Volume | None = None
        self._first = True
        self._seconds = self._last_seconds = 0
        self._last_anchor = self._distance = 0

    def __call__(self, data: bytes) -> Picture | None:
        position = data.find(VOP)
        if position < 0 and len(data) <= 19:  # FFmpeg's bound for place holders too
            return _NOTHING
        if position < 0 or len(data) - position <= 19:
            return None  # a tiny picture or a place holder: not worth telling apart
        if position or self._first:
            self._compare(data[:position])
        return self._picture(int.from_bytes(data[position + 4 : position + 20], "big"), self._volume)

    def _compare(self, headers: bytes) -> None:
        """The headers before a picture have to be those known from the container or the first packet."""
        first, self._first = self._first, False
        for chunk in headers.split(_START)[1:]:
            if chunk[:1] == b"\xb3":  # group of pictures: a time code
                bits = Bits(chunk[1:4])
                hours, minutes = bits.take(5), bits.take(6)
                bits.take(1)
                self._seconds = bits.take(6) + 60 * (minutes + 60 * hours)
            elif first:
                self._known.add(chunk)
            elif chunk not in self._known:
                if not _is_volume(chunk) or self._volume is None or _parse_volume(chunk) != self._volume:
                    raise Contradiction
                self._known.add(chunk)  # encoders that start anew at a cut describe their buffer differently
        if first:
            volumes = [chunk for chunk in self._known if _is_volume(chunk)]
            if len(volumes) > 1:
                raise Contradiction
            self._volume = _parse_volume(volumes[0]) if volumes else None

    def _picture(self, head: int, volume: _Volume | None) -> Picture | None:
        """head: the 128 bits after the start code."""
        if volume is None:
            return None
        kind = head >> 126  # 0 I, 1 P, 2 B, 3 S
        left = 126
        while head >> left - 1 & 1:  # whole seconds; at most 60, so that the rest is there
            left -= 1
            if left < 66:
                return None
        seconds = 126 - left
        left -= 2 + volume.time_bits
        fraction = head >> left & (1 << volume.time_bits) - 1
        # A marker on either side; then vop_coded: without it there is no image.
        if not head >> left + volume.time_bits & 1 or head >> left - 2 & 3 != 3:
            return None
        left -= 2
        if kind == 2:
            if volume.low_delay or volume.interlaced:
                return None
            time = (self._last_seconds + seconds) * volume.resolution + fraction
            before = (self._distance - (self._last_anchor - time)) & 0xFFFF
            if not 0 < before < self._distance:
                raise Contradiction  # FFmpeg passes over it
        else:
            self._last_seconds = self._seconds
            self._seconds += seconds
            time = self._seconds * volume.resolution + fraction
            if kind and time < self._last_anchor:
                raise Contradiction  # what it refers to is missing
            self._distance = (time - self._last_anchor) & 0xFFFF
            self._last_anchor = time
        if kind != 3:
            # Of the rest of the header: a quantizer or a range of motion of 0 is damage.
            left -= (kind == 1) + 3 + 2 * volume.interlaced + volume.quantizer_bits
            ranges = head >> left - 6 & 63
            if (
                not head >> left & (1 << volume.quantizer_bits) - 1
                or (kind and not ranges >> 3)
                or (kind == 2 and not ranges & 7)
            ):
                raise Contradiction
        return _KINDS[kind]


_NOTHING = Picture(shown=False)
_KINDS = [Picture(start=kind == 0, spare=kind == 2) for kind in range(4)]


class _Volume(NamedTuple):
    """What decoding depends on. rest: the bits from the shape on, and how many."""

    kind: int
    version: int
    low_delay: bool
    resolution: int
    time_bits: int
    interlaced: bool
    quantizer_bits: int
    rest: tuple[int, int]


def _is_volume(chunk: bytes) -> bool:
    return chunk[:1] != b"" and 0x20 <= chunk[0] < 0x30


def _parse_volume(chunk: bytes) -> _Volume | None:
    """video_object_layer_header; None where it is not of plain rectangular pictures."""
    bits = Bits(chunk[1:].rstrip(b"\0"))
    try:
        bits.take(1)
        kind = bits.take(8)
        version = 1
        if bits.take(1):
            version = bits.take(4)
            bits.take(3)
        if bits.take(4) == 15:  # pixel aspect
            bits.take(16)
        low_delay = kind in (1, 17)  # what FFmpeg assumes for simple and advanced simple
        if bits.take(1):
            bits.take(2)
            low_delay = bits.take(1) == 1
            if bits.take(1):
                bits.take(79)
        rest = bits.rest()
        if bits.take(2) or not bits.take(1):  # shape, marker
            return None
        resolution = bits.take(16)
        if not resolution or not bits.take(1):
            return None
        time_bits = max(1, (resolution - 1).bit_length())
        if bits.take(1):
            bits.take(time_bits)
        bits.take(1 + 13 + 1 + 13 + 1)
        interlaced = bits.take(1) == 1
        bits.take(1)
        sprite = bits.take(1 if version == 1 else 2)
        if sprite == 1:
            return None  # one still picture moved about
        if sprite == 2:
            bits.take(6 + 2 + 1)
        quantizer_bits = bits.take(4) if bits.take(1) else 5
    except ValueError:
        return None
    return _Volume(kind, version, low_delay, resolution, time_bits, interlaced, quantizer_bits, rest)


_SHOWN_START = [[Picture(shown=shown, start=start) for start in (False, True)] for shown in (False, True)]


class Vp8Parser:
    """VP8 (RFC 6386, section 9.1)."""

    def __init__(self) -> None:
        self._size: bytes | None = None

    def __call__(self, data: bytes) -> Picture | None:
        if len(data) < 4:
            return None  # FFmpeg refuses it
        tag = int.from_bytes(data[:3], "little")
        key = not tag & 1
        if tag >> 1 & 7 > 3 or tag >> 5 > len(data) - (10 if key else 3):
            return None
        if key:
            if data[3:6] != b"\x9d\x01\x2a" or (self._size or data[6:10]) != data[6:10]:
                raise Contradiction
            self._size = data[6:10]
        return _SHOWN_START[tag & 0x10 != 0][key]


class Vp9Parser:
    """VP9 (bitstream specification, section 6.2 and annex B): a packet holds hidden pictures and one that is shown.

    The whole uncompressed header is read: FFmpeg refuses pictures in which it is wrong, and gives one frame less then.
    """

    def __init__(self) -> None:
        self._sequence: bytes | None = None
        self._columns = 0  # of blocks of 64 pixels

    def __call__(self, data: bytes) -> Picture | None:
        if data[-1] & 0xE0 != 0xC0:
            return self._picture(data)
        pictures = [self._picture(part) for part in _split_superframe(data)]
        known = [picture for picture in pictures if picture is not None]
        if len(known) < len(pictures) or sum(picture.shown for picture in known) > 1:
            return None
        return _SHOWN_START[any(picture.shown for picture in known)][known[0].start]

    def _picture(self, data: bytes) -> Picture | None:
        if data[0] >> 6 != 2 or data[0] & 0x30 == 0x30:  # no frame marker; profile 3 has its bits elsewhere
            return None
        if data[0] & 0x08:  # shows an earlier picture again
            return Picture()
        shown = data[0] & 0x02 != 0
        key = data[0] & 0x04 == 0
        if key:
            sequence = bytes([data[0] & 0x30]) + data[1:8]  # profile, sync code, colours, most of the size
            if data[1:4] != _VP9_SYNC or (self._sequence or sequence) != sequence:
                raise Contradiction
            self._sequence = sequence
        try:
            self._check(Bits(data[1:_VP9_HEAD]), len(data), data[0] >> 4 & 3, key, shown, data[0] & 1 != 0)
        except ValueError:
            raise Contradiction from None
        return _SHOWN_START[shown][shown and key]

    def _check(self, bits: Bits, size: int, profile: int, key: bool, shown: bool, resilient: bool) -> None:
        """Read the header behind its first byte. profile: its bits in the order of the stream. Raises ValueError."""
        length = bits.left
        intra = key
        if not key:
            intra = not shown and bits.take(1) == 1
            bits.take(0 if resilient else 2)
        if intra:
            if bits.take(24) != int.from_bytes(_VP9_SYNC, "big"):
                raise ValueError
            if key or profile:
                _skip_vp9_colours(bits, profile)
        if not key:
            bits.take(8)
        if intra:
            self._columns = bits.take(16) // 64 + 1
            bits.take(16)
        else:
            bits.take(12)
            if not (bits.take(1) or bits.take(1) or bits.take(1)):
                self._columns = bits.take(16) // 64 + 1
                bits.take(16)
        if bits.take(1):
            bits.take(32)
        if not intra:
            bits.take(1)
            if not bits.take(1):
                bits.take(2)
        bits.take((0 if resilient else 2) + 2)
        bits.take(9)  # loop filter
        if bits.take(1) and bits.take(1):
            for _ in range(6):
                bits.take(7 * bits.take(1))
        bits.take(8)  # quantizers
        for _ in range(3):
            bits.take(5 * bits.take(1))
        if bits.take(1):
            _skip_vp9_segments(bits)
        fewest = 0
        while 64 << fewest < self._columns:
            fewest += 1
        tiles = fewest
        while self._columns >> tiles + 1 >= 4 and bits.take(1):
            tiles += 1
        if bits.take(1):
            bits.take(1)
        compressed = bits.take(16)
        filling = bits.left % 8
        if bits.take(filling) or not 0 < compressed <= size - 1 - (length - bits.left) // 8:
            raise ValueError


def _split_superframe(data: bytes) -> list[bytes]:
    """The pictures in a packet. Raises Contradiction where the index at the end does not fit."""
    marker = data[-1]
    if marker & 0xE0 != 0xC0:
        return [data]
    count, bytes_each = (marker & 7) + 1, (marker >> 3 & 3) + 1
    end = len(data) - 2 - count * bytes_each
    if end < 0 or data[end] != marker:
        return [data]
    parts: list[bytes] = []
    position = 0
    for i in range(count):
        size = int.from_bytes(data[end + 1 + i * bytes_each : end + 1 + (i + 1) * bytes_each], "little")
        if not 0 < size <= end - position:
            raise Contradiction
        parts.append(data[position : position + size])
        position += size
    return parts


_VP9_SYNC = b"\x49\x83\x42"
_VP9_HEAD = 130  # bytes, more than a header can have


def _skip_vp9_colours(bits: Bits, profile: int) -> None:
    """color_config. profile: low bit first, so that 2 is profile 1 (4:4:4, …) and 1 is profile 2 (more bits)."""
    if profile & 1:
        bits.take(1)
    if bits.take(3) != 7:
        bits.take(1)
        if profile & 2:
            bits.take(3)
    elif profile & 2:
        bits.take(1)
    else:
        raise ValueError  # RGB is 4:4:4


def _skip_vp9_segments(bits: Bits) -> None:
    if bits.take(1):
        for _ in range(7):
            bits.take(8 * bits.take(1))
        if bits.take(1):
            for _ in range(3):
                bits.take(8 * bits.take(1))
    if bits.take(1):
        bits.take(1)
        for _ in range(8):
            for length in (9, 7, 2, 0):
                bits.take(length * bits.take(1))


class Av1Parser:
    """AV1 (bitstream specification, section 5): a packet is a temporal unit, which shows exactly one picture."""

    def __init__(self, extradata: bytes) -> None:
        # What the container has may differ in trifles from what the first packet brings along.
        self._sequence = next((data for kind, data in _open_bitstream_units(extradata[4:]) or [] if kind == 1), None)
        self._first = True

    def __call__(self, data: bytes) -> Picture | None:
        units = _open_bitstream_units(data)
        if units is None:
            return None
        shown, start, first = 0, False, True
        for kind, payload in units:
            if kind == 1:
                if not self._first and self._sequence != payload:
                    raise Contradiction
                self._sequence, self._first = payload, False
            elif kind in (3, 6):  # frame header, frame
                if not payload or self._sequence is None or self._sequence[0] & 0x08:  # a single still picture
                    return None
                head = payload[0]
                key = head & 0x60 == 0
                visible = head & 0x80 != 0 or head & 0x10 != 0
                start |= first and head & 0x80 == 0 and key and visible
                shown += visible
                first = False
        self._first = False
        return Picture(start=start) if shown == 1 else None


def _open_bitstream_units(data: bytes) -> list[tuple[int, bytes]] | None:
    """(kind, the beginning of the payload; of a sequence header all of it); None where they do not fill the data."""
    units: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        head = data[position]
        position += 2 if head & 4 else 1
        size = len(data) - position
        if head & 2:
            size = shift = 0
            while True:
                if position >= len(data) or shift > 28:
                    return None
                byte = data[position]
                position += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        if head & 0x80 or size < 0 or position + size > len(data):
            return None
        kind = head >> 3 & 15
        units.append((kind, data[position : position + (size if kind == 1 else min(size, 1))]))
        position += size
    return units
