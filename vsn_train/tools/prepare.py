"""Make copies of a data set that load several times faster: videos with key frames only, image folders as one file.

    vsn-tools prepare /data/kinetics400 /fast/kinetics400
    vsn-tools prepare /data/kinetics400 /fast/kinetics400 --shard 2/4    on the second of four machines
    vsn-tools prepare /data/20bn-something-something-v1 /fast/something_v1
    vsn-tools prepare /data/flow /fast/flow --modality flow

Videos are resized to a short side of 256 pixels and re-encoded as H.264 with key frames only. Folders of JPEG or PNG
images are packed into one file each, byte for byte. Every copy keeps the relative path of its source (a video keeps its
suffix, a folder `78687` becomes `78687.mp4`): to train on the copies, change only dataset.root.

A copy gets its final name after it has been verified; a second call makes the copies that are missing. Unreadable
sources are listed in failed.txt; the others are still copied. Exit code 0: done, 1: some failed, 2: wrong input.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from vsn_train.atomic import remove_parts
from vsn_train.data.datasets.listing import read_listing
from vsn_train.data.datasets.presence import find_videos
from vsn_train.data.isolated import usable_cores, work_with_bar
from vsn_train.data.prepare import (
    CRF,
    SHORT_SIDE,
    Copy,
    find_sources,
    is_below,
    keep_settings,
    list_failed,
    prepare,
    shard_lock,
    space_of,
    take_shard,
    target_of,
)
from vsn_train.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of videos, or of folders of images")
    parser.add_argument("target", type=Path, help="folder to write to")
    parser.add_argument(
        "--list",
        type=Path,
        help="list of videos below SOURCE, in the format of dataset=custom; default: all videos",
    )
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the work, i from 1")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes; default: one per core")
    parser.add_argument(
        "--short-side",
        type=int,
        default=SHORT_SIDE,
        help=f"short side in pixels; default {SHORT_SIDE}; smaller videos keep their size",
    )
    parser.add_argument("--crf", type=int, default=CRF, help=f"H.264 quality, 0 (lossless) to 51; default {CRF}")
    parser.add_argument("--modality", default="rgb", choices=("rgb", "flow"), help="which images of a folder to use")
    parser.add_argument("--timeout", type=float, default=1800, help="time limit in seconds for one video; default 1800")


def run(arguments: argparse.Namespace) -> int:
    source, target = arguments.source.expanduser().resolve(), arguments.target.expanduser().resolve()
    check_arguments(arguments, source, target)
    found, note = (listed(arguments.list, source), "") if arguments.list else find_sources(source)
    mine = take_shard(found, arguments.shard)
    settings = {"short_side": arguments.short_side, "crf": arguments.crf, "modality": arguments.modality}
    keep_settings(target / "prepare.json", settings)
    targets = {name: target_of(source / name, target / name) for name in mine}
    work = partial(
        prepare_one,
        source=source,
        targets=targets,
        short_side=arguments.short_side,
        crf=arguments.crf,
        modality=arguments.modality,
    )
    with shard_lock(target, arguments.shard):
        there = [name for name in mine if targets[name].is_file()]
        missing = sorted(set(mine) - set(there))
        for folder in {targets[name].parent for name in missing}:
            remove_parts(folder)
        made, failed = work_with_bar(work, missing, arguments.workers, arguments.timeout, "prepare", "cannot prepare")
        list_failed(target, arguments.shard, failed)
    print(f"{len(made)} copies made, {len(there)} already there, {len(failed)} failed")
    if note:
        print(note)
    before = sum(copy.source_bytes for copy in made) + sum(space_of(source / name) for name in there)
    after = sum(copy.bytes for copy in made) + sum(targets[name].stat().st_size for name in there)
    if before:
        print(f"disk space: {before / 1e6:,.1f} MB -> {after / 1e6:,.1f} MB, {after / before:.2f} times the source")
    encoded = [copy.psnr for copy in made if copy.psnr is not None]
    if encoded:
        print(
            f"re-encoded: {len(encoded)} videos, PSNR {np.mean(encoded):.1f} dB on average, {min(encoded):.1f} at worst"
        )
    if len(made) > len(encoded):
        print(f"packed byte for byte: {len(made) - len(encoded)} folders of images")
    return 1 if failed else 0


def prepare_one(name: str, source: Path, targets: Mapping[str, Path], short_side: int, crf: int, modality: str) -> Copy:
    return prepare(source / name, targets[name], short_side, crf, modality)


def check_arguments(arguments: argparse.Namespace, source: Path, target: Path) -> None:
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    if target == source or source in target.parents or target in source.parents:
        raise InputError(f"{target}: source and target must not contain each other")
    if arguments.short_side < 2 or arguments.short_side % 2:
        raise InputError(f"--short-side {arguments.short_side}: expected an even number of pixels")
    if not 0 <= arguments.crf <= 51:
        raise InputError(f"--crf {arguments.crf}: expected 0 to 51")
    if arguments.workers < 1 or arguments.timeout <= 0:
        raise InputError("--workers and --timeout: expected numbers above 0")
    take_shard([], arguments.shard)


def listed(path: Path, source: Path) -> list[str]:
    """The paths of a list's videos relative to `source`. Raises InputError for a video that does not exist there."""
    rows = read_listing(path.expanduser(), source).rows
    found: set[str] = set()
    for row, there in zip(rows, find_videos(source, [row.path for row in rows]), strict=True):
        place = f"{path} line {row.line}"
        if not is_below(row.path):  # its copy would lie outside
            raise InputError(f"{place}: {row.path!r}: expected a path below {source}")
        if there is None:
            raise InputError(f"{place}: {source / row.path} does not exist; correct the list, or SOURCE")
        found.add(there)
    return sorted(found)
