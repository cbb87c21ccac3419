"""The `<id>;<class name>` lists of TwentyBN's data sets, Something-Something V1 and Jester, and their flip pairs.

    <prefix>-labels.csv        one class name per line, in index order
    <prefix>-train.csv         <id>;<class name>      no header
    <prefix>-validation.csv    <id>;<class name>
    <prefix>-test.csv          <id>

Class names contain commas and apostrophes, never a semicolon: this is not a comma CSV. Some copies have CR LF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vsn_train.data.datasets.annotations import class_indices, find_file, index_of, numbered_lines
from vsn_train.data.datasets.presence import find_videos, make_present_manifest
from vsn_train.data.manifest import UNLABELLED, Manifest
from vsn_train.errors import InputError

# Split -> the name it has in TwentyBN's files.
FILE_NAMES = {"train": "train", "val": "validation", "test": "test"}


def load_labelled_ids(
    dataset: str,
    split: str,
    videos: Path,
    prefix: str,
    places: Sequence[Path],
    flip_classes: Sequence[tuple[str, str]],
    max_missing_share: float,
) -> Manifest:
    """Load a split from the lists in one of `places`, with the videos that exist.

    videos: the folder of the <id> folders. prefix: of the lists' names. Raises InputError, see the loaders of the data
    sets.
    """
    labels_file, classes = read_classes(places, prefix)
    listing, ids, labels = read_split(places, prefix, split, classes, labels_file)
    pairs, flips_allowed = flip_pairs_of(list(classes), flip_classes)
    return make_present_manifest(
        dataset, split, videos, ids, find_videos(videos, ids), labels, list(classes), pairs,
        listing=listing, max_missing_share=max_missing_share, flips_allowed=flips_allowed,
    )  # fmt: skip


def read_classes(places: Sequence[Path], prefix: str) -> tuple[Path, dict[str, int]]:
    """The labels file, and its classes: class name -> index."""
    path = find_file(places, [f"{prefix}-labels.csv"])
    return path, class_indices(numbered_lines(path), path)


def read_split(
    places: Sequence[Path], prefix: str, split: str, classes: dict[str, int], labels_file: Path
) -> tuple[Path, list[str], list[int]]:
    """The split's file, its ids and labels. A test line without a class is UNLABELLED.

    Raises InputError with file and line for an invalid line.
    """
    path = find_file(places, [f"{prefix}-{FILE_NAMES[split]}.csv"])
    ids, labels = [], []
    for number, line in numbered_lines(path):
        video, separator, name = line.partition(";")
        place = f"{path} line {number}"
        if not video.strip().isdigit() or not (name or (split == "test" and not separator)):
            expected = "'<id>'" if split == "test" else "'<id>;<class name>'"
            raise InputError(f"{place}: found {line[:80]!r}, expected {expected} with a number as id; correct the line")
        ids.append(video.strip())
        labels.append(index_of(name.strip(), classes, place, labels_file.name) if name else UNLABELLED)
    return path, ids, labels


def flip_pairs_of(class_names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[int, int]], bool]:
    """The flip pairs among the classes, as labels, and whether flips are allowed.

    They are not if the classes, as an excerpt of the data set, contain only one class of a pair.
    """
    index = {name: label for label, name in enumerate(class_names)}
    known = [(index[left], index[right]) for left, right in pairs if left in index and right in index]
    return known, all((left in index) == (right in index) for left, right in pairs)
