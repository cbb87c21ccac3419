"""Parse the pictures of H.264 streams.

ITU-T H.264 (08/2021): clauses 7.3 (syntax), 8.2.1 (picture order count), 8.2.5.2 (gaps in frame_num).
"""

from __future__ import annotations

from typing import NamedTuple

from vsn_train.data.bits import Bits, without_emulation
from vsn_train.data.h26x import READ_WHOLE, RUN, SLICE_HEAD, WHOLE_HEAD, Encoder, next_order
from vsn_train.data.pictures import Picture


class _Sequence(NamedTuple):
    """The fields used of a sequence parameter set. reorder: pictures held back for reordering; None: not stated."""

    separate_planes: bool
    colour: bool
    frame_num_bits: int
    order_kind: int
    order_bits: int
    frames_only: bool
    depth_offset: int
    reorder: int | None


class _Parameters(NamedTuple):
    """The fields used of a picture parameter set."""

    sequence: int
    arithmetic: bool
    bottom_order: bool
    references: tuple[int, int]
    weighted: bool
    weighted_both: bool
    quantizer: int
    deblocking: bool
    redundant: bool


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _skip_hrd(bits: Bits) -> None:
    count = bits.golomb() + 1
    bits.take(8)
    for _ in range(count):
        bits.golomb()
        bits.golomb()
        bits.take(1)
    bits.take(20)


def _reorder(bits: Bits) -> int | None:
    """num_reorder_frames of vui_parameters."""
    if bits.take(1) and bits.take(8) == 255:  # pixel aspect
        bits.take(32)
    if bits.take(1):  # overscan
        bits.take(1)
    if bits.take(1):  # colours
        bits.take(4)
        if bits.take(1):
            bits.take(24)
    if bits.take(1):
        bits.golomb()
        bits.golomb()
    if bits.take(1):
        bits.take(65)
    buffers = [bits.take(1)]
    if buffers[0]:
        _skip_hrd(bits)
    buffers.append(bits.take(1))
    if buffers[1]:
        _skip_hrd(bits)
    if any(buffers):
        bits.take(1)
    bits.take(1)
    if not bits.take(1):
        return None
    bits.take(1)
    for _ in range(4):
        bits.golomb()
    return bits.golomb()


def _parse_sequence(data: bytes) -> tuple[int, _Sequence]:
    """(id, sequence parameter set) of a NAL unit."""
    bits = Bits(without_emulation(data[1:]))
    profile = bits.take(8)
    bits.take(16)
    identity = bits.golomb()
    chroma, separate, depth = 1, 0, 0
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.golomb()
        separate = bits.take(1) if chroma == 3 else 0
        depth = bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    order_kind = bits.golomb()
    order_bits = bits.golomb() + 4 if order_kind == 0 else 0
    if order_kind not in (0, 2) or frame_num_bits > 16 or order_bits > 16:
        raise ValueError
    bits.golomb()
    bits.take(1)
    bits.golomb()
    bits.golomb()
    frames_only = bits.take(1)
    bits.take(1 if frames_only else 2)
    if bits.take(1):
        for _ in range(4):
            bits.golomb()
    reorder = _reorder(bits) if bits.take(1) else None
    return identity, _Sequence(
        bool(separate), bool(chroma) and not separate, frame_num_bits, order_kind, order_bits, bool(frames_only),
        6 * depth, reorder,
    )  # fmt: skip


def _parse_parameters(data: bytes) -> tuple[int, _Parameters]:
    """(id, picture parameter set) of a NAL unit."""
    bits = Bits(without_emulation(data[1:]))
    identity, sequence = bits.golomb(), bits.golomb()
    arithmetic, bottom_order = bits.take(1), bits.take(1)
    if bits.golomb():
        raise ValueError  # slice groups
    references = bits.golomb() + 1, bits.golomb() + 1
    weighted, weighted_both = bits.take(1), bits.take(2)
    quantizer = 26 + bits.signed()
    bits.signed()
    bits.signed()
    deblocking = bits.take(1)
    bits.take(1)
    return identity, _Parameters(
        sequence, bool(arithmetic), bool(bottom_order), references, bool(weighted), weighted_both == 1, quantizer,
        bool(deblocking), bool(bits.take(1)),
    )  # fmt: skip


def _check_header(
    bits: Bits, kind: int, key: bool, reference: bool, sequence: _Sequence, parameters: _Parameters
) -> None:
    """Check the rest of a slice header, after the picture order count. kind: 0 P, 1 B, 2 I. Raises ValueError for
    invalid values, which mean damage or other parameter sets, and for a reset of the count without a key picture."""
    counts = list(parameters.references)
    if kind == 1:
        bits.take(1)
    if kind < 2:
        if bits.take(1):
            counts[0] = bits.golomb() + 1
            if kind == 1:
                counts[1] = bits.golomb() + 1
        if max(counts) > 16:
            raise ValueError
        for _ in range(kind + 1):
            if bits.take(1):
                while (change := bits.golomb()) != 3:
                    if change > 3:
                        raise ValueError
                    bits.golomb()
    if (kind == 0 and parameters.weighted) or (kind == 1 and parameters.weighted_both):
        if bits.golomb() > 7 or (sequence.colour and bits.golomb() > 7):
            raise ValueError
        for count in counts[: kind + 1]:
            for _ in range(count):
                for number in (2, 4)[: 1 + sequence.colour]:
                    for _ in range(number * bits.take(1)):
                        bits.signed()
    if key:
        if bits.take(2) & 2:
            raise ValueError  # no_output_of_prior_pics_flag: frames before it may vanish
    elif reference and bits.take(1):
        while change := bits.golomb():
            if change == 5 or change > 6:
                raise ValueError
            for _ in range(1 + (change == 3)):
                bits.golomb()
    if parameters.arithmetic and kind < 2 and bits.golomb() > 2:
        raise ValueError
    if kind > 2 or not -sequence.depth_offset <= parameters.quantizer + bits.signed() <= 51:
        raise ValueError
    if parameters.deblocking:
        switch = bits.golomb()
        if switch > 2 or (switch != 1 and max(abs(bits.signed()), abs(bits.signed())) > 6):
            raise ValueError
    filling = bits.left % 8
    if parameters.arithmetic and bits.take(filling) != (1 << filling) - 1:
        raise ValueError


class H264Parser:
    """H.264 in MP4 or Matroska. extradata: an AVCDecoderConfigurationRecord; raises ValueError for anything else.

    reorder: number of pictures that a decoder must hold back, as stated in the stream; None: not stated.
    """

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 7 or extradata[0] != 1:
            raise ValueError
        self._length_size = (extradata[4] & 3) + 1
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequences: dict[int, _Sequence] = {}
        self._parameters: dict[int, _Parameters] = {}
        self._encoder = Encoder()
        self._packets = 0
        self._run = self._order = self._frame_num = self._frame_offset = self._last_frame_num = self._in_run = 0
        self._sequence: _Sequence | None = None
        position, count = 6, extradata[5] & 31
        for kind in (7, 8):
            for _ in range(count):
                size = int.from_bytes(extradata[position : position + 2], "big")
                self._learn(kind, extradata[position + 2 : position + 2 + size])
                position += 2 + size
            count = extradata[position] if kind == 7 and position < len(extradata) else 0
            position += 1

    @property
    def reorder(self) -> int | None:
        return self._sequence.reorder if self._sequence else None

    def _learn(self, kind: int, data: bytes) -> bool:
        """Store a parameter set. Returns False if it differs from the earlier one with the same id."""
        data = data.rstrip(b"\0")
        if kind == 7:
            identity, sequence = _parse_sequence(data)
            self._sequences.setdefault(identity, sequence)
        else:
            identity, parameters = _parse_parameters(data)
            self._parameters.setdefault(identity, parameters)
        if self._packets <= 1:
            return self._sets.setdefault((kind, identity), data) == data
        return self._sets.get((kind, identity)) == data

    def __call__(self, data: bytes) -> Picture | None:
        self._packets += 1
        try:
            return self._picture(data)
        except (ValueError, IndexError, KeyError):
            return None

    def _picture(self, data: bytes) -> Picture | None:
        position = pictures = 0
        size = self._length_size
        spare, refresh = True, False
        first: tuple[bool, int, bool] | None = None
        while position < len(data):
            nal = position + size
            position = nal + int.from_bytes(data[position:nal], "big")
            if not nal < position <= len(data):
                return None
            kind = data[nal] & 0x1F
            if kind == 1 or kind == 5:
                # The first slice of a picture, which starts at its first block, has all information.
                if data[nal + 1] & 0x80:
                    pictures += 1
                    size_read = SLICE_HEAD if kind == 1 and self._in_run >= READ_WHOLE else WHOLE_HEAD
                    first = self._slice(data[nal : min(position, nal + size_read)])
                    if first is None:
                        return None
                spare &= data[nal] & 0x60 == 0
            elif kind == 7 or kind == 8:
                spare = False
                if not self._learn(kind, data[nal:position]):
                    return None
            elif kind == 6:
                refresh |= data[nal + 1] == 6
                if not self._encoder.is_the_same(data[nal:position], self._packets == 1):
                    return None
            elif kind in (2, 3, 4, 20, 21) or data[nal] & 0x80:
                return None  # data partitions, scalable or stereo coding
        if pictures != 1 or first is None:
            return None
        return Picture(True, first[0], spare, 0, first[1], first[2] or refresh)

    def _slice(self, data: bytes) -> tuple[bool, int, bool] | None:
        """(key picture, position, intra) of the picture with this first slice; None for a field, and if an earlier
        picture is missing."""
        key, reference = data[0] & 0x1F == 5, data[0] & 0x60 != 0
        payload = without_emulation(data[1:])
        # Inlined for speed, since it runs for every packet: Exp-Golomb codes of 0, then of two values (see Bits).
        left = 8 * len(payload) - 1
        rest = int.from_bytes(payload, "big") & (1 << left) - 1
        left -= 2 * (left - rest.bit_length()) + 1
        kind = (rest >> left) - 1
        rest &= (1 << left) - 1
        left -= 2 * (left - rest.bit_length()) + 1
        parameters = self._parameters[(rest >> left) - 1]
        sequence = self._sequences[parameters.sequence]
        if self._sequence is None:
            self._sequence = sequence
        if kind > 9 or parameters.redundant or sequence.separate_planes or sequence is not self._sequence:
            return None
        left -= sequence.frame_num_bits
        frame_num = rest >> left & (1 << sequence.frame_num_bits) - 1
        if not sequence.frames_only:
            left -= 1
            if rest >> left & 1:
                return None
        self._in_run = 1 if key else self._in_run + 1
        bits: Bits | None = None
        if self._in_run <= READ_WHOLE or parameters.bottom_order:
            bits = Bits(payload)
            bits.left = left
        if key:
            if frame_num or not reference or bits is None:
                return None
            bits.golomb()
            left = bits.left
            self._run += 1
            self._order = self._frame_offset = 0
        elif frame_num != (self._frame_num + 1) % (1 << sequence.frame_num_bits):
            return None
        if sequence.order_kind == 0:
            left -= sequence.order_bits
            order = next_order(rest >> left & (1 << sequence.order_bits) - 1, self._order, 1 << sequence.order_bits)
            if reference:
                self._order = order
            if bits is not None:
                bits.left = left
                if parameters.bottom_order:
                    order += min(0, bits.signed())
        else:
            if frame_num < self._last_frame_num and not key:
                self._frame_offset += 1 << sequence.frame_num_bits
            order = 2 * (self._frame_offset + frame_num) - (not reference)
        self._last_frame_num = frame_num
        if reference:
            self._frame_num = frame_num
        if bits is not None and self._in_run <= READ_WHOLE:
            _check_header(bits, kind % 5, key, reference, sequence, parameters)
        return key, self._run * RUN + order, kind % 5 == 2
