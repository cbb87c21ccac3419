"""The pictures of H.264 and HEVC streams, from their parameter sets and slice headers: when each is shown, and whether
one is missing.

ITU-T H.264 (08/2021): clauses 7.3 (syntax), 8.2.1 (picture order count), 8.2.5.2 (gaps in frame_num). ITU-T H.265
(08/2021): clauses 7.3 and 8.3.1. Streams are read whose NAL units have lengths, as in MP4 and Matroska.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vsn_train.data.bits import Bits, without_emulation
from vsn_train.data.pictures import Picture

_SLICE_HEAD = 24  # bytes that hold the beginning of a slice header
# Of how many pictures from a key picture on the whole slice header is read, which takes three times as long. A header
# that belongs to other parameter sets than those at hand, as after a join that lost them, is followed by more of these.
_READ_WHOLE = 4
_WHOLE_HEAD = 400  # bytes
_RUN = 1 << 40  # further apart than any two picture order counts


def _next_order(lsb: int, previous: int, modulus: int) -> int:
    """The picture order count with these low bits that is nearest to the previous one."""
    order = previous - previous % modulus + lsb
    if order - previous > modulus // 2:
        return order - modulus
    return order + modulus if previous - order >= modulus // 2 else order


class _Encoder:
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


# ---- H.264 -----------------------------------------------------------------------------------------------------------


class _H264Sequence(NamedTuple):
    """What is needed of a sequence parameter set. reorder: pictures held back for reordering; None: it does not say."""

    separate_planes: bool
    colour: bool
    frame_num_bits: int
    order_kind: int
    order_bits: int
    frames_only: bool
    depth_offset: int
    reorder: int | None


class _H264Parameters(NamedTuple):
    """What is needed of a picture parameter set."""

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


def _h264_reorder(bits: Bits) -> int | None:
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


def _h264_sequence(data: bytes) -> tuple[int, _H264Sequence]:
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
    reorder = _h264_reorder(bits) if bits.take(1) else None
    return identity, _H264Sequence(
        bool(separate), bool(chroma) and not separate, frame_num_bits, order_kind, order_bits, bool(frames_only),
        6 * depth, reorder,
    )  # fmt: skip


def _h264_parameters(data: bytes) -> tuple[int, _H264Parameters]:
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
    return identity, _H264Parameters(
        sequence, bool(arithmetic), bool(bottom_order), references, bool(weighted), weighted_both == 1, quantizer,
        bool(deblocking), bool(bits.take(1)),
    )  # fmt: skip


def _check_h264_header(
    bits: Bits, kind: int, key: bool, reference: bool, sequence: _H264Sequence, parameters: _H264Parameters
) -> None:
    """Read the rest of a slice header, from the picture order count on. kind: 0 P, 1 B, 2 I. Raises ValueError where it
    makes no sense: it is damaged, or these are not its parameter sets; and where the count starts anew without a key
    picture."""
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
            if change > 4:
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
    """H.264 in MP4 or Matroska; extradata: an AVCDecoderConfigurationRecord. Raises ValueError if that is none.

    reorder: pictures that the stream says a decoder has to hold back; None: it does not say.
    """

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 7 or extradata[0] != 1:
            raise ValueError
        self._length_size = (extradata[4] & 3) + 1
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequences: dict[int, _H264Sequence] = {}
        self._parameters: dict[int, _H264Parameters] = {}
        self._encoder = _Encoder()
        self._packets = 0
        self._run = self._order = self._frame_num = self._frame_offset = self._last_frame_num = self._in_run = 0
        self._sequence: _H264Sequence | None = None
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
        """Take a parameter set; False where it is another than the one of that number before."""
        data = data.rstrip(b"\0")
        if kind == 7:
            identity, sequence = _h264_sequence(data)
            self._sequences.setdefault(identity, sequence)
        else:
            identity, parameters = _h264_parameters(data)
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
                # Of a picture's slices the first one, which begins at its first block, tells all.
                if data[nal + 1] & 0x80:
                    pictures += 1
                    size_read = _SLICE_HEAD if kind == 1 and self._in_run >= _READ_WHOLE else _WHOLE_HEAD
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
        """(key picture, position, intra) of the picture whose first slice this is; None for a field, and where a
        picture before it is missing."""
        key, reference = data[0] & 0x1F == 5, data[0] & 0x60 != 0
        payload = without_emulation(data[1:])
        # Written out, as it is done for every packet: Exp-Golomb codes of 0, then two of any value (see Bits).
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
        if self._in_run <= _READ_WHOLE or parameters.bottom_order:
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
            order = _next_order(rest >> left & (1 << sequence.order_bits) - 1, self._order, 1 << sequence.order_bits)
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
        if bits is not None and self._in_run <= _READ_WHOLE:
            _check_h264_header(bits, kind % 5, key, reference, sequence, parameters)
        return key, self._run * _RUN + order, kind % 5 == 2


# ---- HEVC ------------------------------------------------------------------------------------------------------------


# A reference picture set: what a picture or those after it refer to; those behind it in time, then those ahead. Of each
# the distance in picture order count, and whether the picture itself refers to it.
_References = tuple[list[tuple[int, bool]], list[tuple[int, bool]]]


class _HevcSequence(NamedTuple):
    """What is needed of a sequence parameter set."""

    separate_planes: bool
    colour: bool
    order_bits: int
    reorder: int
    references: list[_References]
    long_term: bool
    motion: bool
    offsets: bool
    depth_offset: int


class _HevcParameters(NamedTuple):
    """What is needed of a picture parameter set."""

    sequence: int
    output_flag: bool
    extra_bits: int
    arithmetic_start: bool
    counts: tuple[int, int]
    quantizer: int
    chroma_quantizers: bool
    weighted: tuple[bool, bool]
    entry_points: bool
    across_slices: bool
    deblocking_override: bool
    no_deblocking: bool
    reordered: bool
    extension: bool


def _hevc_sequence(data: bytes) -> tuple[int, _HevcSequence]:
    bits = Bits(without_emulation(data[2:]))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)
    there = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in there:
        bits.take(88 * profile + 8 * level)
    identity = bits.golomb()
    chroma = bits.golomb()
    separate = bits.take(1) if chroma == 3 else 0
    bits.golomb()
    bits.golomb()
    if bits.take(1):
        for _ in range(4):
            bits.golomb()
    depth_offset = 6 * bits.golomb()
    bits.golomb()
    order_bits = bits.golomb() + 4
    reorder = 0
    if order_bits > 16:
        raise ValueError
    for _ in range(layers + 1 if bits.take(1) else 1):
        bits.golomb()
        reorder = bits.golomb()
        bits.golomb()
    for _ in range(6):  # sizes of blocks
        bits.golomb()
    if bits.take(1) and bits.take(1):
        _skip_scaling_lists(bits)
    bits.take(1)
    offsets = bits.take(1)
    if bits.take(1):  # samples without compression
        bits.take(8)
        bits.golomb()
        bits.golomb()
        bits.take(1)
    references: list[_References] = []
    count = bits.golomb()
    if count > 64:
        raise ValueError
    for _ in range(count):
        references.append(_hevc_references(bits, references, count))
    if long_term := bits.take(1):
        for _ in range(bits.golomb()):
            bits.take(order_bits + 1)
    return identity, _HevcSequence(
        bool(separate), bool(chroma) and not separate, order_bits, reorder, references, bool(long_term),
        bool(bits.take(1)), bool(offsets), depth_offset,
    )  # fmt: skip


def _skip_scaling_lists(bits: Bits) -> None:
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not bits.take(1):
                bits.golomb()
                continue
            for _ in range(min(64, 16 << 2 * size) + (size > 1)):
                bits.signed()


def _hevc_references(bits: Bits, known: list[_References], count: int) -> _References:
    """st_ref_pic_set (clauses 7.3.7, 7.4.8). known: the sets before it. count: sets in the sequence parameter set."""
    behind: list[tuple[int, bool]] = []
    ahead: list[tuple[int, bool]] = []
    if not known or not bits.take(1):
        numbers = bits.golomb(), bits.golomb()
        if max(numbers) > 16:
            raise ValueError
        for number, side, sign in zip(numbers, (behind, ahead), (-1, 1), strict=True):
            distance = 0
            for _ in range(number):
                distance += sign * (bits.golomb() + 1)
                side.append((distance, bool(bits.take(1))))
        return behind, ahead
    base = known[len(known) - 1 - (bits.golomb() if len(known) == count else 0)]
    shift = -1 if bits.take(1) else 1
    shift *= bits.golomb() + 1
    moved: list[tuple[int, bool, bool]] = []  # distance, used, kept
    for distance, _ in [*base[0], *base[1], (0, False)]:
        used = bool(bits.take(1))
        moved.append((distance + shift, used, used or bool(bits.take(1))))
    before, after, itself = moved[: len(base[0])], moved[len(base[0]) : -1], moved[-1]
    behind = [(d, used) for d, used, kept in [*reversed(after), itself, *before] if kept and d < 0]
    ahead = [(d, used) for d, used, kept in [*reversed(before), itself, *after] if kept and d > 0]
    return behind, ahead


def _hevc_parameters(data: bytes) -> tuple[int, _HevcParameters]:
    bits = Bits(without_emulation(data[2:]))
    identity, sequence = bits.golomb(), bits.golomb()
    bits.take(1)
    output_flag, extra_bits = bits.take(1), bits.take(3)
    bits.take(1)
    arithmetic_start = bits.take(1)
    counts = bits.golomb() + 1, bits.golomb() + 1
    quantizer = 26 + bits.signed()
    bits.take(2)
    if bits.take(1):
        bits.golomb()
    bits.signed()
    bits.signed()
    chroma_quantizers = bits.take(1)
    weighted = bool(bits.take(1)), bool(bits.take(1))
    bits.take(1)
    tiles, wavefronts = bits.take(1), bits.take(1)
    if tiles:
        columns, rows = bits.golomb(), bits.golomb()
        if not bits.take(1):
            for _ in range(columns + rows):
                bits.golomb()
        bits.take(1)
    across_slices = bits.take(1)
    override = no_deblocking = 0
    if bits.take(1):
        override, no_deblocking = bits.take(1), bits.take(1)
        if not no_deblocking:
            bits.signed()
            bits.signed()
    if bits.take(1):
        _skip_scaling_lists(bits)
    reordered = bits.take(1)
    bits.golomb()
    return identity, _HevcParameters(
        sequence, bool(output_flag), extra_bits, bool(arithmetic_start), counts, quantizer, bool(chroma_quantizers),
        weighted, bool(tiles or wavefronts), bool(across_slices), bool(override), bool(no_deblocking), bool(reordered),
        bool(bits.take(1)),
    )  # fmt: skip


def _hevc_sets(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets in an HEVCDecoderConfigurationRecord."""
    position = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + size]
            position += 2 + size


def _check_hevc_header(
    bits: Bits, kind: int, instant: bool, current: int, sequence: _HevcSequence, parameters: _HevcParameters
) -> None:
    """Read the rest of a slice header, from the reference pictures on. kind: 0 B, 1 P, 2 I. instant: IDR. current: how
    many pictures it refers to itself. Raises ValueError where it makes no sense: it is damaged, or these are not its
    parameter sets."""
    motion = not instant and sequence.motion and bits.take(1) == 1
    offsets = 0
    if sequence.offsets:
        offsets = bits.take(2 if sequence.colour else 1)
    if kind < 2:
        _check_hevc_references(bits, kind, motion, current, sequence, parameters)
    if not -sequence.depth_offset <= parameters.quantizer + bits.signed() <= 51:
        raise ValueError
    if parameters.chroma_quantizers and max(abs(bits.signed()), abs(bits.signed())) > 12:
        raise ValueError
    no_deblocking = parameters.no_deblocking
    if parameters.deblocking_override and bits.take(1):
        no_deblocking = bool(bits.take(1))
        if not no_deblocking and max(abs(bits.signed()), abs(bits.signed())) > 6:
            raise ValueError
    if parameters.across_slices and (offsets or not no_deblocking):
        bits.take(1)
    if parameters.entry_points and (count := bits.golomb()):
        size = bits.golomb() + 1
        if count > 500 or size > 32:
            raise ValueError
        bits.take(count * size)
    if parameters.extension:
        bits.take(8 * bits.golomb())
    filling = bits.left % 8 or 8
    if bits.take(filling) != 1 << filling - 1:
        raise ValueError


def _check_hevc_references(
    bits: Bits, kind: int, motion: bool, current: int, sequence: _HevcSequence, parameters: _HevcParameters
) -> None:
    """The part of a slice header that I slices do not have."""
    counts = list(parameters.counts)
    if bits.take(1):
        counts[0] = bits.golomb() + 1
        if kind == 0:
            counts[1] = bits.golomb() + 1
    if max(counts) > 16 or not current:
        raise ValueError
    lists = counts[: 2 - kind]
    if parameters.reordered and current > 1:
        for count in lists:
            if bits.take(1):
                bits.take(count * (current - 1).bit_length())
    if kind == 0:
        bits.take(1)
    if parameters.arithmetic_start:
        bits.take(1)
    if motion:
        second = kind == 0 and not bits.take(1)
        if counts[second] > 1 and bits.golomb() >= counts[second]:
            raise ValueError
    if parameters.weighted[kind == 0]:
        if bits.golomb() > 7:
            raise ValueError
        if sequence.colour:
            bits.signed()
        for count in lists:
            luma = bits.take(count).bit_count()
            colour = bits.take(count).bit_count() if sequence.colour else 0
            for _ in range(2 * luma + 4 * colour):
                bits.signed()
    if bits.golomb() > 4:
        raise ValueError


class HevcParser:
    """HEVC in MP4 or Matroska; extradata: an HEVCDecoderConfigurationRecord. Raises ValueError if that is none."""

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 23 or extradata[0] != 1:
            raise ValueError
        self._length_size = (extradata[21] & 3) + 1
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequences: dict[int, _HevcSequence] = {}
        self._parameters: dict[int, _HevcParameters] = {}
        self._packets = self._run = self._order = self._in_run = 0
        self._sequence: _HevcSequence | None = None
        self._encoder = _Encoder()
        self._there: set[int] = set()  # picture order counts of what may be referred to
        for data in _hevc_sets(extradata):
            kind = data[0] >> 1 & 0x3F
            if 32 <= kind <= 34:
                self._learn(kind, data)

    @property
    def reorder(self) -> int | None:
        return self._sequence.reorder if self._sequence else None

    def _learn(self, kind: int, data: bytes) -> bool:
        """Take a parameter set; False where it is another than the one of that number before."""
        data = data.rstrip(b"\0")
        if kind == 32:
            identity = data[2] >> 4
        elif kind == 33:
            identity, sequence = _hevc_sequence(data)
            self._sequences.setdefault(identity, sequence)
        else:
            identity, parameters = _hevc_parameters(data)
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
        spare = True
        first: tuple[bool, int, int, bool] | None = None
        while position < len(data):
            nal = position + size
            position = nal + int.from_bytes(data[position:nal], "big")
            if not nal + 2 < position <= len(data) or data[nal] & 0x80:
                return None
            kind = data[nal] >> 1 & 0x3F
            if kind < 32:
                if data[nal + 2] >> 7:  # first_slice_segment_in_pic_flag
                    pictures += 1
                    first = self._slice(kind, data[nal : min(position, nal + _WHOLE_HEAD)])
                    if first is None:
                        return None
                spare &= kind < 16 and kind % 2 == 0
            elif kind <= 34:
                spare = False
                if not self._learn(kind, data[nal:position]):
                    return None
            elif kind == 39:
                if not self._encoder.is_the_same(data[nal:position], self._packets == 1):
                    return None
            elif kind in (36, 37):
                return None  # end of sequence: what follows starts anew
        if pictures != 1 or first is None:
            return None
        return Picture(True, first[0], spare, first[1], first[2], first[3])

    def _slice(self, kind: int, data: bytes) -> tuple[bool, int, int, bool] | None:
        """(decoding may start here, temporal layer, position, intra) of the picture whose first slice this is."""
        layer = (data[1] & 7) - 1
        start = 16 <= kind <= 23
        if data[0] & 1 or data[1] >> 3 or layer < 0:
            return None  # of another layer than the base
        bits = Bits(without_emulation(data[2:]))
        bits.take(1)
        if start and bits.take(1):
            return None  # no_output_of_prior_pics_flag: frames before it may vanish
        if 16 <= kind <= 18 and self._packets > 1:
            return None  # BLA: pictures that it leads are left out
        parameters = self._parameters[bits.golomb()]
        sequence = self._sequences[parameters.sequence]
        self._sequence = self._sequence or sequence
        if sequence is not self._sequence or sequence.separate_planes:
            return None
        bits.take(parameters.extra_bits)
        slice_kind = bits.golomb()
        if slice_kind > 2 or (start and slice_kind != 2) or (parameters.output_flag and not bits.take(1)):
            return None
        order = current = 0
        wanted: set[int] = set()
        if kind in (19, 20):  # IDR
            self._run += 1
        else:
            order = bits.take(sequence.order_bits)
            if self._packets > 1:
                order = _next_order(order, self._order, 1 << sequence.order_bits)
            behind, ahead = self._references(bits, sequence)
            wanted = {order + distance for distance, _ in [*behind, *ahead]}
            current = sum(used for _, used in [*behind, *ahead])
            if self._packets > 1 and not wanted <= self._there:
                return None  # a picture before it is missing
        self._there = wanted | {order}
        self._in_run = 1 if start else self._in_run + 1
        if self._in_run <= _READ_WHOLE:
            _check_hevc_header(bits, slice_kind, kind in (19, 20), current, sequence, parameters)
        if layer == 0 and not 6 <= kind <= 9 and (kind > 15 or kind % 2):
            self._order = order
        return start, layer, self._run * _RUN + order, slice_kind == 2

    def _references(self, bits: Bits, sequence: _HevcSequence) -> _References:
        count = len(sequence.references)
        if bits.take(1):
            references = sequence.references[bits.take((count - 1).bit_length())]
        else:
            references = _hevc_references(bits, sequence.references, count)
        if sequence.long_term:
            raise ValueError  # not followed
        return references
