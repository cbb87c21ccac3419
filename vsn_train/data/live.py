"""The frames of a live source as they arrive: a file, a pipe, a camera or a network address.

A separate thread reads the source, because FFmpeg may block for ever and cannot be interrupted by a signal.
"""

from __future__ import annotations

import os
import queue
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vsn_train.data.colour import RgbConverter
from vsn_train.data.frames import MAX_PIXELS
from vsn_train.data.times import TOLERANCE
from vsn_train.data.video import FORMATS, foreign_tags, upright
from vsn_train.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer

# Protocols for an address. Local files are excluded: a playlist on the network must not name them.
NETWORK_PROTOCOLS = "http,https,tls,tcp,udp,rtp,rtmp,rtmps,rtsp,srt,httpproxy,crypto"
NETWORK_FORMATS = FORMATS + ",hls,dash,rtsp,rtp,sdp,mpjpeg"
USUAL_RATE = 25.0  # frames per second, for a source without time stamps and frame rate
POLL = 0.1  # seconds after which a stop is noticed
HELD = 4  # decoded frames that wait for the network


@dataclass
class _Reader:
    """The settings of the reader thread, and its queue of (seconds, image), an error, or None at the end."""

    source: str
    step: float
    start: float
    end: float | None
    timeout: float
    stopped: threading.Event
    frames: queue.Queue[tuple[float, np.ndarray] | VideoError | None]


def live_frames(
    source: str,
    step: float = 0.0,
    start: float = 0.0,
    end: float | None = None,
    timeout: float = 120.0,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frames of a source as they arrive: (seconds after the first frame, uint8 (H, W, 3) RGB).

    source: a file, a named pipe, "-" for standard input, a camera (/dev/video0) or an address (http://, tcp://,
    rtsp://, …). step: seconds between two returned frames; 0: every frame. start, end: seconds; frames outside are
    skipped, and nothing after `end` is read. timeout: seconds to wait for the next frame; 0: for ever. stopped: called
    about ten times per second; True ends the iteration. Raises VideoError for a source that cannot be opened, fails, or
    sends no frame for `timeout` seconds.
    """
    reader = _Reader(source, step, start, end, timeout, threading.Event(), queue.Queue(HELD))
    threading.Thread(target=_read, args=(reader,), daemon=True, name="live video").start()
    since = time.monotonic()
    try:
        while not stopped():
            try:
                found = reader.frames.get(timeout=POLL)
            except queue.Empty:
                if timeout and time.monotonic() - since > timeout:
                    cause = f"it sent no frame for {timeout:g} s; raise data.timeout to wait longer"
                    raise VideoError(source, cause) from None
                continue
            if found is None:
                return
            if isinstance(found, VideoError):
                raise found
            yield found
            since = time.monotonic()
    finally:
        reader.stopped.set()


def _read(reader: _Reader) -> None:
    import av

    try:
        with _open(reader.source, reader.timeout) as container:
            for taken in _taken(container, reader):
                if not _hand_over(reader, taken):
                    return
        _hand_over(reader, None)
    except VideoError as error:
        _hand_over(reader, error)
    except (av.FFmpegError, OSError, ValueError) as error:
        _hand_over(reader, VideoError(reader.source, getattr(error, "strerror", None) or str(error)))


def _hand_over(reader: _Reader, item: tuple[float, np.ndarray] | VideoError | None) -> bool:
    """Put an item into the queue; returns False once the reader was stopped."""
    while not reader.stopped.is_set():
        try:
            reader.frames.put(item, timeout=POLL)
            return True
        except queue.Full:
            continue
    return False


def _open(source: str, timeout: float) -> InputContainer:
    import av

    options = {"protocol_whitelist": "file,pipe", "format_whitelist": FORMATS}
    place, kind = source, None
    if is_address(source):
        options = {"protocol_whitelist": NETWORK_PROTOCOLS, "format_whitelist": NETWORK_FORMATS}
    elif source == "-":
        place = "pipe:0"
    elif not os.path.exists(source):
        raise VideoError(source, "no such file, pipe or device")
    elif stat.S_ISCHR(os.stat(source).st_mode):
        options, kind = {}, "v4l2"
    else:
        place = "file:" + source  # allows a colon in the name
    return av.open(
        place, format=kind, options={"max_pixels": str(MAX_PIXELS)}, container_options=options,
        timeout=timeout or None, **foreign_tags(av.__version__),
    )  # fmt: skip


def is_address(source: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def _taken(container: InputContainer, reader: _Reader) -> Iterator[tuple[float, np.ndarray]]:
    import av

    if not container.streams.video:
        raise VideoError(reader.source, f"contains no video ({container.format.long_name})")
    stream = max(container.streams.video, key=lambda each: each.codec_context.width * each.codec_context.height)
    stream.codec_context.thread_count = 1
    rate = float(stream.average_rate or 0.0) or USUAL_RATE
    to_rgb = RgbConverter()
    shift: float | None = None  # from the source's clock to seconds after the first frame
    last, due = 0.0, reader.start
    for packet in container.demux(stream):
        if reader.stopped.is_set():
            return
        try:
            pictures = stream.codec_context.decode(packet)
        except av.FFmpegError:
            continue  # a packet that was damaged in transmission
        for picture in pictures:
            clock = picture.time  # of the source
            if shift is None:
                seconds = 0.0
            elif clock is not None and clock + shift > last:
                seconds = clock + shift
            else:  # no time stamp, or a clock that was set back
                seconds = last + 1 / rate
            if clock is not None:
                shift = seconds - clock
            elif shift is None:
                shift = 0.0
            last = seconds
            if reader.end is not None and seconds >= reader.end - TOLERANCE:
                return
            if seconds >= due - TOLERANCE:
                due = reader.step + (due if due + reader.step > seconds else seconds)
                yield seconds, upright(to_rgb(picture), picture)
