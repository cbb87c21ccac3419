"""The frames of one video, exact, behind one interface.

    with open_video(path) as video:
        clip = video.read([4, 13, 22])      # uint8 (3, C, H, W), RGB

Frame i is the i-th image of a full sequential decode in presentation order, for every container and codec. A full
decode is FFmpeg's decoder in one thread, from the first packet to the last, without the packets that it refuses.

How this is exact and fast: opening reads all packets without decoding them, and packets.py determines which packet
holds which frame. `read` decodes from the nearest safe key picture and skips pictures that are neither wanted nor
referred to. Every decoded image carries the number of its packet, so an image can be missing, but never be mistaken for
its neighbour. Everything else (unknown codecs, streams that change midway, damage, interlaced H.264, edit lists,
unusable time stamps) is decoded from the start and counted, each time by a new decoder: slow, but exact. The same holds
for a file as soon as FFmpeg reports an error in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from vsn_train.data.colour import RgbConverter
from vsn_train.data.decord_reader import DecordReader
from vsn_train.data.fastseek import FastSeekCopy, read_index
from vsn_train.data.frames import MAX_PIXELS, FrameFolder, rows_of_frames
from vsn_train.data.hearing import errors_heard
from vsn_train.data.packet_source import PacketSource
from vsn_train.data.packets import FrameMap, read_packet_table
from vsn_train.data.times import even_times, rate_of, rising_times
from vsn_train.data.torchcodec_reader import TorchCodecReader
from vsn_train.errors import InputError, VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DECODERS = ("auto", "decord", "pyav", "torchcodec")
MODALITIES = ("rgb", "flow")
READERS: dict[str, type[DecordReader | TorchCodecReader]] = {"decord": DecordReader, "torchcodec": TorchCodecReader}


# FFmpeg's formats that hold a video in a single file. Others are left out on purpose: playlists and scripts (concat,
# hls, dash, sdp, mlv, …) open any files that they name, and some demuxers accept any text as a video.
FORMATS = (
    "3g2,3gp,apng,asf,asf_o,av1,avi,avs2,avs3,cavsvideo,dhav,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,kux,live_flv,m4v,"
    "matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,rm,swf,vc1,vc1test,vvc,webm,wtv,yuv4mpegpipe"
)

_FIRST = 8  # most packets that are decoded to open a file


class _Unexpected(Exception):
    """The decoder did not return the frames that the packets announced."""


def _open_container(path: str) -> tuple[InputContainer, VideoStream]:
    """Open the container and its largest video stream, the one that decord chooses too. Raises VideoError."""
    import av

    if not os.path.isfile(path):
        raise VideoError(path, "no such file or folder")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty")
    only_this_file = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        # "file:" allows a colon in the name.
        container = av.open(
            "file:" + path, options={"max_pixels": str(MAX_PIXELS)}, container_options=only_this_file,
            **foreign_tags(av.__version__),
        )  # fmt: skip
    except av.ArgumentError as error:
        raise VideoError(path, "not a video file (playlists, which name other files, are not read)") from error
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, _reason(error)) from error
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
    if not streams:
        container.close()
        raise VideoError(path, f"contains no video that can be decoded ({container.format.long_name})")
    stream = max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        container.close()
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        raise VideoError(path, f"its frames are {size}; the limit is {MAX_PIXELS} pixels")
    stream.codec_context.thread_count = 1  # the loader's worker processes are the parallelism
    return container, stream


def foreign_tags(version: str) -> dict[str, Any]:
    """Options for PyAV to ignore tags that are not UTF-8, as in old AVI files; from version 19 it always does."""
    return {"metadata_errors": "replace"} if int(version.partition(".")[0]) < 19 else {}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Rotate in steps of 90 degrees and mirror an (H, W, C) image by the frame's display matrix.

    Any other matrix, intended or damaged, is ignored.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) != abs(d) or abs(b) != abs(c) or (a == 0) == (b == 0):
        return image
    if a == 0:
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix mirrors the image, so that it is not a rotation alone."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64).tolist()
    return a * d - b * c < 0


class Video:
    """One open video, made by `open_video`. Close it, or use it in a `with` statement.

    num_frames: images of a full decode. fps: average frames per second, 0.0 if unknown. height, width: pixels of the
    images that `read` returns: rotated by the display matrix, pixel aspect ratio not applied.
    """

    num_frames: int
    fps: float
    height: int
    width: int

    def __init__(self, path: str, decoder: str = "auto") -> None:
        self.path = path
        self._closed = False
        self._source: PacketSource | None = None
        self._damage = ""
        self._turned = self._is_mirrored = False  # by the display matrix
        heard = errors_heard()
        self._container, stream = _open_container(path)
        try:
            self._decoder = stream.codec_context
            self._to_rgb = RgbConverter()
            self._reader: DecordReader | TorchCodecReader | None = None
            self._table = read_packet_table(self._container, stream, heard)
            size: tuple[int, int] | None = None
            if self._table.frame_map:
                self._source = PacketSource(path, self._table, _open_container)
                size = self._first_size(self._source)
            if self._table.frame_map and size:
                self.num_frames = len(self._table.frame_map.packet_of)
                times = [self._table.times[packet] for packet in self._table.frame_map.packet_of]
            else:
                self._table.frame_map = None
                size, times = self._count_frames()
                self.num_frames = len(times)
            if size is None:
                raise VideoError(path, f"no frame can be decoded (codec {self._table.codec})")
            self.height, self.width = size
            # AVI has no time stamps of its own.
            self._stamps = [] if self._table.container == "avi" else times
            self.fps = rate_of(float(stream.average_rate or 0.0), self._stamps, float(self._table.time_base))
            if decoder in READERS:
                if self._is_mirrored:  # decord rotates images and does not mirror them
                    cause = f"its display matrix mirrors it, which decoder={decoder} does not support"
                    raise VideoError(path, f"{cause}: use decoder=auto or pyav")
                self._reader = READERS[decoder](path, self.height, self.width, self._table)
        except BaseException:
            self.close()
            raise

    @property
    def times(self) -> np.ndarray | None:
        """Time of each frame by the file's time stamps, float64 (num_frames,), in seconds after the first one.

        i / fps if the container has no time stamps (AVI) or they do not increase; None if fps is unknown too.
        """
        times = rising_times(self._stamps, float(self._table.time_base))
        return even_times(self.num_frames, self.fps) if times is None else times

    def read(self, frames: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Read the given frames, in the given order; they may repeat.

        Returns uint8 (N, C, H, W), RGB, a view of memory laid out as (N, H, W, C) ("channels last").
        Request all frames of a clip in one call: every call restarts decoding.
        Raises IndexError outside 0..num_frames-1, VideoError if the file turns out to be damaged.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        rows = rows_of_frames(self.path, self.num_frames, frames)
        images = np.empty((len(frames), self.height, self.width, 3), np.uint8)
        decoded = self._images(sorted(rows)) if self._reader is None else self._reader.images(sorted(rows))
        for frame, image in decoded:
            if image.shape != images.shape[1:]:
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise VideoError(self.path, f"frame {frame} is {size}, frame 0 is {self.width}x{self.height}")
            images[rows[frame]] = image
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """Yield the wanted frames one by one, (H, W, 3) uint8, decoded once.

        wanted: increasing, without repeats; None: every frame. Always uses this reader, not the one of `decoder`.
        """
        due = iter(numbers := list(range(self.num_frames) if wanted is None else wanted))
        next_frame = next(due, None)
        for frame, image in self._images(numbers):
            if frame != next_frame:
                continue  # damage made the decoder start again
            if image.shape != (self.height, self.width, 3):
                raise VideoError(self.path, f"frame {frame} has another size than frame 0")
            yield image
            next_frame = next(due, None)

    def decode_in_turn(self) -> Iterator[np.ndarray]:
        """Yield every image of a full decode, (H, W, 3) uint8: the reference for `read`. Packets that the decoder
        refuses are skipped."""
        for picture in self._decode_all():
            yield self._image(picture, alone=True)

    @property
    def codec(self) -> str:
        """FFmpeg's name: "h264", "mpeg4", …"""
        return self._table.codec

    @property
    def bits(self) -> int:
        """Bits per sample before the conversion to 8 bits."""
        pixel_format = self._decoder.format
        return pixel_format.components[0].bits if pixel_format else 8

    @property
    def whole(self) -> bool:
        """Whether no damage was detected in the file."""
        return self._table.whole

    @property
    def header_frames(self) -> int:
        """The number of frames that the container's header states, which is often wrong; 0 if it states none."""
        return self._container.streams[self._table.stream].frames

    def close(self) -> None:
        self._closed = True
        self._reader = None
        if self._source:
            self._source.close()
        self._container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode_all(self) -> Iterator[VideoFrame]:
        """The full decode of the file, which defines its frames. Uses a new decoder: flushing does not reset one.

        Keep each picture until the next one comes, as a plain loop does, and no longer: where data is missing, FFmpeg
        leaves the previous content of the picture's buffer in place, and which buffer it gets depends on the free ones.
        """
        import av

        container, stream = _open_container(self.path)
        with container:
            try:
                for packet in container.demux(stream):
                    # An empty packet in the middle would end the decoder; the ffmpeg program skips it too.
                    if not packet.size and packet.pos is not None:
                        continue
                    try:
                        yield from stream.codec_context.decode(packet)
                    except av.FFmpegError:
                        continue
            except av.FFmpegError:
                return  # the file is truncated

    def _decode(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """Decode a run of packets of a video with a frame map. Decoding must be able to start at the first packet.

        Raises _Unexpected if FFmpeg reports damage.
        """
        import av

        heard, count = errors_heard(), av.logging.get_last_error
        if self._table.codec in ("vp8", "vp9"):  # flushing does not reset FFmpeg's segmentation map of these
            self._decoder = cast("VideoCodecContext", av.CodecContext.create(self._decoder.name, "r"))
            self._decoder.thread_count = 1
        else:
            self._decoder.flush_buffers()
        for packet in chain(packets, [None]):  # None: flush the pictures that are held back for reordering
            try:
                frames = self._decoder.decode(packet)
            except av.FFmpegError as error:
                raise _Unexpected from error
            if count()[0] != heard:
                raise _Unexpected
            for frame in frames:
                if frame.is_corrupt:
                    raise _Unexpected
                yield frame

    def _first_size(self, source: PacketSource) -> tuple[int, int] | None:
        """(height, width) of the image in the first packet; None if the packet gives another number of images."""
        try:
            first = self._first_packets(source)
            frames = list(self._decode(first))
        except (_Unexpected, OSError):
            return None
        # Interlaced H.264 may have its two fields in two packets.
        fields = self._table.codec == "h264" and any(frame.interlaced_frame for frame in frames)
        announced = (
            sum(self._table.frame_map.frame_of[i] >= 0 for i in range(len(first))) if self._table.frame_map else 1
        )
        return self._size(frames[0]) if len(frames) == announced and not fields else None

    def _first_packets(self, source: PacketSource) -> list[Packet]:
        """The first packet; for MPEG-4 also the following ones, up to the second with correct stuffing bits.

        Some encoders omit the stuffing, so FFmpeg keeps a score of how pictures end (padding_bug_score), which a flush
        does not reset. Until it has seen two correct ones, it does not report data left over after a picture: a decoder
        started midway would miss damage that a full decode reports. (ISO/IEC 14496-2, 5.2.4: a zero and ones fill the
        last byte. A zero alone does not change the score.)
        """
        if self._table.codec != "mpeg4":
            return list(source.pictures([0]))
        packets: list[Packet] = []
        good = 0
        for packet in source.pictures(range(min(_FIRST, len(self._table.sizes)))):
            packets.append(packet)
            good += bytes(packet)[-1] & 1
            if good == 2:
                break
        return packets

    def _count_frames(self) -> tuple[tuple[int, int] | None, list[int | None]]:
        """(height, width) of the first image of a full decode, and the time stamp of each image in units of the time
        base."""
        size: tuple[int, int] | None = None
        times: list[int | None] = []
        for picture in self._decode_all():
            size = size or self._size(picture)
            times.append(picture.pts)
        return size, times

    def _size(self, frame: VideoFrame) -> tuple[int, int]:
        """(height, width) of the first image, upright."""
        self._turned, self._is_mirrored = frame.side_data.get("DISPLAYMATRIX") is not None, _mirrored(frame)
        height, width, _ = upright(np.broadcast_to(np.uint8(0), (frame.height, frame.width, 3)), frame).shape
        return height, width

    def _images(self, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame, image (H, W, 3)) of every wanted frame. wanted: sorted, without repeats."""
        if self._damage:
            raise VideoError(self.path, self._damage)
        missing = set(wanted)
        if self._table.frame_map and self._source:
            try:
                for frame, picture in self._mapped_frames(wanted, self._table.frame_map, self._source):
                    if frame in missing:
                        missing.remove(frame)
                        yield frame, self._image(picture)
            except (_Unexpected, OSError):
                missing = set(wanted)
            if not missing:
                return
            # Damage inside a picture shows only now. A full decode tells whether the frame numbers still hold.
            self._table.frame_map = None  # from now on, decode from the start and count
            count = len(self._count_frames()[1])
            if count != self.num_frames:
                self._damage = f"damaged: {count} of its {self.num_frames} frames can be decoded"
                raise VideoError(self.path, self._damage)
        for frame, picture in enumerate(self._decode_all()):
            if frame in missing:
                missing.remove(frame)
                yield frame, self._image(picture, alone=True)
            if not missing:
                return
        if missing:
            raise VideoError(self.path, f"frame {min(missing)} cannot be decoded")

    def _mapped_frames(
        self, wanted: list[int], frame_map: FrameMap, source: PacketSource
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Decode as few packets as the wanted frames need. May yield other frames too."""
        needed = {frame_map.packet_of[frame] for frame in wanted}
        runs: list[tuple[int, int]] = []  # first and last packet
        for packet in sorted(needed):
            first = frame_map.start_of[packet]
            while runs and first <= runs[-1][1] + 1:
                first = min(first, runs.pop()[0])
            runs.append((first, packet))
        for first, last in runs:
            run = self._worth_decoding(first, last, needed, frame_map)
            due = sorted(frame_map.frame_of[i] for i in run if frame_map.frame_of[i] >= 0)
            for picture in self._decode(source.pictures(run)):
                frame = -1 if picture.pts is None else frame_map.frame_of[picture.pts]
                if not due or frame != due.pop(0):
                    raise _Unexpected
                yield frame, picture
            if due:
                raise _Unexpected

    def _worth_decoding(self, first: int, last: int, needed: set[int], frame_map: FrameMap) -> list[int]:
        """The packets from `first` to `last` that are needed, or that the needed ones depend on."""
        run = []
        first_frame = frame_map.frame_of[first]
        before_needed = False  # whether the next spare picture is decoded
        for i in range(last, first - 1, -1):
            spare = frame_map.spare[i]
            if i in needed or not spare:
                # Pictures that follow a start but are shown before it lack their references: skip them too.
                wanted = i in needed or not -1 < frame_map.frame_of[i] < first_frame
            else:
                # FFmpeg's concealment of a damaged B-frame of MPEG-4 also changes the next one.
                wanted = before_needed and self._table.codec == "mpeg4"
            before_needed = wanted and spare
            if wanted:
                run.append(i)
        return run[::-1]

    def _image(self, frame: VideoFrame, alone: bool = False) -> np.ndarray:
        """Convert to (H, W, 3) uint8 RGB, upright.

        alone: release the decoder's picture at once; a converter keeps its last one.
        """
        image = RgbConverter()(frame) if alone else self._to_rgb(frame)
        # PyAV's side data and frame refer to each other and live until the garbage collector runs, so read it only
        # where needed. A matrix that only mirrors has no rotation, hence `_turned`. (Old PyAV has no `rotation`.)
        return upright(image, frame) if self._turned or getattr(frame, "rotation", True) else image


def open_video(
    path: str | os.PathLike[str], decoder: str = "auto", modality: str = "rgb", num_frames: int | None = None
) -> Video | FrameFolder | FastSeekCopy:
    """Open a video file, a folder with the frames of one video as images, or a copy made by `vsn-tools prepare`.

    decoder: for files. "pyav" (exact everywhere), "decord" or "torchcodec" (exact or VideoError), or "auto", which is
    "pyav": it was measured to be faster than decord on every kind of file for which decord is exact. All give the same
    pixels on 8-bit video and differ by about one grey level on 10-bit video.
    modality: "rgb", or "flow" for pairs of images in a folder, see frames.py; `read` then returns (N, 2, H, W).
    num_frames: of a folder, if known; avoids listing the folder. Ignored for files.
    Raises VideoError if there is no frame, InputError for a decoder that does not exist or is not installed.
    """
    if decoder not in DECODERS:
        raise InputError(f"unknown decoder {decoder!r}: choose one of {', '.join(DECODERS)}")
    if modality not in MODALITIES:
        raise InputError(f"unknown modality {modality!r}: choose one of {', '.join(MODALITIES)}")
    path = os.fspath(path)
    if os.path.isdir(path):
        return FrameFolder(path, modality, num_frames)
    index = read_index(path) if os.path.isfile(path) else None
    if index and (decoder not in READERS or modality == "flow"):
        return FastSeekCopy(path, index, modality)
    if modality == "flow" and os.path.exists(path):
        raise VideoError(path, "optical flow is read from a folder of images; make it with `vsn-tools flow`")
    return Video(path, decoder)
