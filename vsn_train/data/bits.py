"""Reading the headers of compressed pictures, bit by bit."""

from __future__ import annotations


class Bits:
    """A bit reader, most significant bit first. Every method raises ValueError past the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self.left = 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        self.left -= count  # Python refuses to shift by less than nothing
        return self._value >> self.left & (1 << count) - 1

    def rest(self) -> tuple[int, int]:
        """The remaining bits as a number, and their count, without the stuffing (a 0 and ones) of the last byte."""
        value, count = self._value & (1 << self.left) - 1, self.left
        while value & 1:
            value, count = value >> 1, count - 1
        return value >> 1, count - 1

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code (H.264, clause 9.1: ue)."""
        rest = self._value & (1 << self.left) - 1
        length = 2 * (self.left - rest.bit_length()) + 1
        self.left -= length
        return (rest >> self.left) - 1

    def signed(self) -> int:
        """A signed Exp-Golomb code (se)."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def without_emulation(data: bytes) -> bytes:
    """Remove the emulation prevention bytes of H.264 and HEVC (clause 7.4.1)."""
    return data.replace(b"\0\0\3", b"\0\0") if b"\0\0\3" in data else data
