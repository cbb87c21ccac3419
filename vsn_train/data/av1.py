"""The pictures of AV1 streams."""

from __future__ import annotations

from vsn_train.data.pictures import Contradiction, Picture


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
