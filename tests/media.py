"""Small test videos whose frame number can be read from the pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torchvision.io import encode_jpeg, encode_png

# The number is written in BITS black or white blocks, row by row, most significant bit first.
ROWS, COLUMNS = 3, 4
BITS = ROWS * COLUMNS


def counting_image(number: int, width: int, height: int) -> np.ndarray:
    """(height * 3 / 2, width) uint8, planar yuv420p: `number` in blocks on grey chroma. Width and height are even."""
    bits = [number >> bit & 1 for bit in reversed(range(BITS))]
    row_of = np.arange(height) * ROWS // height
    column_of = np.arange(width) * COLUMNS // width
    luma = np.where(np.reshape(bits, (ROWS, COLUMNS)), 225, 25).astype(np.uint8)[row_of][:, column_of]
    # A faint slope that moves, so that there is something to predict between frames.
    luma += ((np.arange(width)[None, :] + np.arange(height)[:, None] + 2 * number) % 16).astype(np.uint8)
    return np.concatenate([luma, np.full((height // 2, width), 128, np.uint8)])


def read_counter(image: object) -> int:
    """The number in one (C, H, W) image that came out of a decoder."""
    grey = np.asarray(image).astype(np.float64).mean(0)
    height, width = grey.shape
    number = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            middle_y, middle_x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
            block = grey[middle_y - 1 : middle_y + 2, middle_x - 1 : middle_x + 2].mean()
            number = 2 * number + int(block > 128)
    return number


def add_counting_stream(
    container: av.container.OutputContainer,
    *,
    codec: str = "libx264",
    width: int = 64,
    height: int = 48,
    fps: int = 30,
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    b_frames: int = 0,
    **options: str,
) -> av.VideoStream:
    """A video stream of `container`; `options` are FFmpeg's for the encoder."""
    if codec == "libx264":
        # Scene cuts would make every frame a key frame.
        options = {"preset": "ultrafast", "crf": "20", "sc_threshold": "0", "b_strategy": "0", **options}
    elif codec == "libx265":
        quiet = "log-level=none:scenecut=0:pools=1:b-adapt=0"
        options = {"preset": "ultrafast", **options, "x265-params": f"{quiet}:{options.get('x265-params', '')}"}
    elif codec.startswith("libvpx"):
        options = {"deadline": "realtime", "cpu-used": "8", "b": "500k", **options}
    elif codec == "libsvtav1":
        options = {"preset": "8", "crf": "20", **options}
    else:
        options = {"qscale": "3", "b": "2M", "sc_threshold": "1000000000", **options}
    stream = container.add_stream(codec, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
    stream.codec_context.gop_size = gop
    if b_frames:
        stream.codec_context.max_b_frames = b_frames
    stream.codec_context.thread_count = 1
    return stream


def encode_counting(
    stream: av.VideoStream,
    num_frames: int,
    times: Sequence[int] | None = None,
    keep: Callable[[av.Packet], bool] = lambda packet: True,
) -> None:
    """Encode frames 0..num_frames-1 into `stream` and its container.

    times: presentation time of every frame in units of 1/fps s; None means 0, 1, 2... keep: packets to write.
    """
    context = stream.codec_context
    numbers: list[int | None] = [*range(num_frames), None]
    for number in numbers:
        frame = None
        if number is not None:
            frame = av.VideoFrame.from_ndarray(counting_image(number, context.width, context.height), "yuv420p")
            if context.pix_fmt != "yuv420p":
                frame = frame.reformat(format=context.pix_fmt)
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1) / Fraction(stream.codec_context.framerate)
        for packet in stream.encode(frame):
            if keep(packet):
                stream.container.mux(packet)
    if context.name == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # Run by root, this encoder takes the highest realtime priority for the thread that calls it, for good: every
        # other process of the machine would wait for the tests that follow.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_counting_video(
    path: str | Path,
    num_frames: int,
    codec: str = "libx264",
    *,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    keep: Callable[[av.Packet], bool] = lambda packet: True,
    **options: object,
) -> Path:
    """Write a video whose frame i shows i, for `read_counter`. The suffix of `path` chooses the container.

    options: width, height, fps, pix_fmt, gop, b_frames of `add_counting_stream`, and encoder options as strings.
    rotation: degrees, stored as a display matrix.
    """
    with av.open(str(path), "w") as container:
        stream = add_counting_stream(container, codec=codec, **options)
        if rotation:
            stream.set_display_rotation(rotation)
        encode_counting(stream, num_frames, times, keep)
    return Path(path)


def write_counting_folder(
    folder: str | Path, num_frames: int, name: str = "{:05d}.jpg", first: int = 1, *, offset: int = 0,
    width: int = 64, height: int = 48,
) -> Path:  # fmt: skip
    """Images of frames 0..num_frames-1; frame i shows offset + i and is called name.format(first + i)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(num_frames):
        grey = torch.from_numpy(counting_image(offset + frame, width, height)[:height])
        image = grey.expand(3, -1, -1).contiguous()
        path = folder / name.format(first + frame)
        encoded = encode_png(image) if path.suffix.lower() == ".png" else encode_jpeg(image, quality=90)
        path.write_bytes(encoded.numpy().tobytes())
    return folder


def write_packed_video(path: str | Path, num_frames: int, **options: object) -> Path:
    """MPEG-4 with packed B-frames in AVI, as in HMDB51: an image and the B-frame shown before it in one packet, and a
    place holder in the next. options as for `write_counting_video`.
    """
    path = Path(path)
    plain = write_counting_video(path.with_suffix(".plain.avi"), num_frames, codec="mpeg4", b_frames=1, **options)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        vop = b"\0\0\1\xb6"
        is_b = [packet[packet.find(vop) + 4] >> 6 == 2 for packet in packets]
        packed: list[bytes] = []
        for packet, b_frame in zip(packets, is_b, strict=True):
            if b_frame:
                packed[-1] += packet
                packed.append(vop + b"\x50\0\x7f")
            else:
                packed.append(packet)
        # What tells decoders that B-frames are packed.
        place = packed[0].find(vop)
        packed[0] = packed[0][:place] + b"\0\0\1\xb2DivX503b1393p" + packed[0][place:]
        for number, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream = stream
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, number == 0
            target.mux(packet)
    plain.unlink()
    return path
