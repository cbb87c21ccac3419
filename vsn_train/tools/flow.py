"""Compute the optical flow of a data set, as folders of images that data.modality=flow reads.

    vsn-tools flow /data/UCF-101 /data/UCF-101-flow                    TV-L1, as in the papers
    vsn-tools flow /data/UCF-101 /data/UCF-101-flow --method dis       70 times faster
    vsn-tools flow manifest.npz /data/flow --shard 2/4                 on the second of four machines

    vsn-train dataset=ucf101 dataset.root=/data/UCF-101-flow data.modality=flow

Sources are videos or folders of images below a folder, or the videos of a manifest (Manifest.save). The flow of
`Archery/v_Archery_g01_c01.avi` goes to the folder `Archery/v_Archery_g01_c01`: flow_x_00001.jpg, flow_y_00001.jpg, …. A
folder gets its final name when it is complete; a second call computes what is missing. Unreadable sources are listed in
failed.txt; the others are still computed. Exit code 0: done, 1: some failed, 2: wrong input.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

from vsn_train.atomic import remove_parts
from vsn_train.data.datasets.presence import video_name
from vsn_train.data.isolated import usable_cores, work_with_bar
from vsn_train.data.manifest import Manifest
from vsn_train.data.optical_flow import METHODS, extract_flow, flow_estimator
from vsn_train.data.prepare import find_sources, is_below, keep_settings, list_failed, shard_lock, take_shard
from vsn_train.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of videos or of folders of images, or a manifest (.npz)")
    parser.add_argument("target", type=Path, help="folder to write to")
    parser.add_argument("--method", default="tvl1", choices=METHODS, help="default tvl1; dis is 70 times faster")
    parser.add_argument(
        "--bound", type=float, default=20.0, help="displacement in pixels that maps to 0 and 255; default 20, as TSM"
    )
    parser.add_argument(
        "--short-side", type=int, default=256, help="short side in pixels; default 256; smaller videos keep their size"
    )
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality; default 95")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the work, i from 1")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes; default: one per core")
    parser.add_argument("--timeout", type=float, default=3600, help="time limit in seconds for one video; default 3600")


def run(arguments: argparse.Namespace) -> int:
    for name, value in {"bound": arguments.bound, "workers": arguments.workers, "timeout": arguments.timeout}.items():
        if value <= 0:
            raise InputError(f"--{name} {value}: expected a number above 0")
    if arguments.short_side < 16:
        raise InputError(f"--short-side {arguments.short_side}: expected at least 16 pixels")
    if not 1 <= arguments.quality <= 100:
        raise InputError(f"--quality {arguments.quality}: expected 1 to 100")
    flow_estimator(arguments.method)  # raises InputError where OpenCV is not installed
    root, names, note = sources_of(arguments.source.expanduser().resolve())
    target = arguments.target.expanduser().resolve()
    if target == root or root in target.parents or target in root.parents:
        raise InputError(f"{target}: source and target must not contain each other")
    folders = Counter(video_name(name) for name in names)
    if twice := next((name for name, count in folders.items() if count > 1), None):
        raise InputError(f"{root}: the flow of several videos would go to {twice}: rename all but one of them")
    mine = take_shard(names, arguments.shard)
    settings = {key: getattr(arguments, key) for key in ("method", "bound", "short_side", "quality")}
    keep_settings(target / "flow.json", settings)
    work = partial(
        extract_one,
        root=root,
        target=target,
        method=arguments.method,
        bound=arguments.bound,
        short_side=arguments.short_side,
        quality=arguments.quality,
    )
    with shard_lock(target, arguments.shard):
        missing = [name for name in mine if not (target / video_name(name)).is_dir()]
        for folder in {(target / video_name(name)).parent for name in missing}:
            remove_parts(folder)
        fields, failed = work_with_bar(
            work, missing, arguments.workers, arguments.timeout, f"{arguments.method} flow", "no flow of"
        )
        list_failed(target, arguments.shard, failed)
    print(
        f"{len(fields)} videos done with {sum(fields)} flow fields, {len(mine) - len(missing)} already there, "
        f"{len(failed)} failed"
    )
    if note:
        print(note)
    return 1 if failed else 0


def extract_one(name: str, root: Path, target: Path, method: str, bound: float, short_side: int, quality: int) -> int:
    return extract_flow(root / name, target / video_name(name), method, bound, short_side, quality)


def sources_of(source: Path) -> tuple[Path, list[str], str]:
    """The folder that the names are relative to, the names, and a line about the files that are left out."""
    if source.is_file():
        manifest = Manifest.load(source)
        names = [path.decode("utf-8", "surrogateescape") for path in manifest.paths.tolist()]
        if outside := next((name for name in names if not is_below(name)), None):
            raise InputError(
                f"{source}: its video {outside!r} is not below its root, so its flow would be written outside TARGET"
            )
        return manifest.root.resolve(), names, ""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder or manifest")
    return source, *find_sources(source)
