"""What H.264 and HEVC streams have in common.

Their parsers find out from parameter sets and slice headers when each picture is shown, and whether one is missing.
Streams are read whose NAL units have lengths, as in MP4 and Matroska.
"""

from __future__ import annotations

SLICE_HEAD = 24  # bytes that hold the beginning of a slice header
# Of how many pictures from a key picture on the whole slice header is read, which takes three times as long. A header
# that belongs to other parameter sets than the current ones, as after a join without them, leads to more of these.
READ_WHOLE = 4
WHOLE_HEAD = 400  # bytes
RUN = 1 << 40  # further apart than any two picture order counts


def next_order(lsb: int, previous: int, modulus: int) -> int:
    """The picture order count with these low bits that is nearest to the previous one."""
    order = previous - previous % modulus + lsb
    if order - previous > modulus // 2:
        return order - modulus
    return order + modulus if previous - order >= modulus // 2 else order


class Encoder:
    """x264 and x265 write into their first packet which version they are and all that they were told. Another text
    later is another encoding, whose parameter sets may have been lost where files were joined."""

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
