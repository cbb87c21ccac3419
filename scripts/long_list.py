"""Time and memory of a long list of videos, from its file to the order of an epoch.

    python scripts/long_list.py                           200,000 videos of 10,000 classes
    python scripts/long_list.py --videos 20000 --classes 400

Writes the list, its class folders and sparse files as videos into a temporary folder, which is removed at the end.
Prints a table: wall-clock seconds, CPU seconds, and the peak memory above that of the program before the work, each
measured in its own process. Linux only, because the kernel reports the memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.timing import hardware
from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.datasets.listing import read_listing
from vsn_train.data.loader import EpochBatches
from vsn_train.data.manifest import Manifest
from vsn_train.data.overlap import shared_videos

LISTS = {"train": "train.csv", "val": "val.csv", "test": None}
BATCH = 8
VALIDATION = 20  # one validation video for as many of training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=10_000)
    arguments = parser.parse_args()
    if not 1 <= arguments.classes <= arguments.videos // VALIDATION:
        parser.error(f"--classes: expected 1 to {arguments.videos // VALIDATION}, the number of validation videos")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_videos(root, "train", arguments.videos, arguments.classes, 1000)
        write_videos(root, "val", arguments.videos // VALIDATION, arguments.classes, 1000 + arguments.videos)
        rows = [
            ["read the list", *measured(lambda: read_listing(root / "train.csv", root))],
            ["make the manifest, from the list on", *measured(lambda: load_custom(root, "train", LISTS))],
        ]
        # Made elsewhere and loaded: memory that this process has freed would be taken again, and not be seen.
        measured(lambda: save_manifests(root))
        manifest, val = (Manifest.load(root / f"{split}.npz") for split in ("train", "val"))
        rows += [
            ["its hash, and saving it", *measured(lambda: hash_and_save(manifest, root / "again.npz"))],
            ["look for videos of both splits", *measured(lambda: shared_videos(manifest, val))],
            ["the order of an epoch", *measured(lambda: order_of_epoch(manifest))],
            ["the same, data.balance=classes", *measured(lambda: order_of_epoch(manifest, balanced=True))],
        ]
        stored = (root / "train.npz").stat().st_size
    for key, value in hardware().items():
        print(f"- {key}: {value}")
    print(
        f"- list: {len(manifest)} videos of {len(manifest.class_names)} classes; the manifest is {stored / 1e6:.0f} MB"
    )
    print("\n" + markdown_table(["", "seconds", "CPU seconds", "peak MB"], rows))


def write_videos(root: Path, split: str, videos: int, classes: int, size: int) -> None:
    """<split>.csv and what it lists: names as long as Kinetics' ones, in a folder for each class. Video i has size + i
    bytes, which take no space."""
    with open(root / f"{split}.csv", "w") as listing:
        listing.write("path,class\n")
        for index in range(videos):
            label = f"class {index % classes:05d}"
            if index < classes:
                (root / split / label).mkdir(parents=True)
            path = f"{split}/{label}/{index:011d}_000000_000010.mp4"
            with open(root / path, "wb") as file:
                file.truncate(size + index)
            listing.write(f"{path},{label}\n")


def save_manifests(root: Path) -> None:
    for split in ("train", "val"):
        load_custom(root, split, LISTS).save(root / f"{split}.npz")


def hash_and_save(manifest: Manifest, path: Path) -> str:
    manifest.save(path)
    return manifest.content_hash()


def order_of_epoch(manifest: Manifest, balanced: bool = False) -> int:
    batches = EpochBatches(len(manifest), BATCH, 0, 1, 0, classes=manifest.labels if balanced else None)
    return sum(len(keys) for keys in batches)


def measured(work: Callable[[], object]) -> list[str]:
    """Seconds by the clock, seconds on the CPU and peak MB of a call, in a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        seconds, cpu, peak = ours.recv()
    except EOFError:
        sys.exit("a measurement failed; its message is above")
    process.join()
    return [f"{seconds:.1f}", f"{cpu:.1f}", f"{peak / 1e6:.0f}"]


def _measure(work: Callable[[], object], result: Any) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before, began, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    found = work()
    result.send((time.perf_counter() - began, time.process_time() - cpu, _memory("VmHWM") - before))
    del found


def _memory(key: str) -> int:
    """In bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024


if __name__ == "__main__":
    main()
