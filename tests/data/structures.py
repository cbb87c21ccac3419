"""Videos of random structure, and what a plain decode gives of them: joined, cut, remuxed, thinned out, shifted in
time, damaged. Everything follows from a seed; PyAV alone makes them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.media import write_counting_video, write_packed_video
from vsn_train.data.video import VideoError, foreign_tags, open_video

CODECS = ("h264", "h264", "hevc", "hevc", "mpeg4", "mpeg4", "packed", "vp8", "vp9")
CONTAINERS = {
    "h264": ("mp4", "mkv", "mov", "mp4", "avi", "ts", "flv"),
    "hevc": ("mp4", "mkv", "mp4", "ts"),
    "mpeg4": ("avi", "mp4", "mkv", "avi", "ts"),
    "packed": ("avi", "avi", "mkv", "mp4"),
    "vp8": ("webm", "mkv", "avi"),
    "vp9": ("webm", "mkv", "mp4"),
    "av1": ("mp4", "mkv"),
}
HOMES = {"h264": "mp4", "hevc": "mp4", "mpeg4": "avi", "packed": "avi", "vp8": "webm", "vp9": "webm", "av1": "mp4"}


class NotWritable(Exception):
    """The container cannot hold what was drawn."""


@dataclass(frozen=True)
class Packed:
    """One compressed picture on its way from one file to another. Times in frames."""

    data: bytes
    pts: Fraction | None
    dts: Fraction
    key: bool


def write_part(draw: random.Random, path: Path, codec: str, size: tuple[int, int]) -> Path:
    """One freshly encoded video of a random structure of groups of pictures."""
    num_frames = draw.choice([1, 2, 3, draw.randint(4, 40), draw.randint(4, 40)])
    gop, b_frames = draw.randint(1, 20), draw.choice([0, 0, 1, 2, 3])
    options: dict[str, object] = {"width": size[0], "height": size[1], "gop": gop, "fps": draw.choice([30, 25])}
    if codec == "h264":
        params = [
            f"keyint={gop}:min-keyint=1:ref={draw.randint(1, 4)}:open-gop={draw.randint(0, 1)}",
            f"b-pyramid={draw.choice(['none', 'strict', 'normal'])}:weightp={draw.randint(0, 2)}",
            f"intra-refresh={int(draw.random() < 0.1)}:slices={draw.choice([1, 1, 2])}",
            f"aud={draw.randint(0, 1)}:cabac={draw.randint(0, 1)}:repeat-headers={draw.choice([0, 0, 1])}",
        ]
        if draw.random() < 0.1:
            params.append("tff=1")
        return write_counting_video(path, num_frames, b_frames=b_frames, **options, **{"x264-params": ":".join(params)})
    if codec == "hevc":
        params = [
            f"keyint={max(2, gop)}:min-keyint=1:bframes={b_frames}:open-gop={draw.randint(0, 1)}",
            f"b-pyramid={draw.randint(0, 1)}:temporal-layers={int(b_frames > 2)}:ref={draw.randint(1, 4)}",
        ]
        for last in (False, False, False, False, True):
            try:
                return write_counting_video(path, num_frames, "libx265", **options, **{"x265-params": ":".join(params)})
            except av.FFmpegError as error:  # now and then FFmpeg's MP4 writer refuses what it takes the next time
                if last:
                    raise NotWritable(str(error)) from error
    if codec == "mpeg4":
        return write_counting_video(path, num_frames, "mpeg4", b_frames=b_frames, **options)
    if codec == "packed":
        return write_packed_video(path, num_frames, **options)
    if codec == "av1":
        return write_counting_video(path, num_frames, "libsvtav1", **options)
    hidden = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"}
    encoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}[codec]
    return write_counting_video(path, num_frames, encoder, **options, **(hidden if draw.random() < 0.5 else {}))


def read_packed(path: Path) -> list[Packed]:
    """The packets of a video, their times counted in frames from the first."""
    with av.open("file:" + str(path), **foreign_tags(av.__version__)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or Fraction(30)
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = [packet.dts if packet.dts is not None else number for number, packet in enumerate(packets)]
        unit = (packets[0].time_base or Fraction(1, 30)) * rate
        return [
            Packed(
                bytes(packet), None if packet.pts is None else (packet.pts - times[0]) * unit,
                (time - times[0]) * unit, packet.is_keyframe,
            )
            for packet, time in zip(packets, times, strict=True)
        ]  # fmt: skip


def write_structure(seed: int, folder: Path, codec: str | None = None) -> tuple[Path, str]:
    """A video of a random structure, and a line that describes it. Raises NotWritable."""
    draw = random.Random(seed)
    codec = codec or draw.choice(CODECS)
    suffix = draw.choice(CONTAINERS[codec])
    sizes = [draw.choice([(64, 48), (64, 48), (64, 48), (80, 48)])]
    parts = []
    for number in range(draw.choice([1, 1, 2, 2, 3])):
        sizes.append(sizes[0] if draw.random() < 0.85 else (96, 64))
        home = HOMES[codec]
        parts.append(write_part(draw, folder / f"part{number}.{home}", codec, sizes[-1]))
    if draw.random() < 0.15:
        parts.append(parts[0])
    packets: list[Packed] = []
    steps = [codec, suffix, f"{len(parts)} parts"]
    for part in parts:
        own = read_packed(part)
        if draw.random() < 0.25:
            first = draw.randrange(len(own))
            own = own[first:]
            steps.append(f"cut at {first}")
        shift = (packets[-1].dts + 1 if packets else 0) - own[0].dts
        if packets and draw.random() < 0.1:
            shift += draw.choice([-5, -1, 20])
            steps.append("gap or overlap")
        packets += [Packed(p.data, None if p.pts is None else p.pts + shift, p.dts + shift, p.key) for p in own]
    if draw.random() < 0.25 and len(packets) > 2:
        for _ in range(draw.choice([1, 1, 3])):
            lost = draw.randrange(len(packets))
            steps.append(f"lost {lost}")
            packets = packets[:lost] + packets[lost + 1 :] if len(packets) > 1 else packets
    options = {}
    back = 0
    if suffix in ("mp4", "mov") and draw.random() < 0.2:
        back = draw.randint(1, max(1, len(packets) - 1))
        options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
        steps.append(f"edit list hides {back}")
    if suffix in ("mp4", "mov") and draw.random() < 0.2:
        options["movflags"] = "frag_keyframe+empty_moov"
        steps.append("fragments")
    path = folder / f"{seed}.{suffix}"
    _mux(path, parts[0], packets, back, options)
    return path, f"{seed}: " + ", ".join(steps)


def join(sources: list[Path], path: Path) -> Path:
    """One video behind the other without encoding anew, as `ffmpeg -f concat -c copy` does. Raises NotWritable."""
    packets: list[Packed] = []
    for source in sources:
        own = read_packed(source)
        shift = (packets[-1].dts + 1 if packets else 0) - own[0].dts
        packets += [Packed(p.data, None if p.pts is None else p.pts + shift, p.dts + shift, p.key) for p in own]
    _mux(path, sources[0], packets, 0, {})
    return path


def _mux(path: Path, template: Path, packets: list[Packed], back: int, options: dict[str, str]) -> None:
    """Write packets as they are. back: frames by which all times lie before zero."""
    base = Fraction(1, 90000)
    try:
        with (
            av.open("file:" + str(template), **foreign_tags(av.__version__)) as source,
            av.open(str(path), "w", options=options) as target,
        ):
            # opaque: no encoder is looked for; the only library that reads AV1 here does not write it.
            stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
            rate = source.streams.video[0].average_rate or Fraction(30)
            if path.suffix == ".avi":
                stream.time_base = base = 1 / rate
            last = None
            for each in packets:
                packet = av.Packet(each.data)
                dts = round((each.dts - back) / rate / base)
                dts = dts if last is None else max(dts, last + 1)  # containers insist on it
                last = dts
                packet.stream, packet.time_base, packet.dts = stream, base, dts
                packet.pts = None if each.pts is None else max(dts, round((each.pts - back) / rate / base))
                packet.is_keyframe = each.key
                target.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        raise NotWritable(str(error)) from error


def damage(draw: random.Random, data: bytes) -> bytes:
    """A few bytes of a file changed, zeroed, cut off or taken out."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        place = draw.randrange(len(changed))
        kind = draw.random()
        if kind < 0.5:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind < 0.75:
            length = draw.randint(1, 40)
            changed[place : place + length] = draw.randbytes(len(changed[place : place + length]))
        elif kind < 0.9:
            length = draw.randint(1, 400)
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        elif kind < 0.95:
            del changed[place : place + draw.randint(1, 20)]
        else:
            del changed[max(place, len(changed) // 2) :]
    return bytes(changed)


def decode_plainly(path: Path, keep: int = 0) -> list[np.ndarray]:
    """Every image of the largest video stream, (H, W, 3) uint8, as one decoder in one thread gives them from the first
    packet to the last; what it refuses is left out. [] where there is no stream. Frames are turned as they say.

    keep: of how many pictures to hold on to the decoder's memory.
    """
    kept: list[av.VideoFrame] = []
    images: list[np.ndarray] = []
    try:
        with av.open("file:" + str(path), **foreign_tags(av.__version__)) as container:
            streams = [stream for stream in container.streams.video if stream.codec_context]
            if not streams:
                return []
            stream = max(streams, key=lambda each: each.codec_context.width * each.codec_context.height)
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                kept = [*kept, *frames][-keep:] if keep else []
                for frame in frames:
                    image = frame.to_ndarray(format="rgb24", interpolation="POINT")
                    images.append(np.rot90(image, frame.rotation // 90) if frame.rotation % 90 == 0 else image)
    except av.FFmpegError:
        pass  # the file breaks off, or is none any more
    return images


def wrong_reads(path: Path, draw: random.Random, fresh: float = 0.1, damaged: bool = False) -> tuple[list[str], int]:
    """What `open_video` gives otherwise than a plain decode, and how many frames were compared. That it gives no image
    but a VideoError is no wrong answer: frames may differ in size, and damage may be found while reading.

    fresh: share of the single reads that open the file for themselves. damaged: the number of frames is not compared,
    as damage inside pictures shows only when they are decoded. Without it, another number is right only where reading
    says so: after a cut, a picture may refer to another one than its own, and decoders refuse some of these.
    """
    expected = decode_plainly(path)
    found: list[str] = []
    compared = 0
    try:
        video = open_video(path)
    except VideoError as error:
        return ([f"refused: {error.cause}"] if expected and "pixels" not in error.cause else []), 0
    with video:
        said = False  # that frames are missing
        times = video.times
        if times is not None and (len(times) != video.num_frames or (np.diff(times) <= 0).any()):
            found.append("times do not rise")
        singles = list(range(video.num_frames))
        draw.shuffle(singles)
        clips = [[draw.randrange(video.num_frames) for _ in range(draw.randint(2, 9))] for _ in range(3)]
        for wanted in [*([frame] for frame in singles), *clips]:
            try:
                if len(wanted) == 1 and draw.random() < fresh:
                    with open_video(path) as another:
                        images = another.read(wanted)
                else:
                    images = video.read(wanted)
            except VideoError as error:
                said |= "can be decoded" in error.cause
                continue
            for frame, image in zip(wanted, images.permute(0, 2, 3, 1).numpy(), strict=True):
                compared += 1
                if frame >= len(expected) or not np.array_equal(image, expected[frame]):
                    if frame < len(expected) and _varies(path, frame, image, expected[frame]):
                        continue
                    same = [i for i, other in enumerate(expected) if np.array_equal(image, other)]
                    found.append(f"read({wanted}) gives {same[:2] or 'another image'} for {frame}")
        if video.num_frames != len(expected) and not damaged and not said:
            found.append(f"num_frames {video.num_frames}, {len(expected)} decode")
    return found, compared


def _varies(path: Path, frame: int, image: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a plain decode itself gives this frame otherwise when other memory is free: where data is missing, FFmpeg
    leaves in a picture what lay there before."""
    for keep in (1, 2, 4, 8, 1000):
        again = decode_plainly(path, keep)
        if len(again) > frame and (np.array_equal(again[frame], image) or not np.array_equal(again[frame], expected)):
            return True
    return False


def structures(seeds: range, folder: Path) -> Iterator[tuple[Path, str]]:
    """The videos of these seeds that can be written, one after the other in the same folder."""
    for seed in seeds:
        try:
            yield write_structure(seed, folder)
        except NotWritable:
            continue
