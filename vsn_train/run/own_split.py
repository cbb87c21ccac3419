"""The random split of dataset.val_share: saved as two lists in the run folder, and read from there afterwards.

A new draw from a folder that has changed would put training videos into the validation split.
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
    """The data set with the run's lists instead of a draw; unchanged if it draws no split, or the lists do not exist.

    A list in dataset.val, such as one for an evaluation on other videos, is used for its split.
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
    """Write train.csv and val.csv, from which dataset=custom reads the same manifests."""
    for manifest in manifests:
        names = manifest.class_names
        kind = INDICES if names == tuple(map(str, range(len(names)))) else NAMES
        rows = (
            Row(0, manifest.sample_id(index), names[manifest.labels[index]], manifest.known_frames(index) or -1)
            for index in range(len(manifest))
        )
        write_listing(run_folder / f"{manifest.split}.csv", rows, kind)


def check_place(dataset: schema.Dataset, run_folder: Path) -> None:
    """Raise InputError if the lists would be written among the videos, where they would pass for the user's own."""
    if draws_split(dataset) and run_folder.resolve() == Path(dataset.root).expanduser().resolve():
        raise InputError(f"hydra.run.dir={run_folder}: that is the folder of the videos; choose another one")


def note_unlisted(dataset: schema.Dataset, manifests: Sequence[Manifest]) -> str:
    """For the log of a resumed run: the number of videos added since its split was drawn; empty if there are none.

    dataset: as configured by the user, before `kept_split`.
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
        "they were added after the split was drawn"
    )


def tested_manifest(config: schema.Eval, opened: OpenedCheckpoint, process: Process) -> Manifest:
    """The videos that a checkpoint is evaluated on; with a drawn split, those that it was not trained on.

    Raises InputError if the drawn split is lost.
    """
    dataset = kept_split(config.dataset, opened.path.absolute().parent.parent)
    manifest = load_manifest(dataset, config.split, process, config.data, opened.checkpoint.class_names)
    if draws_split(dataset):
        _check_drawn_again(manifest, opened)
    return manifest


def _check_drawn_again(manifest: Manifest, opened: OpenedCheckpoint) -> None:
    """Raise InputError if a split that was drawn again differs from the run's.

    It is drawn again when the run's lists are not next to the checkpoint.
    """
    place = ("train", "val").index(manifest.split) if manifest.split in ("train", "val") else None
    if place is None or manifest.content_hash() == (opened.checkpoint.manifests or ["", ""])[place]:
        return
    raise InputError(
        f"{opened.path}: trained on a random split (dataset.val_share), but its lists "
        f"{opened.path.parent.parent}/train.csv and val.csv are missing, and the current videos give another split, "
        "which may contain training videos; move the checkpoint back into its run folder, or give a list of other "
        "videos: dataset.val=LIST"
    )
