"""Parse the pictures of VP8 and VP9 streams."""

from __future__ import annotations

from vsn_train.data.bits import Bits
from vsn_train.data.pictures import Contradiction, Picture

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
    """VP9 (bitstream specification, section 6.2 and annex B): a packet holds hidden pictures and one shown picture.

    Checks the whole uncompressed header: FFmpeg refuses a picture with an invalid one and returns one frame less.
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
        """Check the header after its first byte. profile: its bits in stream order. Raises ValueError."""
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
    """The pictures in a packet. Raises Contradiction if the index at its end does not match."""
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
_VP9_HEAD = 130  # bytes, more than the longest header


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
