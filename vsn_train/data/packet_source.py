"""Packets of a video file, read again from where they lie in it."""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from vsn_train.data.packets import PacketTable, splitter_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream


class PacketSource:
    """open_container: opens the file once more; taken where its packets do not lie in one piece. Close it."""

    def __init__(
        self, path: str, table: PacketTable, stream: VideoStream,
        open_container: Callable[[str], tuple[InputContainer, VideoStream]],
    ) -> None:  # fmt: skip
        self._path = path
        self._table = table
        self._stream = stream
        self._open_container = open_container
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def pictures(self, run: Sequence[int]) -> Iterator[Packet]:
        """The pictures of these numbers, one a packet; its pts is its number. run: ascending.

        Raises OSError where the file is not what it was any more.
        """
        firsts = self._table.firsts
        if firsts is None:
            for number, packet in zip(run, self._packets(run), strict=True):
                yield _numbered(packet, number)
            return
        wanted = set(run)
        first, last = (bisect_right(firsts, number) - 1 for number in (run[0], run[-1]))
        splitter = splitter_of(self._stream)
        assert splitter is not None
        for packet, number in zip(self._packets(range(first, last + 1)), firsts[first : last + 1], strict=True):
            for place, part in enumerate(splitter.split(packet)):
                if number + place in wanted:
                    yield _numbered(part, number + place)

    def _packets(self, wanted: Sequence[int]) -> Iterator[Packet]:
        """The packets of these numbers, as they are in the file."""
        import av

        table = self._table
        for done, number in enumerate(wanted):
            size = table.sizes[number]
            data = self._read(size, table.places[number])
            if len(data) != size or zlib.adler32(data) != table.checks[number]:
                yield from self._demuxed(wanted[done:])
                return
            packet = av.Packet(size)  # its memory is padded with zeros, as decoders expect
            packet.update(data)
            packet.is_keyframe = table.keys[number]
            yield packet

    def _read(self, size: int, place: int) -> bytes:
        if place < 0:
            return b""
        if hasattr(os, "pread"):
            return os.pread(self._file, size, place)
        os.lseek(self._file, place, os.SEEK_SET)
        return os.read(self._file, size)

    def _demuxed(self, wanted: Sequence[int]) -> Iterator[Packet]:
        """The same where a packet is put together from several pieces: read all from the start."""
        table = self._table
        container, stream = self._open_container(self._path)
        with container:
            left = iter(wanted)
            due = next(left, None)
            for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
                if due is None:
                    return
                if number == due:
                    if zlib.adler32(bytes(packet)) != table.checks[number]:
                        break
                    yield packet
                    due = next(left, None)
        if due is not None:
            raise OSError("the file was changed while it was open")


def _numbered(packet: Packet, number: int) -> Packet:
    packet.pts, packet.dts = number, None  # the decoder hands pts on to the image
    return packet
