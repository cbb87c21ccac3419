"""A data set of one's own, without code: lists of `path,label[,num_frames]`, or folders of classes.

    train.csv                            train.txt, as TSM, mmaction2 and PySlowFast write it
        path,label,num_frames                dancing/001.mp4 0              <file> <label>
        dancing/001.mp4,dancing,250          dancing/001 250 0              <folder> <num_frames> <label>
        jumping/7.avi,jumping,
    train/dancing/001.mp4                a folder for each class, of video files and folders of frames

A first line that names the columns path and label is a header, and then they may stand in any order beside others; a
list without one has path, label and, if need be, num_frames. Lines with a comma are CSV; others are split at blanks.
Labels are class names, or indices from 0.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vsn_train.data.datasets.annotations import class_indices, numbered_lines, read_text, video_root
from vsn_train.data.datasets.labelled_ids import flip_pairs_of
from vsn_train.data.datasets.presence import (
    VIDEO_SUFFIXES,
    find_videos,
    list_folder,
    make_present_manifest,
    video_name,
)
from vsn_train.data.manifest import UNLABELLED, Manifest
from vsn_train.errors import InputError

SIDES = re.compile(r"\b(left|right|(counter|anti)?-?clockwise)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Row:
    """One listed video. label: as written, empty where there is none. num_frames: -1 where there is none."""

    line: int
    path: str
    label: str
    num_frames: int


def load_custom(
    root: Path,
    split: str,
    lists: dict[str, str | None],
    classes: Path | None = None,
    flip_pairs: Sequence[Sequence[str]] = (),
    max_missing_share: float = 0.0,
) -> Manifest:
    """split: "train", "val" or "test", whose labels may be left out.

    root: folder that the lists' paths are relative to. lists: split -> its list or folder, relative to the root; None
    looks there for <split>.csv, <split>.txt and <split>/. classes: file with one class name a line, in index order;
    None takes the sorted names in the training list, or numbers where it has indices. flip_pairs: pairs of class names
    that a horizontal flip exchanges; without it, classes named left, right or clockwise forbid flips.
    Raises InputError for missing folders or files, for more than max_missing_share missing videos and for a line that
    does not fit, with file and line.
    """
    root = video_root(root, [], "the folder of your videos and lists")
    listing = _find_list(root, split, lists[split])
    rows = _read(root, listing)
    training = rows if split == "train" or classes else _read(root, _find_list(root, "train", lists["train"]))
    index = class_indices(numbered_lines(classes), classes) if classes else _classes_of(training)
    labels = [_label(row, index, listing, split) for row in rows]
    pairs, flips_allowed = _flips_of(list(index), flip_pairs)
    ids = [row.path for row in rows]
    counts = [row.num_frames for row in rows] if any(row.num_frames > 0 for row in rows) else None
    return make_present_manifest(
        "custom", split, root, ids, find_videos(root, ids), labels, list(index), pairs, listing=listing,
        max_missing_share=max_missing_share, flips_allowed=flips_allowed, num_frames=counts,
    )  # fmt: skip


def _find_list(root: Path, split: str, given: str | None) -> Path:
    names = [given] if given else [f"{split}.csv", f"{split}.txt", split]
    for name in names:
        if (root / name).exists():
            return root / name
    hint = f"; expected a list of path,label or a folder of classes: name it with dataset.{split}"
    raise InputError(f"found no {', '.join(names)} in {root}{hint}")


def _read(root: Path, listing: Path) -> list[_Row]:
    rows = _read_folders(root, listing) if listing.is_dir() else _read_list(listing)
    if not rows:
        raise InputError(f"{listing}: found no videos; expected path,label lines or <class>/<video>")
    return rows


def _read_folders(root: Path, folder: Path) -> list[_Row]:
    rows = []
    for class_name in list_folder(folder):
        if not (folder / class_name).is_dir():
            raise InputError(f"{folder / class_name}: a file; expected a folder for each class; move it elsewhere")
        for entry in list_folder(folder / class_name):
            path = folder / class_name / entry
            if video_name(entry) == entry and not path.is_dir():
                raise InputError(
                    f"{path}: neither a folder of frames nor a video ({' '.join(sorted(VIDEO_SUFFIXES))}); move it "
                    "elsewhere"
                )
            rows.append(_Row(0, str(path.relative_to(root)), class_name, -1))
    return rows


def _read_list(listing: Path) -> list[_Row]:
    lines = numbered_lines(listing)
    if not any("," in line for _, line in lines[:1]):
        return [_row_of_blanks(number, line, listing) for number, line in lines]
    reader = csv.reader(read_text(listing).splitlines(keepends=True))
    columns: dict[str, int] = {}
    rows: list[_Row] = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        place = f"{listing} line {reader.line_num}"
        if not columns:
            header = [cell.lower() for cell in cells]
            if "path" in header:
                columns = {name: position for position, name in enumerate(header)}
                continue
            columns = dict(zip(("path", "label", "num_frames"), range(3), strict=True))
        if not 1 <= len(cells) <= len(columns) or not cells[columns["path"]]:
            raise InputError(f"{place}: found {','.join(cells)!r}, expected {','.join(columns)}")
        cell = {name: cells[at] for name, at in columns.items() if at < len(cells)}
        rows.append(_row(reader.line_num, cell["path"], cell.get("label", ""), cell.get("num_frames", ""), place))
    return rows


def _row_of_blanks(number: int, line: str, listing: Path) -> _Row:
    """`<file> <label>` or `<folder> <num_frames> <label>`; the path may hold blanks, the numbers may not."""
    place = f"{listing} line {number}"
    path, _, label = line.rpartition(" ")
    if not path or not label.isdigit():
        return _row(number, line, "", "", place)  # a test list without labels
    before, _, count = path.rpartition(" ")
    if not before or not count.isdigit():
        return _row(number, path.strip(), label, "", place)
    if video_name(before) != before or re.search(r" \d+$", before):
        raise InputError(
            f"{place}: found {line!r}; lists with several labels or with offsets are not read, expected "
            "'<file> <label>' or '<folder> <num_frames> <label>'"
        )
    return _row(number, before.strip(), label, count, place)


def _row(number: int, path: str, label: str, count: str, place: str) -> _Row:
    if count and (not count.isdigit() or int(count) == 0):
        raise InputError(f"{place}: num_frames {count!r}; expected a whole number above 0, or nothing")
    return _Row(number, path, label, int(count) if count else -1)


def _classes_of(rows: Sequence[_Row]) -> dict[str, int]:
    """Class name -> index, from the labels of the training list."""
    labels = {row.label for row in rows if row.label}
    if all(label.isdigit() for label in labels):
        return {str(label): label for label in range(max(map(int, labels), default=-1) + 1)}
    return {name: index for index, name in enumerate(sorted(labels))}


def _label(row: _Row, classes: dict[str, int], listing: Path, split: str) -> int:
    place = f"{listing} line {row.line}" if row.line else f"{listing}/{row.label}"
    if not row.label:
        if split == "test":
            return UNLABELLED
        raise InputError(f"{place}: no label; expected path,label with one of {len(classes)} classes")
    if row.label in classes:
        return classes[row.label]
    if row.label.isdigit() and int(row.label) < len(classes):
        return int(row.label)
    names = list(classes)
    raise InputError(
        f"{place}: label {row.label!r} is not one of the {len(classes)} classes ({', '.join(names[:3])}"
        f"{', …' if len(names) > 3 else ''}); they are those of dataset.classes, or of the training list without it"
    )


def _flips_of(class_names: list[str], pairs: Sequence[Sequence[str]]) -> tuple[list[tuple[int, int]], bool]:
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(class_names):
            raise InputError(f"dataset.flip_pairs: {list(pair)}; expected two class names, such as {class_names[:2]}")
    known, _ = flip_pairs_of(class_names, [(pair[0], pair[1]) for pair in pairs])
    return known, bool(pairs) or not any(SIDES.search(name) for name in class_names)
