"""Parse the pictures of HEVC streams.

ITU-T H.265 (08/2021): clauses 7.3 (syntax), 7.4.8 (reference picture sets), 8.3.1 (picture order count).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vsn_train.data.bits import Bits, without_emulation
from vsn_train.data.h26x import READ_WHOLE, RUN, WHOLE_HEAD, Encoder, next_order
from vsn_train.data.pictures import Picture

# A reference picture set: the pictures that this picture or later ones refer to, first those before it in time, then
# those after it. For each: the distance in picture order count, and whether this picture itself refers to it.
_References = tuple[list[tuple[int, bool]], list[tuple[int, bool]]]


class _Sequence(NamedTuple):
    """The fields used of a sequence parameter set. buffered: most pictures that the decoder keeps."""

    separate_planes: bool
    colour: bool
    order_bits: int
    reorder: int
    buffered: int
    references: list[_References]
    long_term: bool
    motion: bool
    offsets: bool
    depth_offset: int


class _Parameters(NamedTuple):
    """The fields used of a picture parameter set."""

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


def _parse_sequence(data: bytes) -> tuple[int, _Sequence]:
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
    reorder = buffered = 0
    if order_bits > 16:
        raise ValueError
    for _ in range(layers + 1 if bits.take(1) else 1):
        buffered = bits.golomb() + 1
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
        references.append(_parse_references(bits, references, count))
    if long_term := bits.take(1):
        for _ in range(bits.golomb()):
            bits.take(order_bits + 1)
    return identity, _Sequence(
        bool(separate), bool(chroma) and not separate, order_bits, reorder, buffered, references,
        bool(long_term),
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


def _parse_references(bits: Bits, known: list[_References], count: int) -> _References:
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


def _parse_parameters(data: bytes) -> tuple[int, _Parameters]:
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
    return identity, _Parameters(
        sequence, bool(output_flag), extra_bits, bool(arithmetic_start), counts, quantizer, bool(chroma_quantizers),
        weighted, bool(tiles or wavefronts), bool(across_slices), bool(override), bool(no_deblocking), bool(reordered),
        bool(bits.take(1)),
    )  # fmt: skip


def _sets_in(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets in an HEVCDecoderConfigurationRecord."""
    position = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + size]
            position += 2 + size


def _check_header(
    bits: Bits, kind: int, instant: bool, current: int, sequence: _Sequence, parameters: _Parameters
) -> None:
    """Check the rest of a slice header, after the reference pictures. kind: 0 B, 1 P, 2 I. instant: IDR. current:
    number of pictures that it refers to itself. Raises ValueError for invalid values, which mean damage or other
    parameter sets."""
    motion = not instant and sequence.motion and bits.take(1) == 1
    offsets = 0
    if sequence.offsets:
        offsets = bits.take(2 if sequence.colour else 1)
    if kind < 2:
        _check_inter(bits, kind, motion, current, sequence, parameters)
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


def _check_inter(
    bits: Bits, kind: int, motion: bool, current: int, sequence: _Sequence, parameters: _Parameters
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
    """HEVC in MP4 or Matroska. extradata: an HEVCDecoderConfigurationRecord; raises ValueError for anything else."""

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 23 or extradata[0] != 1:
            raise ValueError
        self._length_size = (extradata[21] & 3) + 1
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequences: dict[int, _Sequence] = {}
        self._parameters: dict[int, _Parameters] = {}
        self._packets = self._run = self._order = self._in_run = 0
        self._sequence: _Sequence | None = None
        self._encoder = Encoder()
        self._there: set[int] = set()  # picture order counts of the pictures that may be referred to
        self._waiting: set[int] = set()  # picture order counts of the pictures that are decoded, but not yet shown
        self._shown = -RUN  # picture order count of the last picture shown
        for data in _sets_in(extradata):
            kind = data[0] >> 1 & 0x3F
            if 32 <= kind <= 34:
                self._learn(kind, data)

    @property
    def reorder(self) -> int | None:
        return self._sequence.reorder if self._sequence else None

    def _learn(self, kind: int, data: bytes) -> bool:
        """Store a parameter set. Returns False if it differs from the earlier one with the same id."""
        data = data.rstrip(b"\0")
        if kind == 32:
            identity = data[2] >> 4
        elif kind == 33:
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
                    first = self._slice(kind, data[nal : min(position, nal + WHOLE_HEAD)])
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
                return None  # end of sequence: a new one follows
        if pictures != 1 or first is None:
            return None
        return Picture(True, first[0], spare, first[1], first[2], first[3])

    def _slice(self, kind: int, data: bytes) -> tuple[bool, int, int, bool] | None:
        """(decoding may start here, temporal layer, position, intra) of the picture with this first slice; None if it
        is not supported or an earlier picture is missing."""
        layer = (data[1] & 7) - 1
        start = 16 <= kind <= 23
        if data[0] & 1 or data[1] >> 3 or layer < 0:
            return None  # not of the base layer
        bits = Bits(without_emulation(data[2:]))
        bits.take(1)
        if start and bits.take(1):
            return None  # no_output_of_prior_pics_flag: frames before it may vanish
        if 16 <= kind <= 18 and self._packets > 1:
            return None  # BLA: its leading pictures are skipped
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
            self._waiting, self._shown = set(), -RUN
        else:
            order = bits.take(sequence.order_bits)
            if self._packets > 1:
                order = next_order(order, self._order, 1 << sequence.order_bits)
            behind, ahead = self._references(bits, sequence)
            wanted = {order + distance for distance, _ in [*behind, *ahead]}
            current = sum(used for _, used in [*behind, *ahead])
            if self._packets > 1 and not wanted <= self._there:
                return None  # a picture before it is missing
        self._there = wanted | {order}
        self._show(order, wanted, sequence)
        self._in_run = 1 if start else self._in_run + 1
        if self._in_run <= READ_WHOLE:
            _check_header(bits, slice_kind, kind in (19, 20), current, sequence, parameters)
        if layer == 0 and not 6 <= kind <= 9 and (kind > 15 or kind % 2):
            self._order = order
        return start, layer, self._run * RUN + order, slice_kind == 2

    def _show(self, order: int, wanted: set[int], sequence: _Sequence) -> None:
        """Simulate the decoder's output after this picture (clause C.5.2): it outputs the next picture in order while
        more are waiting than it reorders, or more are stored than its buffer holds. Raises ValueError for a picture
        that comes too late for its place."""
        if order < self._shown:
            raise ValueError
        waiting = self._waiting
        waiting.add(order)
        while len(waiting) > sequence.reorder or (
            waiting
            and len(waiting) + len(wanted) + 1 > sequence.buffered
            and len(wanted | waiting | {order}) > sequence.buffered
        ):
            self._shown = min(waiting)
            waiting.remove(self._shown)

    def _references(self, bits: Bits, sequence: _Sequence) -> _References:
        count = len(sequence.references)
        if bits.take(1):
            references = sequence.references[bits.take((count - 1).bit_length())]
        else:
            references = _parse_references(bits, sequence.references, count)
        if sequence.long_term:
            raise ValueError  # long-term references are not supported
        return references
