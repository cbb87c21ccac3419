"""Custom data sets without code: lists of `path,label[,num_frames]` (listing.py), or folders of classes.

    train/dancing/001.mp4        a folder for each class, with videos or folders of frames, also in subfolders
    dancing/001.mp4              the same without a split: one is drawn, see split.py

Labels are class names, or indices from 0: see listed_labels.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vsn_train.data.datasets.annotations import class_indices, numbered_lines, video_root
from vsn_train.data.datasets.labelled_ids import flip_pairs_of
from vsn_train.data.datasets.listed_labels import NAMES, OPEN, classes_of, index_of_label, meaning_of
from vsn_train.data.datasets.listing import Listing, Row, class_name_of, read_listing
from vsn_train.data.datasets.presence import find_videos, list_folder, make_present_manifest, video_name
from vsn_train.data.datasets.split import split_listing
from vsn_train.data.manifest import UNLABELLED, Manifest
from vsn_train.data.walk import EMPTY, OTHER, Walk, walk_videos
from vsn_train.errors import InputError

FLIPS = {"auto": None, "allowed": True, "forbidden": False}


def load_custom(
    root: Path,
    split: str,
    lists: dict[str, str | None],
    classes: Path | None = None,
    flip_pairs: Sequence[Sequence[str]] = (),
    max_missing_share: float = 0.0,
    labels: str = OPEN,
    flips: str = "auto",
    *,
    val_share: float = 0.0,
    seed: int = 0,
    known_classes: Sequence[str] = (),
) -> Manifest:
    """Load a split: "train", "val" or "test"; "test" may be unlabelled.

    root: folder that the lists' paths are relative to. lists: split -> its list or folder, relative to the root; None:
    <split>.csv, <split>.txt or <split>/ in the root. classes: file with one class name per line, in index order; None:
    the sorted names in the training list, or numbers if it has indices. flip_pairs: pairs of class names that a
    horizontal flip exchanges. labels: the kind of labels in lists without a header: "names", "indices", or "auto"
    (whole numbers are indices). flips: "allowed", "forbidden", or "auto" (forbidden if a class in no pair is named
    after a direction). val_share, seed: draw the training and the validation split from the training list or from a
    root of class folders, see split.py; 0: both splits exist. known_classes: the class names of a checkpoint, used if
    there is neither a class file nor a training list.
    Raises InputError for missing folders or files, for more than max_missing_share missing videos, and for an invalid
    line, with file and line.
    """
    root = video_root(root, [], "the folder of your videos and lists")
    parts: dict[str, Listing] = {}
    notes: list[str] = []
    if val_share:
        parts["train"], parts["val"], notes = split_listing(unsplit_listing(root, lists), val_share, seed)
    listed = parts.get(split) or read_videos(root, _find_list(root, split, lists[split]))
    rows, listing = listed.rows, listed.place
    names: list[str] = []
    training = listed if split == "train" else parts.get("train")
    if classes:
        names = list(class_indices([(line, class_name_of(name)) for line, name in numbered_lines(classes)], classes))
    elif training is None and known_classes and not _is_there(root, "train", lists["train"]):
        names = [class_name_of(name) for name in known_classes]
    elif training is None:
        training = read_videos(root, _find_list(root, "train", lists["train"]))
    if names or training is None:
        training = listed
    said = _said(training, labels)
    meaning = meaning_of((row.label for row in training.rows), names or None, said, training.place)
    index = {name: place for place, name in enumerate(names)} or classes_of(
        (row.label for row in training.rows), meaning, said != OPEN, training.place
    )
    own = _said(listed, labels)
    column = [_label(row, meaning if own == OPEN else own, index, listing, split) for row in rows]
    pairs = _pairs_of(list(index), flip_pairs)
    ids = [row.path for row in rows]
    counts = [row.num_frames for row in rows] if any(row.num_frames > 0 for row in rows) else None
    manifest = make_present_manifest(
        "custom", split, root, ids, find_videos(root, ids), column, list(index), pairs, listing=listing,
        max_missing_share=max_missing_share, flips_allowed=FLIPS[flips], num_frames=counts,
    )  # fmt: skip
    said_of_it = [listed.note, *(notes if split == "train" else [])]
    return replace(manifest, notes=tuple(note for note in said_of_it if note))


def unsplit_listing(root: Path, lists: dict[str, str | None]) -> Listing:
    """The listing to draw a split from: the training list or folder, or the class folders in the root.

    Raises InputError if there is a validation split already.
    """
    if lists["val"] or _is_there(root, "val", None, "val.csv", "val.txt"):
        found = lists["val"] or next(name for name in ("val.csv", "val.txt") if (root / name).exists())
        raise InputError(
            f"dataset.val_share draws a validation split, but there is one: {root / found}; leave dataset.val_share "
            "out, or remove the list"
        )
    folders = [name for name in list_folder(root) if (root / name).is_dir()]
    if lists["train"] or _is_there(root, "train", None, "train.csv", "train.txt") or folders == ["train"]:
        return read_videos(root, _find_list(root, "train", lists["train"]))
    if set(folders) <= {"train", "val", "test"} and "val" in folders:
        raise InputError(
            f"dataset.val_share draws a validation split, but there is one: {root / 'val'}; leave dataset.val_share "
            "out, or name the list or folder to be split with dataset.train"
        )
    return read_videos(root, root)


def read_videos(root: Path, place: Path) -> Listing:
    """The rows of a list, or of a folder of class folders. Raises InputError if there are none."""
    return _read_folders(root, place) if place.is_dir() else read_listing(place, root)


def _is_there(root: Path, split: str, given: str | None, *names: str) -> bool:
    """Whether the split's list or folder exists. names: names to look for if none is given."""
    return any((root / name).exists() for name in ([given] if given else names or _names_of(split)))


def _names_of(split: str) -> list[str]:
    return [f"{split}.csv", f"{split}.txt", split]


def _find_list(root: Path, split: str, given: str | None) -> Path:
    names = [given] if given else _names_of(split)
    for name in names:
        if (root / name).exists():
            return root / name
    hint = f"; expected a list of path,label or a folder of classes: name it with dataset.{split}"
    if split != "test" and not given:
        hint += ", or draw a split from all videos: dataset.val_share=0.2"
    raise InputError(f"found no {', '.join(names)} in {root}{hint}")


def _said(listed: Listing, labels: str) -> str:
    """The kind of a listing's labels: by its header, NAMES for class folders, else by dataset.labels."""
    return listed.label_kind if listed.label_kind != OPEN else labels


def _read_folders(root: Path, folder: Path) -> Listing:
    """Every video below a folder of class folders; other files are left out and counted in the note."""
    rows: list[Row] = []
    left_out = Walk()
    for name in list_folder(folder):
        place = folder / name
        if not place.is_dir():
            if video_name(name) != name:
                raise InputError(
                    f"{place}: a video without a class; expected a folder for each class: move it into one of them"
                )
            left_out.left_out.setdefault(OTHER, []).append(name)
            continue
        found = walk_videos(place)
        if found.videos == ["."]:
            raise InputError(
                f"{place}: images directly in the folder of a class; expected videos, or folders of frames: move the "
                "images of each video into a folder"
            )
        if not found.videos:
            left_out.left_out.setdefault(EMPTY, []).append(name)
        for why, names in found.left_out.items():
            left_out.left_out.setdefault(why, []).extend(os.path.join(name, each) for each in names)
        rows += [Row(0, _relative(place / each, root), class_name_of(name)) for each in found.videos]
    if not rows:
        raise InputError(f"{folder}: found no videos; expected lines of path,label, or <class>/<video>")
    note = left_out.note()
    return Listing(folder, rows, NAMES, f"{folder}: {note}" if note else "")


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path.absolute())


def _label(row: Row, meaning: str, classes: dict[str, int], listing: Path, split: str) -> int:
    place = f"{listing} line {row.line}" if row.line else f"{listing}/{row.label}"
    if not row.label:
        if split == "test":
            return UNLABELLED
        raise InputError(f"{place}: no label; expected path,label with one of {len(classes)} classes")
    return index_of_label(row.label, meaning, classes, place)


def _pairs_of(class_names: list[str], pairs: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    pairs = [[class_name_of(name) for name in pair] for pair in pairs]
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(class_names):
            raise InputError(f"dataset.flip_pairs: {list(pair)}; expected two class names, such as {class_names[:2]}")
    return flip_pairs_of(class_names, [(pair[0], pair[1]) for pair in pairs])[0]
