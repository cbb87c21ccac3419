"""Parse the pictures of AV1 streams (AV1 bitstream and decoding process specification, 5.3, 5.5.1 and 5.9.2)."""

from __future__ import annotations

from typing import NamedTuple

from vsn_train.data.bits import Bits
from vsn_train.data.pictures import Contradiction, Picture

_KEY, _INTRA, _SWITCH = 0, 2, 3  # kinds of frames
_SEQUENCE, _HEADER, _FRAME = 1, 3, 6  # kinds of open bitstream units
_HEAD = 24  # bytes, more than is read of a frame header
_CHOOSE = 2  # stated in each frame


class _Sequence(NamedTuple):
    """The fields used of a sequence header. screen, whole_motion: 0, 1 or _CHOOSE."""

    id_bits: int
    screen: int
    whole_motion: int
    order_bits: int


def _parse_sequence(data: bytes) -> _Sequence:
    """Parse a sequence header. Raises ValueError for still pictures, decoder models and unnumbered frames."""
    bits = Bits(data)
    bits.take(3)
    if bits.take(2):
        raise ValueError  # still picture
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.golomb()  # uvlc is the same code
        if bits.take(1):
            raise ValueError  # decoder model
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delays and bits.take(1):
            bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width_bits + height_bits)
    id_bits = bits.take(4) + bits.take(3) + 3 if bits.take(1) else 0
    bits.take(3 + 4)
    if not bits.take(1):
        raise ValueError
    bits.take(2)
    screen = _CHOOSE if bits.take(1) else bits.take(1)
    whole_motion = _CHOOSE
    if screen:
        whole_motion = _CHOOSE if bits.take(1) else bits.take(1)
    return _Sequence(id_bits, screen, whole_motion, bits.take(3) + 1)


class Av1Parser:
    """A packet is a temporal unit, which shows exactly one picture.

    Shown pictures are numbered consecutively from a key picture on, which reveals a missing packet: dav1d refuses some
    of the pictures after it.
    """

    def __init__(self, extradata: bytes) -> None:
        # The sequence header in the container may differ slightly from the one in the first packet.
        units = _open_bitstream_units(extradata[4:]) or []
        self._data = next((data for kind, data in units if kind == _SEQUENCE), None)
        self._sequence: _Sequence | None = None
        self._first = True
        self._order: int | None = None  # of the last picture that was shown
        self._slots = [-1] * 8  # order of the pictures that may be referred to

    def __call__(self, data: bytes) -> Picture | None:
        units = _open_bitstream_units(data)
        if units is None:
            return None
        shown, start, first = 0, False, True
        try:
            for kind, payload in units:
                if kind == _SEQUENCE:
                    if not self._first and self._data != payload:
                        raise Contradiction
                    self._data, self._first = payload, False
                elif kind in (_HEADER, _FRAME):
                    if self._sequence is None:
                        self._sequence = _parse_sequence(self._data or b"")
                    visible, key = self._frame(Bits(payload), self._sequence)
                    start |= first and key and visible
                    shown += visible
                    first = False
        except Contradiction:
            raise
        except ValueError:
            return None
        self._first = False
        return Picture(start=start) if shown == 1 else None

    def _frame(self, bits: Bits, sequence: _Sequence) -> tuple[bool, bool]:
        """(shown, coded key picture) of a frame header. Raises Contradiction if an earlier picture is missing,
        ValueError if the header is truncated."""
        if bits.take(1):  # shows an earlier picture
            self._show(self._slots[bits.take(3)], False)
            return True, False
        kind, shown = bits.take(2), bits.take(1) == 1
        if not shown:
            bits.take(1)
        fresh = kind == _KEY and shown
        resilient = kind == _SWITCH or fresh or bits.take(1) == 1
        bits.take(1)
        screen = bits.take(1) if sequence.screen == _CHOOSE else sequence.screen
        if screen and sequence.whole_motion == _CHOOSE:
            bits.take(1)
        bits.take(sequence.id_bits + (kind != _SWITCH))
        order = bits.take(sequence.order_bits)
        if not resilient and kind not in (_KEY, _INTRA):
            bits.take(3)
        refreshed = 255 if kind == _SWITCH or fresh else bits.take(8)
        for slot in range(8):
            if refreshed >> slot & 1:
                self._slots[slot] = order
        if shown:
            self._show(order, fresh)
        return shown, kind == _KEY

    def _show(self, order: int, fresh: bool) -> None:
        if order < 0 or self._sequence is None:
            raise Contradiction
        following = 0 if self._order is None else (self._order + 1) % (1 << self._sequence.order_bits)
        if not fresh and order != following:
            raise Contradiction
        self._order = order


def _open_bitstream_units(data: bytes) -> list[tuple[int, bytes]] | None:
    """The units as (kind, start of the payload; the whole one of a sequence header); None if they do not fill the
    data."""
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
        units.append((kind, data[position : position + (size if kind == _SEQUENCE else min(size, _HEAD))]))
        position += size
    return units
