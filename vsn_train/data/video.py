"""The frames of one video, exact, behind one interface.

    with open_video(path) as video:
        clip = video.read([4, 13, 22])      # uint8 (3, C, H, W), RGB

Frame i is the i-th image of a full sequential decode in presentation order, whatever the container or the codec.

Frame i is what a plain decode of the whole file gives as its i-th image: FFmpeg's decoder in one thread, from the first
packet to the last; packets that it refuses are left out.

How it stays exact and fast. Opening reads all packets without decoding them, and packets.py finds out which one holds
which frame. `read` decodes from the nearest safe key picture on, leaving out pictures that nothing refers to and nobody
asked for. Every decoded image carries the number of its packet, so an image can be missing but never be taken for its
neighbour. Everything else (unknown codec, streams that change in their middle, damage, interlaced H.264, edit lists,
useless time stamps) is decoded from the start and counted, each time by a new decoder: slow, but never wrong. So is a
file from the moment on that FFmpeg reports an error in it.
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


# Of FFmpeg's formats those that hold a video in the one file that is named. Others are left out on purpose: playlists
# and scripts (concat, hls, dash, sdp, mlv, …) open whatever files they name, and to some any text is a video.
FORMATS = (
    "3g2,3gp,apng,asf,asf_o,av1,avi,avs2,avs3,cavsvideo,dhav,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,kux,live_flv,m4v,"
    "matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,rm,swf,vc1,vc1test,vvc,webm,wtv,yuv4mpegpipe"
)

_FIRST = 8  # packets that are decoded at most to open a file


class _Unexpected(Exception):
    """The decoder did not deliver what the packets announced."""


def _open_container(path: str) -> tuple[InputContainer, VideoStream]:
    """The container and its largest video stream, which is the one that decord takes too."""
    import av

    if not os.path.isfile(path):
        raise VideoError(path, "no such file or folder")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty")
    only_this_file = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        # "file:" lets a name hold a colon.
        container = av.open(
            "file:" + path, options={"max_pixels": str(MAX_PIXELS)}, container_options=only_this_file,
            **foreign_tags(av.__version__),
        )  # fmt: skip
    except av.ArgumentError as error:
        raise VideoError(path, "it is no file of a video (a playlist, which names other files, is not read)") from error
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, _reason(error)) from error
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
    if not streams:
        container.close()
        raise VideoError(path, f"no video that can be decoded in it ({container.format.long_name})")
    stream = max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        container.close()
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        raise VideoError(path, f"its frames are {size}; at most {MAX_PIXELS} pixels are read")
    stream.codec_context.thread_count = 1  # the loader's worker processes are the parallelism
    return container, stream


def foreign_tags(version: str) -> dict[str, Any]:
    """What has PyAV pass over tags that are not UTF-8, as those of old AVI files; from version 19 on it always does."""
    return {"metadata_errors": "replace"} if int(version.partition(".")[0]) < 19 else {}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turn and mirror an (H, W, C) image as the frame's display matrix says, in steps of 90 degrees.

    A matrix that does anything else, by intention or by damage, is left alone.
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
    """Whether the display matrix mirrors the image: no turn alone does what it says."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64).tolist()
    return a * d - b * c < 0


class Video:
    """One open video; `open_video` makes it. Close it, or use it in a `with` statement.

    num_frames: images that a full decode delivers. fps: average frames per second, 0.0 where the file does not say.
    height, width: pixels of the images that `read` returns: turned by the display matrix, pixel aspect not applied.
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
        self._turned = self._is_mirrored = False  # what the display matrix says of the frames
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
                if self._is_mirrored:  # decord turns images and does not mirror them
                    cause = f"its display matrix mirrors it, which decoder={decoder} does not do"
                    raise VideoError(path, f"{cause}: use decoder=auto or pyav")
                self._reader = READERS[decoder](path, self.height, self.width, self._table)
        except BaseException:
            self.close()
            raise

    @property
    def times(self) -> np.ndarray | None:
        """When each frame is shown, float64 (num_frames,): seconds after the first one, by the file's time stamps.

        i / fps where the container has none (AVI) or they do not rise from frame to frame; None without fps too.
        """
        times = rising_times(self._stamps, float(self._table.time_base))
        return even_times(self.num_frames, self.fps) if times is None else times

    def read(self, frames: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """The given frames, in the given order; they may repeat.

        Returns uint8 (N, C, H, W), RGB, a view of memory laid out as (N, H, W, C) ("channels last").
        Request all frames of a clip in one call: every call restarts decoding.
        Raises IndexError outside 0..num_frames-1, VideoError where the file turns out to be damaged.
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
        """The wanted frames in turn, (H, W, 3) uint8, decoded once: for what does not need them all at the same time.

        wanted: rising and without repeats; None: every frame. They are decoded by this reader, whatever `decoder` says.
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
        """Every image of a plain decode from the first packet to the last, whatever the packets announce: what `read`
        has to agree with. (H, W, 3) uint8; packets that the decoder refuses are left out."""
        for picture in self._decode_all():
            yield self._image(picture, alone=True)

    @property
    def codec(self) -> str:
        """FFmpeg's name: "h264", "mpeg4", …"""
        return self._table.codec

    @property
    def bits(self) -> int:
        """Of a sample before it is converted to 8 bits."""
        pixel_format = self._decoder.format
        return pixel_format.components[0].bits if pixel_format else 8

    @property
    def whole(self) -> bool:
        """Whether nothing in the file is seen to be damaged."""
        return self._table.whole

    @property
    def header_frames(self) -> int:
        """The number of frames that the container announces; 0 where it does not. It is often wrong."""
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
        """The plain decode of the file, which defines its frames. By a new decoder: flushing one does not reset it.

        Hold on to one picture until the next one comes, as a plain loop does, and to no other: where data is missing,
        FFmpeg leaves in a picture what lay in the memory that it takes for it, which depends on what memory is free.
        """
        import av

        container, stream = _open_container(self.path)
        with container:
            try:
                for packet in container.demux(stream):
                    # A packet without data in the middle would end the decoder; FFmpeg's own program passes over it.
                    if not packet.size and packet.pos is not None:
                        continue
                    try:
                        yield from stream.codec_context.decode(packet)
                    except av.FFmpegError:
                        continue
            except av.FFmpegError:
                return  # the file breaks off

    def _decode(self, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
        """All images of a run of packets of a video that has a map. Decoding must be able to start at the first one.

        Raises _Unexpected when FFmpeg reports any damage.
        """
        import av

        heard, count = errors_heard(), av.logging.get_last_error
        if self._table.codec in ("vp8", "vp9"):  # of which FFmpeg keeps the map of segments when it is flushed
            self._decoder = cast("VideoCodecContext", av.CodecContext.create(self._decoder.name, "r"))
            self._decoder.thread_count = 1
        else:
            self._decoder.flush_buffers()
        for packet in chain(packets, [None]):  # None: hand out what is still held back for reordering
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
        """(height, width) of the image in the first packet; None if that is not just one, as the map assumes."""
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
        """The first packet. Of MPEG-4 those behind it too, up to the second one that is filled up as it should be.

        Some encoders leave the filling out, and FFmpeg counts how the pictures end that it has seen, beyond a flush.
        Before two good ones it says nothing of data that is left behind a picture: a decoder that started in the middle
        would pass over damage which one from the start reports. (Its padding_bug_score; ISO/IEC 14496-2, 5.2.4: a zero
        and ones fill the last byte. Of a zero alone it learns nothing.)
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
        """(height, width) of the first image of a full decode, and the presentation time of each in units of the time
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
        """(frame, (H, W, 3) image) of every wanted frame; `wanted` is sorted and without repeats."""
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
            # Damage inside a picture shows only now. A full decode tells whether the frames still have their numbers.
            self._table.frame_map = None  # from here on, count
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
        """Decode as little as the wanted frames need. Other frames may come along."""
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
        """The packets from a start on that the needed ones depend on, and these."""
        run = []
        first_frame = frame_map.frame_of[first]
        before_needed = False  # of a run of spare pictures, the one behind it is decoded
        for i in range(last, first - 1, -1):
            spare = frame_map.spare[i]
            if i in needed or not spare:
                # After a start, pictures shown before it lack what they refer to: leave them out too.
                wanted = i in needed or not -1 < frame_map.frame_of[i] < first_frame
            else:
                # What FFmpeg makes up in a damaged B-frame of MPEG-4 shows in the next one too.
                wanted = before_needed and self._table.codec == "mpeg4"
            before_needed = wanted and spare
            if wanted:
                run.append(i)
        return run[::-1]

    def _image(self, frame: VideoFrame, alone: bool = False) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright.

        alone: let go of the decoder's picture at once, which a converter keeps until its next one.
        """
        image = RgbConverter()(frame) if alone else self._to_rgb(frame)
        # PyAV's side data refers to the frame and back, and keeps it until the garbage collector comes. A matrix that
        # mirrors alone has no rotation; `_turned` knows of it. (Old versions of PyAV do not tell the rotation.)
        return upright(image, frame) if self._turned or getattr(frame, "rotation", True) else image


def open_video(
    path: str | os.PathLike[str], decoder: str = "auto", modality: str = "rgb", num_frames: int | None = None
) -> Video | FrameFolder | FastSeekCopy:
    """Open a video file, a folder that holds the frames of one video as pictures, or a copy by prepare_videos.py.

    decoder: of files. "pyav" (exact everywhere), "decord" or "torchcodec" (exact or VideoError), or "auto", which is
    "pyav": as measured, it is faster than decord on every kind of file for which decord is exact. All give the same
    pixels on 8-bit video and differ by about one grey level on 10-bit video.
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
    index = read_index(path) if os.path.isfile(path) else None
    if index and (decoder not in READERS or modality == "flow"):
        return FastSeekCopy(path, index, modality)
    if modality == "flow" and os.path.exists(path):
        raise VideoError(path, "optical flow is read from a folder of images, which `vsn-tools flow` makes")
    return Video(path, decoder)
