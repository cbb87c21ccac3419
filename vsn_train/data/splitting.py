"""Packets that hold several pictures, taken apart."""

from __future__ import annotations

from collections.abc import Callable

from vsn_train.data.pictures import VOP, Contradiction

# (what is in a packet, where it lies in the file) -> the same of each picture, in the order of decoding
Splitter = Callable[[bytes, int], list[tuple[bytes, int]]]

_PLACE_HOLDER = 19  # bytes at most, by FFmpeg's bound, of the packet that stands where a packed B-frame is shown


class Mpeg4Splitter:
    """DivX and Xvid pack a B-frame behind the picture that is decoded before it, so that players which hand out one
    picture for each packet never have to wait: a place holder follows, or further B-frames and then a place holder.

    Called with every packet of a stream in turn; one picture comes for each. Raises Contradiction for any other
    sequence: FFmpeg's decoder loses pictures there. used: whether any B-frame was packed.
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


def split_superframe(data: bytes, place: int) -> list[tuple[bytes, int]]:
    """VP9: hidden pictures come with the next shown one (bitstream specification, annex B). Raises Contradiction where
    the index at the end does not fit."""
    marker = data[-1]
    if marker & 0xE0 != 0xC0:
        return [(data, place)]
    count, bytes_each = (marker & 7) + 1, (marker >> 3 & 3) + 1
    end = len(data) - 2 - count * bytes_each
    if end < 0 or data[end] != marker:
        return [(data, place)]
    parts: list[tuple[bytes, int]] = []
    position = 0
    for i in range(count):
        size = int.from_bytes(data[end + 1 + i * bytes_each : end + 1 + (i + 1) * bytes_each], "little")
        if not 0 < size <= end - position:
            raise Contradiction
        parts.append((data[position : position + size], place + position))
        position += size
    return parts


def splitter_of(codec: str) -> Splitter | None:
    """None for codecs that never put several pictures into a packet. codec: FFmpeg's name."""
    if codec == "mpeg4":
        return Mpeg4Splitter()
    return split_superframe if codec == "vp9" else None
