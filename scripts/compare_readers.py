"""Count the frames that each reader gets wrong on the clips of a folder; prints a Markdown table.

With --output, also writes OUTPUT.md and OUTPUT.json.

    python scripts/compare_readers.py /data/clips
    python scripts/compare_readers.py /data/clips --signatures /data/clips/signatures --output exact-frames

Compares our readers (`open_video` with decoder auto, decord and torchcodec) with plain decord and TorchCodec, with
their defaults except for one thread. Every clip is read in five orders: from the start, eight evenly spaced frames,
backwards, with repeats, and at random. The reference is SIGNATURES/<path with / as __>.csv, made with ffmpeg: 16 mean
grey levels on a 4 x 4 grid, one line per frame. Without it, and for damaged clips, it is a full decode with PyAV. A
frame is wrong if it is closer to another frame of the clip, or differs from its reference by 8 grey levels. A reader
may also refuse a clip; ours does so instead of returning a wrong frame.
Exit code 0: no wrong frame from our readers, 1: at least one, 2: wrong input.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vsn_train.atomic import write_atomic
from vsn_train.data.isolated import Failure, work_isolated
from vsn_train.data.prepare import find_sources
from vsn_train.data.video import READERS, Video, open_video
from vsn_train.errors import InputError, VideoError
from vsn_train.versions import installed

# Grey levels of a cell: bounds of the rounding errors of the signatures, and of the conversion to 8 bits.
TOLERANCE, DEEP_TOLERANCE = 0.1, 1.0
FAR = 8.0


@dataclass
class Tally:
    """Counts for one clip or one kind of clips with one reader. failed: clips that it could not open or read fully."""

    asked: int = 0
    wrong: int = 0
    clips: int = 0
    failed: int = 0

    def add(self, other: Tally) -> None:
        self.asked += other.asked
        self.wrong += other.wrong
        self.clips += other.clips
        self.failed += other.failed

    def __str__(self) -> str:
        if not self.asked:
            return "refused"
        return f"{self.wrong} of {self.asked:,}" + (f", {self.failed} with errors" if self.failed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of clips; the first folder below it names their kind")
    parser.add_argument("--signatures", type=Path, help="folder of reference signatures; default: decode with PyAV")
    parser.add_argument("--output", type=Path, help="also write OUTPUT.md and OUTPUT.json")
    arguments = parser.parse_args()
    try:
        sys.exit(run(arguments))
    except InputError as error:
        print(f"compare_readers: {error}", file=sys.stderr)
        sys.exit(2)


def run(arguments: argparse.Namespace) -> int:
    root = arguments.clips.expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    names = [name for name in find_sources(root)[0] if (root / name).is_file()]
    if not names:
        raise InputError(f"{root}: found no videos; expected a folder with some")
    work = partial(compare, root=root, signatures=arguments.signatures, readers=tuple(available_readers()))
    kinds: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    by_clip, unreadable = {}, []
    with tqdm(total=len(names), unit="clip", disable=None) as bar:
        for name, result in work_isolated(work, names, 1, 600):
            if isinstance(result, Failure):
                unreadable.append((name, result.cause))
            else:
                kind, tallies = result
                by_clip[name] = {"kind": kind} | {reader: vars(tally) for reader, tally in tallies.items()}
                for reader, tally in tallies.items():
                    kinds[kind][reader].add(tally)
                    kinds["all"][reader].add(tally)
            bar.update()
    text = markdown(kinds, unreadable)
    if arguments.output:
        for suffix, content in ((".md", text), (".json", json.dumps(by_clip, indent=1) + "\n")):
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(arguments.output.with_suffix(suffix), content)
    print(text)
    return int(any(tally.wrong for reader, tally in kinds["all"].items() if reader.startswith("open_video")))


def available_readers() -> list[str]:
    found = ["open_video auto"]
    for name, reader in READERS.items():
        try:
            reader.library()
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            found += [f"open_video {name}", f"plain {name}"]
    return found


def compare(name: str, root: Path, signatures: Path | None, readers: tuple[str, ...]) -> tuple[str, dict[str, Tally]]:
    """The kind of one clip, and the tally of each reader. Raises VideoError for a clip that cannot be read at all."""
    with open_video(root / name) as video:
        assert isinstance(video, Video)
        kind = f"{name.partition('/')[0]}: {video.codec} in {name.rpartition('.')[2].lower()}"
        # After damage every decoder conceals pixels in its own way, so only our own decode can be the reference.
        expected = read_signature(signatures, name) if video.whole else None
        tolerance = TOLERANCE if video.bits == 8 else DEEP_TOLERANCE
        if expected is None:
            expected = np.concatenate([signature(image[None]) for image in video.decode_in_turn()])
    tallies = {}
    for reader in readers:
        tallies[reader] = Tally(clips=1)
        # Other readers may raise anything; ours must raise VideoError, and anything else is a bug.
        failures = VideoError if reader.startswith("open_video") else Exception
        try:
            read = opened(reader, root / name)
        except failures:
            tallies[reader].failed = 1
            continue
        for frames in access_patterns(len(expected)):
            try:
                images = read(frames)
            except failures:
                tallies[reader].failed = 1
                continue
            tallies[reader].asked += len(frames)
            tallies[reader].wrong += wrong_frames(images, frames, expected, tolerance)
    return kind, tallies


def opened(reader: str, path: Path) -> Callable[[list[int]], np.ndarray]:
    """A function that reads frames as images (N, H, W, 3)."""
    how, name = reader.split()
    if how == "open_video":
        video = open_video(path, name)
        return lambda frames: video.read(frames).permute(0, 2, 3, 1).numpy()
    library: Any = READERS[name].library()
    if name == "decord":
        plain = library.VideoReader(str(path), ctx=library.cpu(0), num_threads=1)
        return lambda frames: plain.get_batch(frames).asnumpy()
    decoder = library(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    return lambda frames: decoder.get_frames_at(frames).data.numpy()


def access_patterns(num_frames: int) -> list[list[int]]:
    draw = random.Random(num_frames)
    return [
        list(range(min(num_frames, 60))),
        [int((i + 0.5) * num_frames / 8) for i in range(8)],
        list(range(num_frames))[:: -max(1, num_frames // 10)],
        [num_frames - 1, 0, num_frames - 1, num_frames // 2, num_frames // 2],
        [draw.randrange(num_frames) for _ in range(16)],
    ]


def read_signature(folder: Path | None, name: str) -> np.ndarray | None:
    """The reference signatures, (num_frames, 16); None if there is no file."""
    if folder is None:
        return None
    path = folder / (name.replace("/", "__") + ".csv")
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        return np.array([[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])


def signature(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) -> (N, 16) mean grey levels on a 4 x 4 grid."""
    total = images[..., :3].sum(-1, dtype=np.uint16)
    rows, columns = (np.linspace(0, size, 5).astype(int) for size in total.shape[1:])
    cells = [
        total[:, rows[r] : rows[r + 1], columns[c] : columns[c + 1]].mean((1, 2), dtype=np.float64) / 3
        for r in range(4)
        for c in range(4)
    ]
    return np.stack(cells, 1)


def wrong_frames(images: np.ndarray, frames: list[int], expected: np.ndarray, tolerance: float) -> int:
    """The number of images that are not the requested frame."""
    distance = np.abs(signature(images)[:, None] - expected[None]).max(2)  # (N, num_frames)
    own = distance[np.arange(len(frames)), frames]
    return int(((own > FAR) | ((own > tolerance) & (distance.min(1) < own))).sum())


def markdown(kinds: dict[str, dict[str, Tally]], unreadable: list[tuple[str, str]]) -> str:
    readers = list(kinds["all"])
    lines = [f"| clips | n | {' | '.join(readers)} |", f"|---|---|{'---|' * len(readers)}"]
    for kind in [*sorted(kinds.keys() - {"all"}), "all"]:
        tallies = kinds[kind]
        lines.append(f"| {kind} | {tallies[readers[0]].clips} | {' | '.join(str(tallies[r]) for r in readers)} |")
    lines += [""] + [f"Not compared: {name}: {cause}." for name, cause in unreadable]
    versions = [f"{package} {version}" for package, version in installed("av", "decord", "torchcodec").items()]
    system = f"{platform.system()} {platform.machine()}"
    lines.append(f"Wrong frames out of the requested ones. {', '.join(versions)}, {system}, {date.today()}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
