"""A data set of one's own, without code: lists of `path,label[,num_frames]`, or folders of classes.

    train.csv                            train.txt, as TSM, mmaction2 and PySlowFast write it
        path,label,num_frames                dancing/001.mp4 0              <file> <label>
        dancing/001.mp4,dancing,250          dancing/001 250 0              <folder> <num_frames> <label>
        jumping/7.avi,jumping,
    train/dancing/001.mp4                a folder for each class, of video files and folders of frames

A first line that names the columns path and label is a header, and then they may stand in any order beside others; a
list without one has path, label and, if need be, num_frames. Lines with a comma are CSV; others are split at blanks.
Labels are class names, or indices from 0: see listed_labels.py.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vsn_train.data.datasets.annotations import class_indices, numbered_lines, read_text, video_root
from vsn_train.data.datasets.labelled_ids import flip_pairs_of
from vsn_train.data.datasets.listed_labels import (
    INDICES,
    NAMES,
    OPEN,
    classes_of,
    index_of_label,
    meaning_of,
    whole_number,
)
from vsn_train.data.datasets.presence import (
    VIDEO_SUFFIXES,
    find_videos,
    list_folder,
    make_present_manifest,
    video_name,
)
from vsn_train.data.manifest import UNLABELLED, Manifest
from vsn_train.errors import InputError


@dataclass(frozen=True)
class _Row:
    """One listed video. label: as written, empty where there is none. num_frames: -1 where there is none."""

    line: int
    path: str
    label: str
    num_frames: int


@dataclass(frozen=True)
class _Listing:
    """One list or folder. says: what its labels are, where that shows: NAMES, INDICES or OPEN."""

    place: Path
    rows: list[_Row]
    says: str


# Columns of a list that hold the label, and what each says of it.
LABEL_COLUMNS = {"label": OPEN, "class": NAMES, "class_name": NAMES, "class_index": INDICES}
FLIPS = {"auto": None, "allowed": True, "forbidden": False}
MOST_FRAMES = 2**31 - 1  # what a manifest's column holds


def load_custom(
    root: Path,
    split: str,
    lists: dict[str, str | None],
    classes: Path | None = None,
    flip_pairs: Sequence[Sequence[str]] = (),
    max_missing_share: float = 0.0,
    labels: str = OPEN,
    flips: str = "auto",
) -> Manifest:
    """split: "train", "val" or "test", whose labels may be left out.

    root: folder that the lists' paths are relative to. lists: split -> its list or folder, relative to the root; None
    looks there for <split>.csv, <split>.txt and <split>/. classes: file with one class name a line, in index order;
    None takes the sorted names in the training list, or numbers where it has indices. flip_pairs: pairs of class names
    that a horizontal flip exchanges. labels: what a list's labels are where no header says it: "names", "indices", or
    "auto", which takes whole numbers for indices. flips: "allowed", "forbidden", or "auto", which forbids them where a
    class in no pair is named after a direction.
    Raises InputError for missing folders or files, for more than max_missing_share missing videos and for a line that
    does not fit, with file and line.
    """
    root = video_root(root, [], "the folder of your videos and lists")
    listed = _read(root, _find_list(root, split, lists[split]))
    rows, listing = listed.rows, listed.place
    if classes:
        index, training = class_indices(numbered_lines(classes), classes), listed
    else:
        training = listed if split == "train" else _read(root, _find_list(root, "train", lists["train"]))
    said = _said(training, labels)
    meaning = meaning_of((row.label for row in training.rows), list(index) if classes else None, said, training.place)
    if not classes:
        index = classes_of((row.label for row in training.rows), meaning, said != OPEN, training.place)
    own = _said(listed, labels)
    column = [_label(row, meaning if own == OPEN else own, index, listing, split) for row in rows]
    pairs = _pairs_of(list(index), flip_pairs)
    ids = [row.path for row in rows]
    counts = [row.num_frames for row in rows] if any(row.num_frames > 0 for row in rows) else None
    return make_present_manifest(
        "custom", split, root, ids, find_videos(root, ids), column, list(index), pairs, listing=listing,
        max_missing_share=max_missing_share, flips_allowed=FLIPS[flips], num_frames=counts,
    )  # fmt: skip


def _find_list(root: Path, split: str, given: str | None) -> Path:
    names = [given] if given else [f"{split}.csv", f"{split}.txt", split]
    for name in names:
        if (root / name).exists():
            return root / name
    hint = f"; expected a list of path,label or a folder of classes: name it with dataset.{split}"
    raise InputError(f"found no {', '.join(names)} in {root}{hint}")


def _said(listed: _Listing, labels: str) -> str:
    """What is said of a listing's labels. The names of folders are names: dataset.labels is of lists."""
    return labels if labels != OPEN and listed.place.is_file() else listed.says


def _read(root: Path, place: Path) -> _Listing:
    listed = _Listing(place, _read_folders(root, place), NAMES) if place.is_dir() else _read_list(place)
    if not listed.rows:
        raise InputError(f"{place}: found no videos; expected path,label lines or <class>/<video>")
    return listed


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


def _read_list(listing: Path) -> _Listing:
    lines = numbered_lines(listing)
    if not any("," in line for _, line in lines[:1]):
        return _Listing(listing, [_row_of_blanks(number, line, listing) for number, line in lines], OPEN)
    reader = csv.reader(read_text(listing).splitlines(keepends=True))
    columns: dict[str, int] = {}
    labelled, header_is_there = "label", False
    rows: list[_Row] = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        place = f"{listing} line {reader.line_num}"
        if not columns:
            header = [cell.lower() for cell in cells]
            if "path" in header:
                columns, header_is_there = {name: position for position, name in enumerate(header)}, True
                labelled = _label_column(header, place)
                continue
            columns = dict(zip(("path", "label", "num_frames"), range(3), strict=True))
        if not 1 <= len(cells) <= len(columns) or not cells[columns["path"]]:
            raise InputError(f"{place}: found {','.join(cells)!r}, expected {','.join(columns)}")
        cell = {name: cells[at] for name, at in columns.items() if at < len(cells)}
        rows.append(_row(reader.line_num, cell["path"], cell.get(labelled, ""), cell.get("num_frames", ""), place))
    if not header_is_there:
        _check_columns(rows, listing)
    return _Listing(listing, rows, LABEL_COLUMNS[labelled])


def _label_column(header: list[str], place: str) -> str:
    found = [name for name in header if name in LABEL_COLUMNS]
    if len(found) > 1:
        raise InputError(f"{place}: columns {' and '.join(found)} both name the class; keep one, and rename the other")
    return found[0] if found else "label"


def _check_columns(rows: list[_Row], listing: Path) -> None:
    """Without a header two numbers may also stand as num_frames,label; a 0 can only be a label.

    Raises InputError where nothing tells which is which.
    """
    pairs = [(row, number) for row in rows if row.num_frames > 0 and (number := whole_number(row.label)) is not None]
    if pairs and len(pairs) == sum(bool(row.label) for row in rows) and all(number for _, number in pairs):
        row = pairs[0][0]
        raise InputError(
            f"{listing} line {row.line}: {row.path},{row.label},{row.num_frames} may be path,label,num_frames or "
            "path,num_frames,label; write the one that it is into the first line of the list"
        )


def _row_of_blanks(number: int, line: str, listing: Path) -> _Row:
    """`<file> <label>` or `<folder> <num_frames> <label>`; the path may hold blanks, the numbers may not."""
    place = f"{listing} line {number}"
    path, _, label = line.rpartition(" ")
    if not path or whole_number(label) is None:
        return _row(number, line, "", "", place)  # a test list without labels
    before, _, count = path.rpartition(" ")
    if not before or whole_number(count) is None:
        return _row(number, path.strip(), label, "", place)
    if video_name(before) != before or re.search(r" [0-9]+$", before):
        raise InputError(
            f"{place}: found {line!r}; lists with several labels or with offsets are not read, expected "
            "'<file> <label>' or '<folder> <num_frames> <label>'"
        )
    return _row(number, before.strip(), label, count, place)


def _row(number: int, path: str, label: str, count: str, place: str) -> _Row:
    frames = whole_number(count) if count else -1
    if frames is None or frames == 0:
        raise InputError(
            f"{place}: num_frames {count!r}; expected a whole number above 0, or nothing; if the columns stand in "
            "another order, name them in a first line such as path,num_frames,label"
        )
    if frames > MOST_FRAMES:
        raise InputError(f"{place}: num_frames {count}; expected the number of the video's frames, or nothing")
    return _Row(number, path, label, frames)


def _label(row: _Row, meaning: str, classes: dict[str, int], listing: Path, split: str) -> int:
    place = f"{listing} line {row.line}" if row.line else f"{listing}/{row.label}"
    if not row.label:
        if split == "test":
            return UNLABELLED
        raise InputError(f"{place}: no label; expected path,label with one of {len(classes)} classes")
    return index_of_label(row.label, meaning, classes, place)


def _pairs_of(class_names: list[str], pairs: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(class_names):
            raise InputError(f"dataset.flip_pairs: {list(pair)}; expected two class names, such as {class_names[:2]}")
    return flip_pairs_of(class_names, [(pair[0], pair[1]) for pair in pairs])[0]
