"""Read pictures of a video file again, by their positions in the file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from vsn_train.data.mpeg4 import Mpeg4Splitter
from vsn_train.data.packets import PacketTable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_BLOCK = 1 << 14  # bytes read at once: pictures that follow each other mostly lie together


class PacketSource:
    """Reads single pictures of an open file; close it after use.

    open_container: opens the file again, for packets that are not stored in one piece.
    """

    def __init__(
        self, path: str, table: PacketTable, open_container: Callable[[str], tuple[InputContainer, VideoStream]]
    ) -> None:
        self._path = path
        self._table = table
        self._open_container = open_container
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._block, self._block_place = b"", 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def pictures(self, run: Sequence[int]) -> Iterator[Packet]:
        """Yield the pictures with these numbers, one per packet; the packet's pts is the number. run: increasing.

        Raises OSError if the file has changed.
        """
        table = self._table
        for done, number in enumerate(run):
            size = table.sizes[number]
            data = self._read(size, table.places[number])
            if len(data) != size or zlib.adler32(data) != table.checks[number]:
                yield from self._demuxed(run[done:])
                return
            yield self._packet(number, data)

    def _read(self, size: int, place: int) -> bytes:
        if place < 0:
            return b""
        start = place - self._block_place
        if not 0 <= start <= start + size <= len(self._block):
            self._block, self._block_place, start = self._read_at(place, max(size, _BLOCK)), place, 0
        return self._block[start : start + size]

    def _read_at(self, place: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # does not move the file offset, which forked processes share
            return os.pread(self._file, size, place)
        os.lseek(self._file, place, os.SEEK_SET)
        return os.read(self._file, size)

    def _packet(self, number: int, data: bytes) -> Packet:
        import av

        packet = av.Packet(len(data))  # its memory is padded with zeros, as decoders expect
        packet.update(data)
        if self._table.keys[number]:
            packet.is_keyframe = True
        packet.pts = number  # the decoder copies it to the image
        return packet

    def _demuxed(self, run: Sequence[int]) -> Iterator[Packet]:
        """`pictures` for packets stored in several pieces: demux the file from the start."""
        container, stream = self._open_container(self._path)
        splitter = Mpeg4Splitter() if self._table.codec == "mpeg4" else None
        left = iter(run)
        due, number = next(left), 0
        with container:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                whole = bytes(packet)
                for data, _ in [(whole, 0)] if splitter is None else splitter(whole, 0):
                    if number == due:
                        if zlib.adler32(data) != self._table.checks[number]:
                            raise OSError("the file was changed while it was open")
                        yield self._packet(number, data)
                        if number == run[-1]:
                            return
                        due = next(left)
                    number += 1
        raise OSError("the file was changed while it was open")
