"""The frames of one video, exact, behind one interface.

    with open_video(path) as video:
        clip = video.read([4, 13, 22])      # uint8 (3, C, H, W), RGB

Frame i is the i-th image of a full sequential decode in presentation order, whatever the container or the codec.

How it stays exact and fast. Opening reads all packets without decoding them and looks at the headers in each: which
picture does it hold, is it shown, may decoding start there, does anything refer to it? Where every packet is
understood, that gives the number of frames and their order at once, and `read` decodes from the nearest safe key
picture on, leaving out pictures that nothing refers to and nobody asked for. Every decoded image carries the number of
its packet, so an image can be missing but never be taken for its neighbour. Everything else (unknown codec, damage,
interlaced H.264, edit lists, useless time stamps) is decoded from the start and counted: slow, but never wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vsn_train.data.colour import RgbConverter
from vsn_train.data.fastseek import FastSeekCopy, places_of_copy
from vsn_train.data.frames import FrameFolder, rows_of_frames
from vsn_train.errors import InputError, VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DECODERS = ("auto", "decord", "pyav")
MODALITIES = ("rgb", "flow")


class _Unexpected(Exception):
    """The decoder did not deliver what the packets announced."""


# ---- What one packet holds -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """The picture in one packet.

    shown: it gives a frame. start: decoding may start here. spare: nothing in its temporal layer refers to it.
    """

    shown: bool = True
    start: bool = False
    spare: bool = False
    layer: int = 0


def _h26x_picture(data: bytes, length_size: int, hevc: bool) -> _Picture | None:
    """H.264, HEVC: walk the length-prefixed NAL units. None unless they fill the packet and hold one whole picture."""
    position = pictures = layer = 0
    start, spare = False, True
    while position < len(data):
        nal = position + length_size
        position = nal + int.from_bytes(data[position:nal], "big")
        if not nal < position <= len(data):
            return None
        if hevc:
            kind = data[nal] >> 1 & 0x3F
            if kind < 32:
                if position - nal < 3:
                    return None
                layer = (data[nal + 1] & 7) - 1
                pictures += data[nal + 2] >> 7  # first_slice_segment_in_pic_flag
                start |= 16 <= kind <= 21  # BLA, IDR, CRA
                spare &= kind < 16 and kind % 2 == 0
                if start and data[nal + 2] & 0x40:
                    return None  # no_output_of_prior_pics_flag: frames before it may vanish
            spare &= not 32 <= kind <= 34  # parameter sets
        else:
            kind = data[nal] & 0x1F
            if kind in (1, 5):
                if position - nal < 2:
                    return None
                pictures += data[nal + 1] >> 7  # first_mb_in_slice is 0
                # IDR only: what is merely flagged as key may open a GOP whose pictures refer further back.
                start |= kind == 5
                spare &= data[nal] & 0x60 == 0
            spare &= kind not in (7, 8)  # parameter sets
            if kind in (2, 3, 4, 20, 21):
                return None  # data partitions, scalable or stereo coding
    return _Picture(start=start, spare=spare, layer=layer) if pictures == 1 else None


def _mpeg4_picture(data: bytes, has_volume_header: bool) -> _Picture | None:
    """MPEG-4 part 2 (DivX, Xvid) after packed B-frames were unpacked: one VOP, or a place holder without an image."""
    position = data.find(b"\0\0\1\xb6")
    if position < 0 and len(data) <= 19:  # FFmpeg's bound for place holders too
        return _Picture(shown=False)
    if position < 0 or len(data) - position <= 19:
        return None  # a tiny picture or a place holder: not worth telling apart
    if data.find(b"\0\0\1\xb6", position + 4) >= 0:
        return None
    kind = data[position + 4] >> 6  # 0 I, 1 P, 2 B, 3 S
    return _Picture(start=kind == 0 and has_volume_header, spare=kind == 2)


def _vp9_picture(data: bytes) -> _Picture | None:
    """VP9 after superframes were split."""
    if data[0] >> 6 != 2 or data[0] & 0x30 == 0x30:  # no frame marker; profile 3 has its bits elsewhere
        return None
    if data[0] & 0x08:  # shows an earlier picture again
        return _Picture()
    shown = data[0] & 0x02 != 0
    return _Picture(shown=shown, start=shown and data[0] & 0x04 == 0)


def _picture_parser(stream: VideoStream) -> Callable[[Packet], _Picture | None] | None:
    """How to look into the packets of this stream; None where that is not known."""
    codec = stream.codec_context.codec.canonical_name
    extradata = stream.codec_context.extradata or b""
    if codec == "vp8":
        return lambda packet: _Picture(shown=bytes(packet)[0] & 0x10 != 0, start=bytes(packet)[0] & 1 == 0)
    if codec == "vp9":
        return lambda packet: _vp9_picture(bytes(packet))
    if codec == "mpeg4":
        has_volume_header = any(bytes([0, 0, 1, code]) in extradata for code in range(0x20, 0x30))
        return lambda packet: _mpeg4_picture(bytes(packet), has_volume_header)
    # The other codecs need presentation times that can be trusted: AVI has none, MPEG-TS may lose packets.
    if not stream.container.format.name.startswith(("mov", "matroska")):
        return None
    if codec == "av1":  # a packet is a temporal unit, which shows exactly one picture
        return lambda packet: _Picture(start=packet.is_keyframe)
    if codec in ("h264", "hevc") and len(extradata) > 22 and extradata[0] == 1:
        length_size = (extradata[4 if codec == "h264" else 21] & 3) + 1
        return lambda packet: _h26x_picture(bytes(packet), length_size, codec == "hevc")
    return None


# ---- From packets to frames ------------------------------------------------------------------------------------------

# FFmpeg's bitstream filters that put every picture into a packet of its own.
_SPLIT = {"mpeg4": "mpeg4_unpack_bframes", "vp9": "vp9_superframe_split"}


@dataclass(frozen=True)
class _FrameMap:
    """Which packet gives which frame.

    packet_of: packet of each frame. frame_of: the inverse. start_of: packet -> where to start decoding for it.
    starts: packets at which decoding may start. spare: for every packet, whether no other one needs it.
    """

    packet_of: list[int]
    frame_of: dict[int, int]
    start_of: dict[int, int]
    starts: list[int]
    spare: list[bool]


def _presentation_order(
    pictures: Sequence[_Picture], times: Sequence[int | None], decoder: VideoCodecContext
) -> list[int] | None:
    """Packets of the shown pictures in the order in which they are shown; None where it is not certain."""
    codec = decoder.codec.canonical_name
    shown = [i for i, picture in enumerate(pictures) if picture.shown]
    if codec in ("vp8", "vp9"):
        return shown  # these codecs do not reorder
    if codec == "mpeg4":
        if len(shown) < len(pictures) and not any(picture.spare for picture in pictures):
            return None  # without B-frames FFmpeg repeats the last picture for a place holder at the end
        order: list[int] = []
        for i in shown:  # a B-frame is shown at once, anything else when the next one that is no B-frame arrives
            order.insert(len(order) - 1 if pictures[i].spare and order else len(order), i)
        return order
    known = [time for time in times if time is not None]
    if len(set(known)) < len(pictures):
        return None
    if min(known) < known[0]:
        return None  # decoders drop some of the pictures that are shown before the first key picture
    latest = list(accumulate(known, max))
    if any(picture.start and known[i] < latest[i] for i, picture in enumerate(pictures)):
        return None  # times that contradict the order of coding
    if known == latest and decoder.has_b_frames:
        return None  # times of coding, not of showing
    return sorted(shown, key=known.__getitem__)


def _map_frames(
    pictures: Sequence[_Picture], times: Sequence[int | None], decoder: VideoCodecContext
) -> _FrameMap | None:
    """The frames of a stream, without decoding; None where their number or order is not certain."""
    if not pictures or not pictures[0].start:
        return None
    order = _presentation_order(pictures, times, decoder)
    if order is None or order[0] != 0:
        return None
    frame_of = {packet: frame for frame, packet in enumerate(order)}
    # Pictures that follow a start in the file but are shown before it (open GOP) may refer to what lies before it.
    starts: list[int] = []
    start_of: dict[int, int] = {}
    for i, picture in enumerate(pictures):
        if picture.shown:
            if picture.start:
                starts.append(i)
            start_of[i] = next(k for k in reversed(starts) if frame_of[k] <= frame_of[i])
    top_layer = max(picture.layer for picture in pictures)
    return _FrameMap(order, frame_of, start_of, starts, [p.spare and p.layer == top_layer for p in pictures])


def _open_container(path: str) -> tuple[InputContainer, VideoStream]:
    """The container and its largest video stream, which is the one that decord takes too."""
    import av

    if not os.path.isfile(path):
        raise VideoError(path, "no such file or folder")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty")
    try:
        # "file:" lets a name hold a colon; the tags of old AVI files are often not UTF-8.
        container = av.open("file:" + path, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, _reason(error)) from error
    still = (
        container.format.name == "tty" or "image2" in container.format.name or container.format.name.endswith("_pipe")
    )
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
    if still or not streams:  # FFmpeg takes a text or a single picture for a video
        container.close()
        raise VideoError(path, f"no video that can be decoded in it ({container.format.long_name})")
    stream = max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
    stream.codec_context.thread_count = 1  # the loader's worker processes are the parallelism
    return container, stream


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# ---- Images ----------------------------------------------------------------------------------------------------------


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turn and mirror an (H, W, C) image as the frame's display matrix says, in steps of 90 degrees."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _read_packets(container: InputContainer, stream: VideoStream) -> tuple[list[Packet], list[int | None], bool]:
    """The packets, one picture each and numbered by their pts; their presentation times; whether any is damaged."""
    import av
    from av.bitstream import BitStreamFilterContext

    split = _SPLIT.get(stream.codec_context.codec.canonical_name)
    splitter = BitStreamFilterContext(split, stream) if split else None
    packets: list[Packet] = []
    times: list[int | None] = []
    damaged = False
    try:
        for whole in container.demux(stream):
            try:
                parts = splitter.filter(whole) if splitter else [whole]
            except av.FFmpegError:  # the decoder, which splits with the same filter, would lose this packet too
                parts, damaged = [], True
            for packet in parts:
                if packet.size:
                    damaged |= packet.is_corrupt
                    times.append(packet.pts)
                    packet.pts, packet.dts = len(packets), None  # the decoder hands pts on to the image
                    packets.append(packet)
    except av.FFmpegError:  # the file breaks off: what was read so far counts
        damaged = True
    return packets, times, damaged


class Video:
    """One open video; `open_video` makes it. Close it, or use it in a `with` statement.

    num_frames: images that a full decode delivers. fps: average frames per second, 0.0 where the file does not say.
    height, width: pixels of the images that `read` returns: turned by the display matrix, pixel aspect not applied.
    """

    num_frames: int
    fps: float
    height: int
    width: int

    def __init__(self, path: str, container: InputContainer, stream: VideoStream) -> None:
        self.path = path
        self._closed = False
        self._container = container
        try:
            self.fps = float(stream.average_rate or 0.0)
            self._decoder = stream.codec_context
            self._to_rgb = RgbConverter()
            self._decord: _Decord | None = None
            # Compressed, so a second of video takes about 100 kB.
            self._packets, times, damaged = _read_packets(self._container, stream)
            parse = _picture_parser(stream)
            pictures = [parse(packet) for packet in self._packets] if parse else []
            self._damaged = damaged or (None in pictures and self._decoder.codec.canonical_name in ("h264", "hevc"))
            sound = not damaged and None not in pictures and not any(packet.is_discard for packet in self._packets)
            self._map = _map_frames([p for p in pictures if p], times, self._decoder) if sound else None
            first = self._first_frame() if self._map else None
            if self._map and first:
                self.num_frames = len(self._map.packet_of)
            else:
                self._map = None
                self.num_frames, first = self._count_frames()
            if first is None:
                raise VideoError(path, f"no frame can be decoded (codec {self._decoder.codec.canonical_name})")
            self.height, self.width = self._image(first).shape[:2]
        except BaseException:
            self.close()
            raise

    def read(self, frames: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """The given frames, in the given order; they may repeat.

        Returns uint8 (N, C, H, W), RGB, a view of memory laid out as (N, H, W, C) ("channels last").
        Ask for all frames of a clip in one call: every call starts decoding anew.
        Raises IndexError outside 0..num_frames-1, VideoError where the file turns out to be damaged.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        rows = rows_of_frames(self.path, self.num_frames, frames)
        images = np.empty((len(frames), self.height, self.width, 3), np.uint8)
        decoded = self._images(sorted(rows)) if self._decord is None else self._decord.images(sorted(rows))
        for frame, image in decoded:
            if image.shape != images.shape[1:]:
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise VideoError(self.path, f"frame {frame} is {size}, frame 0 is {self.width}x{self.height}")
            images[rows[frame]] = image
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def close(self) -> None:
        self._closed = True
        self._packets, self._map, self._decord = [], None, None
        self._container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(self, packets: Iterable[Packet], strict: bool) -> Iterator[VideoFrame]:
        """All images of a run of packets; decoding must be able to start at the first one.

        strict: damage raises. Otherwise a damaged packet is left out, as `ffmpeg` does.
        """
        import av

        self._decoder.flush_buffers()
        for packet in chain(packets, [None]):  # None: hand out what is still held back for reordering
            try:
                frames = self._decoder.decode(packet)
            except av.FFmpegError:
                if strict:
                    raise
                continue
            yield from frames

    def _first_frame(self) -> VideoFrame | None:
        """The image of the first packet; None if that is not just one, as the map assumes."""
        import av

        try:
            frames = list(self._decode(self._packets[:1], strict=True))
        except av.FFmpegError:
            return None
        # Interlaced H.264 may have its two fields in two packets.
        fields = self._decoder.codec.canonical_name == "h264" and any(frame.interlaced_frame for frame in frames)
        return frames[0] if len(frames) == 1 and not fields else None

    def _count_frames(self) -> tuple[int, VideoFrame | None]:
        first, count = None, 0
        for count, frame in enumerate(self._decode(self._packets, strict=False), start=1):  # noqa: B007
            first = first or frame
        return count, first

    def _images(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(frame, (H, W, 3) image) of every wanted frame; `wanted` is sorted and without repeats."""
        import av

        missing = set(wanted)
        if self._map:
            try:
                for frame, picture in self._mapped_frames(wanted, self._map):
                    if frame in missing:
                        missing.remove(frame)
                        yield frame, self._image(picture)
            except (av.FFmpegError, _Unexpected):
                missing = set(wanted)
            if not missing:
                return
            # Damage inside a picture shows only now. A full decode tells whether the frames still have their numbers.
            count, _ = self._count_frames()
            if count != self.num_frames:
                raise VideoError(self.path, f"damaged: {count} of its {self.num_frames} frames can be decoded")
            self._map = None  # from here on, count
        for frame, picture in enumerate(self._decode(self._packets, strict=False)):
            if frame in missing:
                missing.remove(frame)
                yield frame, self._image(picture)
            if not missing:
                return
        if missing:
            raise VideoError(self.path, f"frame {min(missing)} cannot be decoded")

    def _mapped_frames(self, wanted: list[int], frame_map: _FrameMap) -> Iterator[tuple[int, VideoFrame]]:
        """Decode as little as the wanted frames need. Other frames may come along."""
        needed = {frame_map.packet_of[frame] for frame in wanted}
        runs: list[tuple[int, int]] = []  # first and last packet
        for packet in sorted(needed):
            first = frame_map.start_of[packet]
            while runs and first <= runs[-1][1] + 1:
                first = min(first, runs.pop()[0])
            runs.append((first, packet))
        for first, last in runs:
            # After a start, pictures shown before it lack what they refer to: leave them out too.
            first_frame = frame_map.frame_of[first]
            run = [
                i
                for i in range(first, last + 1)
                if i in needed or not (frame_map.spare[i] or frame_map.frame_of.get(i, first_frame) < first_frame)
            ]
            due = sorted(frame_map.frame_of[i] for i in run if i in frame_map.frame_of)
            for picture in self._decode((self._packets[i] for i in run), strict=True):
                frame = frame_map.frame_of.get(-1 if picture.pts is None else picture.pts)
                if not due or frame != due.pop(0) or picture.is_corrupt:
                    raise _Unexpected
                yield frame, picture
            if due:
                raise _Unexpected

    def _image(self, frame: VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        return _upright(self._to_rgb(frame), frame)


class _Decord:
    """Reads a checked `Video` through decord.

    decord aborts the process on some damaged files, so it gets whole files only. After a jump it returns wrong frames
    for packed B-frames, open GOPs and HEVC, so it jumps only where every key picture resets the decoder; elsewhere it
    decodes from the start, which is right for AVI, MP4 and Matroska but not for MPEG-TS. With more than one thread VP9
    fails; without a fault tolerance a neighbour stands in for a frame that cannot be decoded.
    """

    def __init__(self, video: Video) -> None:
        try:
            import decord
        except ImportError as error:
            raise InputError("decoder=decord, but decord is not installed: use decoder=auto or pyav") from error
        self._video = video
        if video._damaged or any(packet.is_discard for packet in video._packets):
            raise self._error("damaged, or cut without re-encoding")
        if not video._container.format.name.startswith(("mov", "matroska", "avi")):
            raise self._error(f"container {video._container.format.name}")
        self._open = lambda: decord.VideoReader(video.path, ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        # RuntimeError: a file that it cannot open at all.
        self._failures = (decord.DECORDError, decord.DECORDLimitReachedError, StopIteration, IndexError, RuntimeError)
        frame_map, codec = video._map, video._decoder.codec.canonical_name
        self._jumps = (
            frame_map is not None
            and codec in ("h264", "vp8", "vp9", "mpeg4")
            and not (codec == "mpeg4" and frame_map.packet_of != list(range(len(video._packets))))
            and all(i in frame_map.starts for i, packet in enumerate(video._packets) if packet.is_keyframe)
        )
        self._reader = self._try(self._open)

    def images(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """As `Video._images`."""
        if self._jumps:
            for frame in wanted:
                yield frame, self._array(self._try(self._reader.__getitem__, frame))
            return
        reader = self._try(self._open)
        for frame in range(wanted[-1] + 1 if wanted else 0):
            image = self._try(reader.next)
            if frame in wanted:
                yield frame, self._array(image)

    def _array(self, image: Any) -> np.ndarray:
        if image.shape != (self._video.height, self._video.width, 3):  # seen: 4 channels from a turned video
            raise self._error(f"image of shape {image.shape}")
        return image.asnumpy()

    def _try(self, step: Callable[..., Any], *args: int) -> Any:
        try:
            return step(*args)
        except self._failures as error:
            raise self._error(" ".join(str(error).split())[:200]) from error

    def _error(self, cause: str) -> VideoError:
        return VideoError(self._video.path, f"decord does not read it exactly ({cause}): use decoder=auto or pyav")


def open_video(
    path: str | os.PathLike[str], decoder: str = "auto", modality: str = "rgb", num_frames: int | None = None
) -> Video | FrameFolder | FastSeekCopy:
    """Open a video file, a folder that holds the frames of one video as pictures, or a copy by prepare_videos.py.

    decoder: of files. "pyav" (exact everywhere), "decord" (exact or VideoError), or "auto", which is "pyav": as
    measured, it is faster than decord on every kind of file for which decord is exact. Both give the same pixels on
    8-bit video and differ by about one grey level on 10-bit video.
    modality: "rgb", or "flow": pairs of pictures in a folder, see frames.py; `read` gives (N, 2, H, W) then.
    num_frames: of a folder, where it is known; saves listing the folder. A file is asked itself.
    Raises VideoError if there is no frame, InputError for a decoder that does not exist or is not installed.
    """
    if decoder not in DECODERS:
        raise InputError(f"unknown decoder {decoder!r}: choose one of {', '.join(DECODERS)}")
    if modality not in MODALITIES:
        raise InputError(f"unknown modality {modality!r}: choose one of {', '.join(MODALITIES)}")
    path = os.fspath(path)
    if os.path.isdir(path):
        return FrameFolder(path, modality, num_frames)
    container, stream = _open_container(path)
    try:
        places = places_of_copy(container, stream)
        if places and (decoder != "decord" or modality == "flow"):
            return FastSeekCopy(path, container, stream, places, modality)
        if modality == "flow":
            cause = "optical flow is read from a folder of pictures, which scripts/extract_flow.py makes"
            raise VideoError(path, cause)
    except BaseException:
        container.close()
        raise
    video = Video(path, container, stream)
    if decoder == "decord":
        try:
            video._decord = _Decord(video)
        except BaseException:
            video.close()
            raise
    return video
