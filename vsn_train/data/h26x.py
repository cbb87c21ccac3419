"""The common parts of the parsers of H.264 and HEVC streams.

The parsers determine from parameter sets and slice headers when each picture is shown and whether one is missing. They
read streams with length-prefixed NAL units, as in MP4 and Matroska.
"""

from __future__ import annotations

SLICE_HEAD = 24  # bytes that contain the start of a slice header
# The whole slice header is read, which takes three times as long, only of this many pictures from a key picture on.
# That suffices to detect headers for other parameter sets, as after files were joined without theirs.
READ_WHOLE = 4
WHOLE_HEAD = 400  # bytes that contain a whole slice header
RUN = 1 << 40  # more than the distance of any two picture order counts


def next_order(lsb: int, previous: int, modulus: int) -> int:
    """The picture order count that has these low bits and is nearest to the previous one."""
    order = previous - previous % modulus + lsb
    if order - previous > modulus // 2:
        return order - modulus
    return order + modulus if previous - order >= modulus // 2 else order


class Encoder:
    """Detects another encoding by the version and options that x264 and x265 write into their first packet. If files
    were joined, the parameter sets of the other encoding may be lost."""

    def __init__(self) -> None:
        self._text: bytes | None = None

    def is_the_same(self, message: bytes, first: bool) -> bool:
        """message: a NAL unit of supplemental information, of any kind. first: in the first packet."""
        place = max(message.find(b"x264 - core "), message.find(b"x265 (build "))
        if place < 0:
            return True
        text = message[place:]
        if first and self._text is None:
            self._text = text
        return text == self._text
