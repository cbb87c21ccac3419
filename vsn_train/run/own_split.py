"""The split that dataset.val_share draws: kept as two lists in the run folder, and taken from there ever after.

Drawn anew from a folder that has changed, it would put training videos among those that a network is tested on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vsn_train import config as schema
from vsn_train.data.datasets.custom import unsplit_listing
from vsn_train.data.datasets.listed_labels import INDICES, NAMES
from vsn_train.data.datasets.listing import Row, write_listing
from vsn_train.data.datasets.presence import find_videos
from vsn_train.data.manifest import Manifest
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.engine.distributed import Process
from vsn_train.errors import InputError
from vsn_train.run.data import load_manifest


def draws_split(dataset: schema.Dataset) -> bool:
    return isinstance(dataset, schema.Custom) and dataset.val_share > 0


def kept_split(dataset: schema.Dataset, run_folder: Path) -> schema.Dataset:
    """The data set with the lists of the run in place of the draw; as it is where there is none, or they are not there.

    A list that is named beside the draw, as for a test on other videos, is taken for its split.
    """
    if not isinstance(dataset, schema.Custom) or not dataset.val_share:
        return dataset
    lists = {split: run_folder.absolute() / f"{split}.csv" for split in ("train", "val")}
    if dataset.val:
        train = str(lists["train"]) if lists["train"].is_file() else dataset.train
        return replace(dataset, train=train, val_share=0.0)
    if not all(path.is_file() for path in lists.values()):
        return dataset
    return replace(dataset, train=str(lists["train"]), val=str(lists["val"]), val_share=0.0)


def save_split(run_folder: Path, manifests: Sequence[Manifest]) -> None:
    """Write train.csv and val.csv, which dataset=custom reads as these manifests."""
    for manifest in manifests:
        names = manifest.class_names
        says = INDICES if names == tuple(map(str, range(len(names)))) else NAMES
        rows = (
            Row(0, manifest.sample_id(index), names[manifest.labels[index]], manifest.known_frames(index) or -1)
            for index in range(len(manifest))
        )
        write_listing(run_folder / f"{manifest.split}.csv", rows, says)


def check_place(dataset: schema.Dataset, run_folder: Path) -> None:
    """Raise InputError where the lists would lie among the videos, and be taken for the user's own."""
    if draws_split(dataset) and run_folder.resolve() == Path(dataset.root).expanduser().resolve():
        raise InputError(f"hydra.run.dir={run_folder}: the folder of the videos; choose another one")


def note_unlisted(dataset: schema.Dataset, manifests: Sequence[Manifest]) -> str:
    """For the log of a resumed run: how many videos have come since its split was drawn; empty where none has.

    dataset: as the user gave it.
    """
    assert isinstance(dataset, schema.Custom)
    try:
        whole = unsplit_listing(
            Path(dataset.root).expanduser(), {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        )
    except InputError:
        return ""
    known = {name for manifest in manifests for name in manifest.ids.tolist()}
    names = [row.path for row in whole.rows if row.path.encode("utf-8", "surrogateescape") not in known]
    there = find_videos(Path(dataset.root).expanduser(), names)
    added = [name for name, found in zip(names, there, strict=True) if found]
    if not added:
        return ""
    return (
        f"{len(added)} videos are in neither train.csv nor val.csv of the run, first {added[0]}, and are left out: "
        "they came after its split was drawn"
    )


def tested_manifest(config: schema.Eval, opened: OpenedCheckpoint, process: Process) -> Manifest:
    """The videos that a checkpoint is tested on; of a drawn split those that it was not trained on.

    Raises InputError where these are not known any more.
    """
    dataset = kept_split(config.dataset, opened.path.absolute().parent.parent)
    manifest = load_manifest(dataset, config.split, process, config.data, opened.checkpoint.class_names)
    if draws_split(dataset):
        _check_drawn_again(manifest, opened)
    return manifest


def _check_drawn_again(manifest: Manifest, opened: OpenedCheckpoint) -> None:
    """A split that was drawn once more, as its lists are not beside the checkpoint, is to be the run's own.

    Raises InputError where it is not.
    """
    place = ("train", "val").index(manifest.split) if manifest.split in ("train", "val") else None
    if place is None or manifest.content_hash() == (opened.checkpoint.manifests or ["", ""])[place]:
        return
    raise InputError(
        f"{opened.path}: trained on a split that was drawn (dataset.val_share); its lists "
        f"{opened.path.parent.parent}/train.csv and val.csv are not there, and the videos of now give another split: "
        "training videos may be among them; put the checkpoint back into its run folder, or name a list of other "
        "videos: dataset.val=LIST"
    )
