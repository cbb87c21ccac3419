"""Make fast-seek copies: videos re-encoded with key frames only; folders of images packed into one file.

fastseek.py describes the format and reads it. A copy is written under a temporary name, verified against its source and
then renamed; so a file with the final name is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from vsn_train.atomic import atomic_path, write_atomic, write_new
from vsn_train.data.colour import RgbConverter
from vsn_train.data.fastseek import FastSeekCopy, append_index
from vsn_train.data.frames import FrameFolder
from vsn_train.data.video import Video, open_video
from vsn_train.data.walk import walk_videos
from vsn_train.errors import InputError, VideoError
from vsn_train.folder_lock import folder_lock

SHORT_SIDE = 256  # pixels
CRF = 20  # of x264; 2 less gives files a quarter larger that take a fifth longer to decode
CHECKED_FRAMES = 9  # frames of a re-encoded video that are compared with the frames before encoding
TICK = Fraction(1, 90000)  # seconds, time base of the copies
LEAST_PSNR = 22.0  # dB, of each checked frame: far below the encoder's quality, far above that of a wrong frame


@dataclass(frozen=True)
class Copy:
    """The result of a copy. psnr: mean over the checked frames in dB; None if nothing was re-encoded."""

    num_frames: int
    source_bytes: int
    bytes: int
    psnr: float | None


def find_sources(root: Path) -> tuple[list[str], str]:
    """Videos and folders of images below `root`, as sorted relative paths, and a line about files left out, or "".

    Raises InputError if there are none, or if the root itself is a folder of images.
    """
    found = walk_videos(root)
    if found.videos == ["."]:
        raise InputError(
            f"{root}: a folder of images, which is one video; expected a folder of videos: name its parent folder"
        )
    note = found.note()
    if not found.videos:
        raise InputError(
            f"{root}: found no videos and no folders of images{f' ({note})' if note else ''}; name a folder with some"
        )
    return found.videos, note


def target_of(source: Path, target: Path) -> Path:
    """The path of a copy: that of a video unchanged, that of a folder of images with .mp4 added."""
    return target.with_name(target.name + ".mp4") if source.is_dir() else target


def prepare(source: Path, target: Path, short_side: int, crf: int, modality: str) -> Copy:
    """Make the copy of one video or folder. Raises VideoError and then leaves no file behind."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_video(source, modality=modality) as video, atomic_path(target) as part:
        if isinstance(video, FrameFolder):
            pack_images(video, part, modality)
            return Copy(video.num_frames, space_of(source), part.stat().st_size, None)
        sample = encode(video, part, short_side, crf)
        return Copy(video.num_frames, space_of(source), part.stat().st_size, check(part, video.num_frames, sample))


def space_of(source: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    if source.is_dir():
        return sum(entry.stat().st_size for entry in os.scandir(source) if entry.is_file())
    return source.stat().st_size


# ---- Videos ----------------------------------------------------------------------------------------------------------


def copy_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) of the copy: short side reduced to short_side, never enlarged; even, as 4:2:0 requires."""
    scale = min(1.0, short_side / min(height, width))
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def encode(video: Video | FastSeekCopy, path: Path, short_side: int, crf: int) -> dict[int, np.ndarray]:
    """Write every frame as an H.264 key frame. Returns some of the resized frames: frame -> (H, W, 3) uint8."""
    import av

    height, width = copy_size(video.height, video.width, short_side)
    wanted = set(np.linspace(0, video.num_frames - 1, CHECKED_FRAMES).round().astype(int).tolist())
    sample: dict[int, np.ndarray] = {}
    to_rgb = RgbConverter()
    with av.open("file:" + str(path), "w", format="mp4") as container:
        # fastdecode: no arithmetic coding and no deblocking; a tenth larger, but decodes in half the time.
        options = {"crf": str(crf), "preset": "veryfast", "tune": "fastdecode"}
        rate = Fraction(video.fps).limit_denominator(65535) if video.fps else Fraction(25)
        times = video.times
        stream = container.add_stream("libx264", rate=rate, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = TICK
        context.gop_size, context.max_b_frames, context.thread_count = 1, 0, 1
        for number, image in enumerate(every_frame(video)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC", threads=1)
            frame.pts = round(float(number / rate if times is None else times[number]) / TICK)
            frame.time_base = TICK
            if number in wanted:
                sample[number] = to_rgb(frame).copy()
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    append_index(path, "h264", "rgb", float(rate), height, width, times)
    return sample


def every_frame(video: Video | FrameFolder | FastSeekCopy) -> Iterator[np.ndarray]:
    """Yield every frame in order, (H, W, 3) uint8, decoded once."""
    if isinstance(video, Video):
        yield from video.frames()
    else:
        for frame in range(video.num_frames):
            yield video.read([frame])[0].permute(1, 2, 0).numpy()


def check(path: Path, num_frames: int, sample: dict[int, np.ndarray]) -> float:
    """Verify a copy against its source; returns the mean PSNR in dB. Raises VideoError.

    Decodes all its frames from first to last. Those of the sample must be similar to the frames before encoding and
    equal to the frames read through the copy's index.
    """
    import av

    in_turn: dict[int, np.ndarray] = {}
    count, to_rgb = 0, RgbConverter()
    with av.open("file:" + str(path)) as container:
        for count, frame in enumerate(container.decode(container.streams.video[0]), start=1):
            if count - 1 in sample:
                in_turn[count - 1] = to_rgb(frame).copy()
    with open_video(path) as copy:
        if not isinstance(copy, FastSeekCopy) or not count == copy.num_frames == num_frames:
            raise VideoError(str(path), f"the copy has {count} frames, the video {num_frames}")
        frames = sorted(sample)
        by_index = copy.read(frames).permute(0, 2, 3, 1).numpy()
    ratios = []
    for frame, image in zip(frames, by_index, strict=True):
        if not np.array_equal(image, in_turn[frame]):
            raise VideoError(str(path), f"the index of the copy gives a wrong frame {frame}")
        ratios.append(psnr(image, sample[frame]))
    if min(ratios) < LEAST_PSNR:
        frame = frames[int(np.argmin(ratios))]
        raise VideoError(str(path), f"frame {frame} of the copy differs from the video's: {min(ratios):.1f} dB")
    return float(np.mean(ratios))


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; 100 if they are equal."""
    error = float(np.mean((image.astype(np.float32) - reference) ** 2))
    return min(100.0, 10 * np.log10(255**2 / max(error, 1e-9)))


# ---- Folders of images -----------------------------------------------------------------------------------------------


def pack_images(folder: FrameFolder, path: Path, modality: str) -> None:
    """Pack the image files of a folder into a video file, unchanged and in order; flow as x, y, x, y …"""
    import av

    with av.open("file:" + str(path), "w", format="mp4") as container:
        codec = _image_codec(folder, folder.images(0)[0])
        stream = container.add_stream(codec, rate=25)
        context = stream.codec_context
        context.width, context.height = folder.width, folder.height
        context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        number = 0
        for frame in range(folder.num_frames):
            folder.read([frame])  # raises VideoError if it cannot be decoded or differs in size
            for data in folder.images(frame):
                if _image_codec(folder, data) != codec:
                    raise VideoError(folder.path, "both JPEG and PNG images in one folder: convert them to one format")
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = number
                packet.duration, packet.is_keyframe = 1, True
                container.mux(packet)
                number += 1
    append_index(path, codec, modality, folder.fps, folder.height, folder.width, folder.times)
    with open_video(path, modality=modality) as copy:
        if not isinstance(copy, FastSeekCopy) or copy.num_frames != folder.num_frames:
            raise VideoError(str(path), f"the copy has {copy.num_frames} frames, the folder {folder.num_frames}")
        for frame in range(folder.num_frames):
            if copy.packets(frame) != folder.images(frame):
                raise VideoError(str(path), f"frame {frame} of the copy differs from the folder's")
        ends = [0, folder.num_frames - 1]
        if not torch.equal(copy.read(ends), folder.read(ends)):
            raise VideoError(str(path), "the copy's pixels differ from the folder's")


def _image_codec(folder: FrameFolder, data: bytes) -> str:
    for start, codec in ((b"\xff\xd8", "mjpeg"), (b"\x89PNG", "png")):
        if data.startswith(start):
            return codec
    raise VideoError(folder.path, "an image in it is neither JPEG nor PNG")


# ---- Whole data sets -------------------------------------------------------------------------------------------------


def take_shard(sources: list[str], text: str) -> list[str]:
    """ "2/4" -> every fourth source, starting with the second. Raises InputError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--shard {text}: expected i/n with i from 1 to n, such as 1/4")
    return sources[int(number) - 1 :: int(count)]


def keep_settings(path: Path, settings: dict[str, object]) -> None:
    """Record the settings of the files in a folder. Raises InputError if other settings are recorded there."""
    # Of several commands that start at once, one writes it.
    path.parent.mkdir(parents=True, exist_ok=True)
    if not write_new(path, json.dumps(settings) + "\n"):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: damaged ({error}); it records the settings of the files there: remove the folder, or only "
                "this file if you know that the settings are the same"
            ) from error
        if found != settings:
            raise InputError(
                f"{path}: the files there were made with {found}, but the settings are now {settings}; use the same "
                "settings or another folder"
            )


def is_below(name: str) -> bool:
    """Whether a path is relative and stays below its folder (and is not the folder itself)."""
    inside = os.path.normpath(name)
    return bool(name) and not os.path.isabs(inside) and inside.split(os.sep)[0] not in ("..", ".")


@contextmanager
def shard_lock(target: Path, shard: str) -> Iterator[None]:
    """Lock a shard. Raises InputError if another command works on it."""
    place = target / f".shard-{shard.replace('/', '-of-')}"
    try:
        with folder_lock(place, "wait for it, or take another --shard"):
            yield
    finally:
        with suppress(OSError):  # it is in use by another command
            place.rmdir()


def list_failed(target: Path, shard: str, failed: Sequence[str]) -> None:
    """Write failed.txt (for a shard failed-2-of-4.txt) and print its path; remove an earlier one if nothing failed."""
    path = target / ("failed.txt" if shard == "1/1" else f"failed-{shard.replace('/', '-of-')}.txt")
    path.unlink(missing_ok=True)
    if failed:
        write_atomic(path, "".join(f"{line}\n" for line in sorted(failed)))
        print(f"failed: {path}")
