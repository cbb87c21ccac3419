"""Kinetics-400: Kay et al., 2017. The official CSV files, and every folder layout and file name in use.

    train.csv  val.csv  test.csv         label,youtube_id,time_start,time_end,split,is_cc
                                         "using segway",R6llTwEh07w,0,10,val,0        test: no label
    <root>/…/R6llTwEh07w_000000_000010.mp4      or R6llTwEh07w.mp4, or a folder of frames of either name

The folders in between may be split folders (train, videos_val, …), class folders in any spelling (using segway,
using_segway, and without brackets and apostrophes as in TSM's lists), both, or none. Every copy lacks some videos.

Class index = position in the sorted names; there is no official index file. kinetics400.txt has the names, so a list of
Kinetics-600 or -700 is not mistaken for this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vsn_train.data.datasets.annotations import numbered_lines, read_text, search_places, video_root
from vsn_train.data.datasets.presence import list_folder, make_present_manifest, video_name
from vsn_train.data.datasets.separated import read_rows
from vsn_train.data.manifest import UNLABELLED, Manifest
from vsn_train.errors import InputError

# Names in use for the CSV files, the folders and in the column "split".
SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "validate", "validation"),
    "test": ("test", "testing"),
}
_TIMED = re.compile(r"[\w-]{11}_\d+_\d+")  # a folder of frames of this or another split's video


def load_kinetics400(
    root: Path, split: str, annotations: Path | None = None, max_missing_share: float = 0.1
) -> Manifest:
    """Load a split: "train", "val" or "test"; "test" has labels if the CSV has the column.

    root: folder of the videos of all splits. annotations: folder of the CSV files; None: in or next to the root.
    Videos that do not exist are listed in the manifest's `missing`. Raises InputError for more than max_missing_share
    of them, for missing folders or files, and for an invalid line, with file and line.
    """
    root = video_root(root, [], "the folder of Kinetics-400's videos")
    listing = _find_listing(search_places(root, annotations, "annotations", "kinetics400"), split)
    class_names = [name for _, name in numbered_lines(Path(__file__).with_suffix(".txt"))]
    ids, videos, labels = _read_rows(listing, split, class_names)
    names = _find_files(root, split, set(videos), {_folder_key(name) for name in class_names})
    found = [names.get(each) or _find_otherwise(names, each, video) for each, video in zip(ids, videos, strict=True)]
    return make_present_manifest(
        "kinetics400", split, root, ids, found, labels, class_names, listing=listing,
        max_missing_share=max_missing_share,
    )  # fmt: skip


def _find_listing(places: Sequence[Path], split: str) -> Path:
    pattern = re.compile(rf"(k|kinetics)?[-_]?(400)?[-_]?({'|'.join(SPELLINGS[split])})([-_](list|split))?\.csv", re.I)
    for place in places:
        names = sorted(path.name for path in place.glob("*.csv"))
        matching = [name for name in names if pattern.fullmatch(name)]
        if len(matching) == 1:
            return place / matching[0]
        if matching:
            raise InputError(
                f"{place} has {' and '.join(matching)}, each of which may list the {split} videos; keep only one of "
                "them, or name another folder with dataset.annotations"
            )
    raise InputError(
        f"found no {SPELLINGS[split][0]}.csv or kinetics-400_{SPELLINGS[split][0]}.csv in "
        f"{', '.join(map(str, places))}; put the official list there, or name its folder with dataset.annotations"
    )


def _read_rows(listing: Path, split: str, class_names: Sequence[str]) -> tuple[list[str], list[str], list[int]]:
    """Sample ids (the usual file names), YouTube ids and labels of a list."""
    label_of = {name: label for label, name in enumerate(class_names)}
    text = read_text(listing)
    rows = read_rows(text, listing, "label,youtube_id,time_start,time_end,split,is_cc")
    columns = {name.strip().lower(): position for position, name in enumerate(next(rows, (1, []))[1])}
    needed = ["youtube_id", "time_start", "time_end", *(["label"] if split != "test" else [])]
    absent = [name for name in needed if name not in columns]
    if absent:
        raise InputError(
            f"{listing} line 1: no column {' and no column '.join(absent)} in {text.partition(chr(10))[0].strip()!r}; "
            f"expected a header with {', '.join(needed)}"
        )
    id_at, start_at, end_at = (columns[name] for name in needed[:3])
    label_at, split_at = columns.get("label"), columns.get("split")
    ids, videos, labels = [], [], []
    for number, row in rows:
        if not row:
            continue
        place = f"{listing} line {number}"
        if len(row) != len(columns):
            raise InputError(
                f"{place}: found {len(row)} fields, expected {len(columns)} as in line 1: {','.join(row)[:80]!r}"
            )
        video = row[id_at].strip()
        try:
            ids.append(f"{video}_{int(float(row[start_at])):06d}_{int(float(row[end_at])):06d}")
        except (ValueError, OverflowError):  # an infinite number is the latter
            times = f"{row[start_at]!r} and {row[end_at]!r}"
            raise InputError(f"{place}: times {times}; expected seconds") from None
        if not video or "/" in video:
            raise InputError(f"{place}: youtube_id {video[:80]!r}; expected 11 characters")
        if split_at is not None and row[split_at].strip().lower() not in SPELLINGS[split]:
            raise InputError(
                f"{place}: a video of split {row[split_at][:80]!r}, expected "
                f"{SPELLINGS[split][0]!r}: use the list of that split"
            )
        name = "" if label_at is None else row[label_at].strip().replace("_", " ")
        if label_at is not None and name not in label_of:
            raise InputError(
                f"{place}: class {row[label_at][:80]!r} is not one of the 400 of Kinetics-400; "
                "correct the line, use the list of Kinetics-400, or dataset=custom"
            )
        videos.append(video)
        labels.append(label_of.get(name, UNLABELLED))
    return ids, videos, labels


def _find_files(root: Path, split: str, videos: set[str], class_keys: set[str]) -> dict[str, str]:
    """Video name -> path under `root`. If a name exists twice, the folder of better rank wins, see `_rank`."""
    folders = sorted(_walk(root, "", videos, class_keys, depth=3), key=lambda each: -_rank(each[0], split))
    return {
        name: f"{folder}/{entry}" if folder else entry for folder, names in folders for name, entry in names.items()
    }


def _walk(
    root: Path, folder: str, videos: set[str], class_keys: set[str], depth: int
) -> Iterator[tuple[str, dict[str, str]]]:
    """(folder, video name -> file or frame folder in it) for root/folder and `depth` levels of folders below."""
    here = {}
    for entry in list_folder(root / folder):
        name = video_name(entry)
        if name != entry or _TIMED.fullmatch(entry) or (entry in videos and _folder_key(entry) not in class_keys):
            here[name] = entry
        elif depth > 0 and (root / folder / entry).is_dir():
            yield from _walk(root, f"{folder}/{entry}" if folder else entry, videos, class_keys, depth - 1)
    yield folder, here


def _find_otherwise(names: dict[str, str], sample_id: str, video: str) -> str | None:
    """The path of a video with an unusual file name: its YouTube id alone, or with the times not padded."""
    _, start, end = sample_id.rsplit("_", 2)
    return names.get(video) or names.get(f"{video}_{int(start)}_{int(end)}")


def _rank(folder: str, split: str) -> int:
    """Lower is better: replacements of corrupt files, the split's own folder, anywhere, another split's folder."""
    if "replacement" in folder.lower():
        return 0
    words = set(re.split(r"[-_/]", folder.lower()))
    if words & set(SPELLINGS[split]):
        return 1
    return 3 if any(words & set(names) for names in SPELLINGS.values()) else 2


def _folder_key(name: str) -> str:
    """One key for all spellings of a class folder: blanks or _, with or without brackets and apostrophes."""
    return re.sub(r"[\s_]+", "_", re.sub(r"[()']", "", name.strip().lower()))
