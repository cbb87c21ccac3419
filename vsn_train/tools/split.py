"""Divide videos into a training and a validation list: writes train.csv and val.csv; no video is moved.

    vsn-tools split /data/mine --val-share 0.2 --seed 1
    vsn-tools split /data/mine --group "person[0-9]+" --output /data/mine_lists
    vsn-tools split all.csv --root /data/mine --val-share 0.1 --output lists

SOURCE is a folder with a folder of videos for each class, or a list with lines of path,label in the format of
dataset=custom. A random share of each class goes to the validation list; the draw depends only on the seed and the
paths. --group keeps videos of the same person, place or source video in one list: videos whose paths match the regular
expression with the same text (of its first group, if it has one) stay together. Existing files are not overwritten.
Exit code 0: done, 2: wrong input.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vsn_train.data.datasets.custom import read_videos
from vsn_train.data.datasets.listed_labels import meaning_of
from vsn_train.data.datasets.listing import write_listing
from vsn_train.data.datasets.split import split_listing
from vsn_train.errors import InputError
from vsn_train.typed_paths import paste


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of class folders, or a list")
    parser.add_argument(
        "--val-share", type=float, default=0.2, help="share of each class's videos for validation; default 0.2"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw; default 0")
    parser.add_argument("--group", metavar="REGEX", help="keep videos together whose paths match with the same text")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder for both lists; default: SOURCE, or the list's folder"
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="folder that a list's paths are relative to; default: the list's folder",
    )


def run(arguments: argparse.Namespace) -> int:
    source, output = arguments.source.expanduser(), arguments.output
    if not source.exists():
        raise InputError(f"{source}: no such folder or list")
    if not 0 < arguments.val_share < 1:
        raise InputError(f"--val-share {arguments.val_share}: expected a number above 0 and below 1")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: expected a whole number from 0")
    folder = source if source.is_dir() else source.parent
    root = folder if source.is_dir() or arguments.root is None else arguments.root.expanduser()
    output = folder if output is None else output.expanduser()
    targets = {split: output / f"{split}.csv" for split in ("train", "val")}
    for path in targets.values():
        if os.path.lexists(path):
            raise InputError(f"{path}: already exists and is not overwritten; choose another folder with --output")
    listing = read_videos(root, source)
    train, val, notes = split_listing(listing, arguments.val_share, arguments.seed, arguments.group, "--val-share")
    kind = meaning_of((row.label for row in listing.rows), None, listing.label_kind, listing.place)
    output.mkdir(parents=True, exist_ok=True)
    for split, part in {"train": train, "val": val}.items():
        write_listing(targets[split], part.rows, kind)
    classes = len({row.label for row in listing.rows})
    print(f"{len(train.rows)} training and {len(val.rows)} validation videos of {classes} classes")
    for note in [*([listing.note] if listing.note else []), *notes]:
        print(note)
    print(f"written: {targets['train']}, {targets['val']}")
    lists = {f"dataset__{split}": path.absolute() for split, path in targets.items()}
    lists = {} if output.resolve() == root.resolve() else lists
    print(f"train: {paste('vsn-train', 'dataset=custom', dataset__root=root.absolute(), **lists)}")
    return 0
