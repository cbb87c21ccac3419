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

_SLICE_HEAD = 28  # bytes that hold what is read of a slice header
_RUN = 1 << 40  # further apart than any two picture order counts


def _next_order(lsb: int, previous: int, modulus: int) -> int:
    """The picture order count with these low bits that is nearest to the previous one."""
    order = previous - previous % modulus + lsb
    if order - previous > modulus // 2:
        return order - modulus
    return order + modulus if previous - order >= modulus // 2 else order


# ---- H.264 -----------------------------------------------------------------------------------------------------------


class _H264Sequence(NamedTuple):
    """What is needed of a sequence parameter set. reorder: pictures held back for reordering; None: it does not say."""

    separate_planes: bool
    frame_num_bits: int
    order_kind: int
    order_bits: int
    gaps: bool
    frames_only: bool
    depth_offset: int
    reorder: int | None


class _H264Parameters(NamedTuple):
    """What is needed of a picture parameter set."""

    sequence: int
    bottom_order: bool
    redundant: bool
    quantizer: int


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
    gaps = bits.take(1)
    bits.golomb()
    bits.golomb()
    frames_only = bits.take(1)
    bits.take(1 if frames_only else 2)
    if bits.take(1):
        for _ in range(4):
            bits.golomb()
    reorder = _h264_reorder(bits) if bits.take(1) else None
    return identity, _H264Sequence(
        bool(separate), frame_num_bits, order_kind, order_bits, bool(gaps), bool(frames_only), 6 * depth, reorder
    )


def _h264_parameters(data: bytes) -> tuple[int, _H264Parameters]:
    """(id, picture parameter set) of a NAL unit."""
    bits = Bits(without_emulation(data[1:]))
    identity, sequence = bits.golomb(), bits.golomb()
    bits.take(1)
    bottom_order = bits.take(1)
    if bits.golomb():
        raise ValueError  # slice groups
    bits.golomb()
    bits.golomb()
    bits.take(3)
    quantizer = 26 + bits.signed()
    bits.signed()
    bits.signed()
    bits.take(2)
    return identity, _H264Parameters(sequence, bool(bottom_order), bool(bits.take(1)), quantizer)


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
        self._encoder: bytes | None = None
        self._packets = 0
        self._run = self._order = self._frame_num = self._frame_offset = self._last_frame_num = 0
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
                    first = self._slice(data[nal : min(position, nal + _SLICE_HEAD)])
                    if first is None:
                        return None
                spare &= data[nal] & 0x60 == 0
            elif kind == 7 or kind == 8:
                spare = False
                if not self._learn(kind, data[nal:position]):
                    return None
            elif kind == 6:
                refresh |= data[nal + 1] == 6
                if not self._same_encoder(data[nal:position]):
                    return None
            elif kind in (2, 3, 4, 20, 21) or data[nal] & 0x80:
                return None  # data partitions, scalable or stereo coding
        if pictures != 1 or first is None:
            return None
        return Picture(True, first[0], spare, 0, first[1], first[2] or refresh)

    def _same_encoder(self, data: bytes) -> bool:
        """FFmpeg works around faults of old versions of x264, which tell their number in the first packet."""
        place = data.find(b"x264 - core ")
        if place < 0:
            return True
        encoder = data[place : place + 17]
        if self._encoder is None and self._packets == 1:
            self._encoder = encoder
        return self._encoder == encoder

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
        bits = Bits(payload)
        bits.left = left
        if key:
            bits.golomb()
            if frame_num or not reference:
                return None
            self._run += 1
            self._order = self._frame_offset = 0
        elif frame_num != (self._frame_num + 1) % (1 << sequence.frame_num_bits):
            return None
        if sequence.order_kind == 0:
            order = _next_order(bits.take(sequence.order_bits), self._order, 1 << sequence.order_bits)
            if reference:
                self._order = order
            if parameters.bottom_order:
                order += min(0, bits.signed())
        else:
            if frame_num < self._last_frame_num and not key:
                self._frame_offset += 1 << sequence.frame_num_bits
            order = 2 * (self._frame_offset + frame_num) - (not reference)
        self._last_frame_num = frame_num
        if reference:
            self._frame_num = frame_num
        if key:
            if kind % 5 != 2 or bits.take(1):
                return None  # no_output_of_prior_pics_flag: frames before it may vanish
            bits.take(1)
            if not -sequence.depth_offset <= parameters.quantizer + bits.signed() <= 51:
                return None
        return key, self._run * _RUN + order, kind % 5 == 2


# ---- HEVC ------------------------------------------------------------------------------------------------------------


class _HevcSequence(NamedTuple):
    """What is needed of a sequence parameter set."""

    separate_planes: bool
    order_bits: int
    reorder: int


class _HevcParameters(NamedTuple):
    """What is needed of a picture parameter set."""

    sequence: int
    output_flag: bool
    extra_bits: int


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
    separate = bits.take(1) if bits.golomb() == 3 else 0
    bits.golomb()
    bits.golomb()
    if bits.take(1):
        for _ in range(4):
            bits.golomb()
    bits.golomb()
    bits.golomb()
    order_bits = bits.golomb() + 4
    reorder = 0
    if order_bits > 16:
        raise ValueError
    for _ in range(layers + 1 if bits.take(1) else 1):
        bits.golomb()
        reorder = bits.golomb()
        bits.golomb()
    return identity, _HevcSequence(bool(separate), order_bits, reorder)


def _hevc_parameters(data: bytes) -> tuple[int, _HevcParameters]:
    bits = Bits(without_emulation(data[2:]))
    identity, sequence = bits.golomb(), bits.golomb()
    bits.take(1)
    return identity, _HevcParameters(sequence, bool(bits.take(1)), bits.take(3))


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


class HevcParser:
    """HEVC in MP4 or Matroska; extradata: an HEVCDecoderConfigurationRecord. Raises ValueError if that is none."""

    def __init__(self, extradata: bytes) -> None:
        if len(extradata) < 23 or extradata[0] != 1:
            raise ValueError
        self._length_size = (extradata[21] & 3) + 1
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequences: dict[int, _HevcSequence] = {}
        self._parameters: dict[int, _HevcParameters] = {}
        self._packets = self._run = self._order = 0
        self._sequence: _HevcSequence | None = None
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
                    first = self._slice(kind, data[nal : min(position, nal + _SLICE_HEAD)])
                    if first is None:
                        return None
                spare &= kind < 16 and kind % 2 == 0
            elif kind <= 34:
                spare = False
                if not self._learn(kind, data[nal:position]):
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
        order = 0
        if kind in (19, 20):  # IDR
            self._run += 1
        else:
            order = bits.take(sequence.order_bits)
            if self._packets > 1:
                order = _next_order(order, self._order, 1 << sequence.order_bits)
        if layer == 0 and not 6 <= kind <= 9 and (kind > 15 or kind % 2):
            self._order = order
        return start, layer, self._run * _RUN + order, slice_kind == 2
