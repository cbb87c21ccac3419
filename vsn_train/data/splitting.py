"""Packets of MPEG-4 that hold two pictures, taken apart."""

from __future__ import annotations

from vsn_train.data.pictures import VOP, Contradiction

_PLACE_HOLDER = 19  # bytes at most, by FFmpeg's bound, of the packet that stands where a packed B-frame is shown


class Mpeg4Splitter:
    """(What is in a packet, where it lies in the file) -> the same of each picture, in the order of decoding.

    DivX and Xvid pack a B-frame behind the picture that is decoded before it, so that players which hand out one
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
