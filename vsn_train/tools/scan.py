"""Check that a copy of a data set is complete: count its videos, classes and frames before training.

    vsn-tools scan dataset=jester dataset.root=/data/20bn-jester-v1 --workers 16
    vsn-tools scan dataset=kinetics400 dataset.root=/data/kinetics400 --no-frames

Prints one line per split, and every video that cannot be read. Frame counts are stored next to the data, so that a
training with dataset.count_frames=true starts at once; a killed scan continues where it stopped. --save writes each
split's manifest, paths, labels and frame counts, as FOLDER/<dataset>_<split>.npz (Manifest.load reads it). Exit code 0:
complete, 1: videos are missing or unreadable, 2: wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vsn_train.data.frame_counts import count_frames
from vsn_train.data.manifest import Manifest
from vsn_train.engine.distributed import Process
from vsn_train.run.data import load_manifest, note_empty_classes
from vsn_train.tools.compose import train_config


def describe(manifest: Manifest, unreadable: int) -> str:
    """One line: what was listed, found and counted."""
    parts = [
        f"{manifest.split}: {len(manifest)} videos of {len(manifest) + len(manifest.missing)} listed",
        f"{len(manifest.class_names)} classes",
    ]
    if manifest.is_labelled:
        counts = np.bincount(manifest.labels, minlength=len(manifest.class_names))
        parts.append(f"{counts.min()} to {counts.max()} videos a class")
    else:
        parts.append("no labels")
    if manifest.num_frames is not None and (known := manifest.num_frames[manifest.num_frames >= 0]).size:
        parts.append(f"{known.min()} to {known.max()} frames, median {int(np.median(known))}, {known.sum()} in all")
        parts.append(f"{unreadable} unreadable")
    return ", ".join([*parts, f"manifest {manifest.content_hash()}"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="as for vsn-train: dataset=…, dataset.root=…")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], choices=["train", "val", "test"])
    parser.add_argument("--workers", type=int, default=4, help="processes that count frames")
    parser.add_argument("--no-frames", action="store_true", help="do not open the videos")
    parser.add_argument(
        "--config-dir", type=Path, metavar="FOLDER", help="folder of your own configs, as for vsn-train"
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the manifests to this folder")


def run(arguments: argparse.Namespace) -> int:
    complete = True
    config = train_config(arguments.overrides, arguments.config_dir)
    for split in arguments.splits:
        manifest = load_manifest(config.dataset, split, Process(0, 1, torch.device("cpu")))
        reasons: list[str] = []
        if not arguments.no_frames:
            manifest, reasons = count_frames(manifest, config.data.modality, arguments.workers)
        print(describe(manifest, len(reasons)))
        if empty := note_empty_classes(manifest):
            print(f"  {empty}")
        for line in [*reasons, *(f"{each}: missing" for each in manifest.missing)]:
            print(f"  {line}")
        complete = complete and not reasons and not manifest.missing
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            manifest.save(arguments.save / f"{manifest.name}_{split}.npz")
    return 0 if complete else 1
