"""Parse the pictures of MPEG-4 part 2 streams (ISO/IEC 14496-2): DivX, Xvid."""

from __future__ import annotations

from typing import NamedTuple

from vsn_train.data.bits import Bits
from vsn_train.data.pictures import Contradiction, Picture

_START = b"\0\0\1"
VOP = b"\0\0\1\xb6"  # start code of a picture


class Mpeg4Parser:
    """MPEG-4 part 2 (ISO/IEC 14496-2; DivX, Xvid): packets that hold at most one picture; see Mpeg4Splitter.

    FFmpeg's output order depends on low_delay: with it each picture is shown at once; without it all pictures except
    B-frames are held back by one picture. FFmpeg takes the flag from volume headers and clears it at the first B-frame,
    so streams that change it lose or repeat a picture. It skips B-frames whose time is not between their neighbours'.
    """

    def __init__(self, extradata: bytes) -> None:
        self._known = set(extradata.split(_START)[1:])
        self._volume: _Volume | None = None
        self._first = True
        self._seconds = self._last_seconds = 0
        self._last_anchor = self._distance = 0

    def __call__(self, data: bytes) -> Picture | None:
        position = data.find(VOP)
        if position < 0 and len(data) <= 19:  # FFmpeg's bound for placeholders
            return _NOTHING
        if position < 0 or len(data) - position <= 19:
            return None  # a tiny picture or a placeholder; too rare to distinguish
        if position or self._first:
            self._compare(data[:position])
        return self._picture(int.from_bytes(data[position + 4 : position + 20], "big"), self._volume)

    def _compare(self, headers: bytes) -> None:
        """Compare the headers before a picture with those of container and first packet. Raises Contradiction."""
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
                self._known.add(chunk)  # an encoder that restarts at a cut describes its buffer differently
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
                raise Contradiction  # FFmpeg skips it
        else:
            self._last_seconds = self._seconds
            self._seconds += seconds
            time = self._seconds * volume.resolution + fraction
            if kind and time < self._last_anchor:
                raise Contradiction  # its reference is missing
            self._distance = (time - self._last_anchor) & 0xFFFF
            self._last_anchor = time
        if kind != 3:
            # In the rest of the header, a quantizer or a motion range of 0 means damage.
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
    """The fields that decoding depends on. rest: the bits from the shape on, and their number."""

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
    """Parse video_object_layer_header; None unless it is for plain rectangular pictures."""
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
            return None  # a static sprite
        if sprite == 2:
            bits.take(6 + 2 + 1)
        quantizer_bits = bits.take(4) if bits.take(1) else 5
    except ValueError:
        return None
    return _Volume(kind, version, low_delay, resolution, time_bits, interlaced, quantizer_bits, rest)


_PLACE_HOLDER = 19  # FFmpeg's bound, in bytes, for the packet that stands in for a packed B-frame


class Mpeg4Splitter:
    """Splits packed packets: (data, position in the file) of a packet -> the same of each picture, in decoding order.

    DivX and Xvid pack a B-frame behind the picture that is decoded before it, for players that show one picture per
    packet. A placeholder follows, or further B-frames and then a placeholder.

    Call it with every packet of a stream in order; it returns one picture for each. Raises Contradiction for any other
    sequence, in which FFmpeg's decoder loses pictures. used: whether any B-frame was packed.
    """

    def __init__(self) -> None:
        self.used = False
        self._waiting: tuple[bytes, int] | None = None

    def __call__(self, data: bytes, place: int) -> list[tuple[bytes, int]]:
        first = data.find(VOP)
        second = data.find(VOP, first + 1) if first >= 0 else -1
        waiting = self._waiting
        if second >= 0:
            if waiting or data.find(VOP, second + 1) >= 0:
                raise Contradiction
            self._waiting, self.used = (data[second:], place + second), True
            return [(data[:second], place)]
        if waiting is None:
            return [(data, place)]
        self._waiting = None
        if len(data) > _PLACE_HOLDER:
            if first != 0 or data[4] >> 6 != 2:
                raise Contradiction
            self._waiting = data, place
        return [waiting]
