"""Check that a copy of a data set is complete: count its videos, classes and frames before training.

    vsn-tools scan dataset=jester dataset.root=/data/20bn-jester-v1 --workers 16
    vsn-tools scan dataset=kinetics400 dataset.root=/data/kinetics400 --no-frames

Prints one line per split, then every unreadable video, every duplicate (the same video under two names), and, for your
own videos, those that are in both training and validation. Frame counts are stored next to the data: a training with
dataset.count_frames=true then starts at once, and a killed scan continues where it stopped. With --no-frames, only
possible duplicates among your own videos are opened. --save writes a manifest per split (paths, labels, frame counts)
to FOLDER/<dataset>_<split>.npz; Manifest.load reads it.
Exit code 0: complete, 1: videos are missing, unreadable, or in both splits, 2: wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vsn_train import config as schema
from vsn_train.data.frame_counts import count_frames
from vsn_train.data.manifest import Manifest
from vsn_train.data.overlap import Shared, same_contents
from vsn_train.engine.distributed import Process
from vsn_train.errors import InputError
from vsn_train.run.data import check_overlap, load_manifest, note_empty_classes
from vsn_train.tools.compose import train_config


def describe(manifest: Manifest, unreadable: int) -> str:
    """One line for a split: numbers of videos, classes and frames."""
    parts = [
        f"{manifest.split}: {len(manifest)} videos of {len(manifest) + len(manifest.missing)} listed",
        f"{len(manifest.class_names)} classes",
    ]
    if manifest.is_labelled:
        counts = np.bincount(manifest.labels, minlength=len(manifest.class_names))
        parts.append(f"{counts.min()} to {counts.max()} videos per class")
    else:
        parts.append("no labels")
    if manifest.num_frames is not None and (known := manifest.num_frames[manifest.num_frames >= 0]).size:
        parts.append(f"{known.min()} to {known.max()} frames, median {int(np.median(known))}, {known.sum()} in all")
        parts.append(f"{unreadable} unreadable")
    return ", ".join([*parts, f"manifest {manifest.content_hash()}"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="as for vsn-train: dataset=…, dataset.root=…")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], choices=["train", "val", "test"], help="default: train val"
    )
    parser.add_argument("--workers", type=int, default=4, help="processes that count frames; default 4")
    parser.add_argument("--no-frames", action="store_true", help="do not count frames")
    parser.add_argument(
        "--config-dir", type=Path, metavar="FOLDER", help="folder with your own configs, as for vsn-train"
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the manifests to this folder")


def run(arguments: argparse.Namespace) -> int:
    complete = True
    config = train_config(arguments.overrides, arguments.config_dir)
    manifests: dict[str, Manifest] = {}
    for split in arguments.splits:
        manifest = load_manifest(config.dataset, split, Process(0, 1, torch.device("cpu")))
        reasons: list[str] = []
        if not arguments.no_frames:
            manifest, reasons = count_frames(manifest, config.data.modality, arguments.workers)
        print(describe(manifest, len(reasons)))
        if empty := note_empty_classes(manifest):
            print(f"  {empty}")
        for note in manifest.notes:
            print(f"  {note}")
        manifests[split] = manifest
        if not arguments.no_frames or isinstance(config.dataset, schema.Custom):
            for line in described_copies(same_contents(manifest)):
                print(f"  {line}")
        for line in [*reasons, *(f"{each}: missing" for each in manifest.missing)]:
            print(f"  {line}")
        complete = complete and not reasons and not manifest.missing
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            manifest.save(arguments.save / f"{manifest.name}_{split}.npz")
    if {"train", "val"} <= manifests.keys():
        try:
            told = check_overlap(manifests["train"], manifests["val"], config.dataset)
        except InputError as error:
            told, complete = str(error), False
        if told:
            print(told)
    return 0 if complete else 1


def described_copies(found: list[Shared]) -> list[str]:
    """A line that counts them, and one for each."""
    lines = [f"{each.second}: {'the same content as' if each.copy else 'a link to'} {each.first}" for each in found]
    return [f"{len(found)} videos are there under another name too:", *lines] if found else []
