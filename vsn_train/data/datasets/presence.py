"""Which of the listed videos exist. Every folder is listed once; there is no system call per file."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from vsn_train.data.datasets.annotations import numbered_lines
from vsn_train.data.manifest import Manifest, first_repeated, listed_twice, make_manifest
from vsn_train.errors import InputError

VIDEO_SUFFIXES = frozenset(
    ("avi", "mp4", "webm", "mkv", "mov", "m4v", "mpg", "mpeg", "wmv", "flv", "ogv", "3gp", "ts", "mjpeg", "mts", "m2ts",
     "gif")
)  # fmt: skip
# What file managers, network storage and this program put beside videos.
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "__macosx", "lost+found", "$recycle.bin"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: .DS_Store, ._clip.mp4, @eaDir, Thumbs.db."""
    return name.startswith((".", "@")) or name.lower() in SYSTEM_FILES


def video_name(entry: str) -> str:
    """The video's name: a file's without its suffix, a frame folder's whole one."""
    stem, _, suffix = entry.rpartition(".")
    return stem if suffix.lower() in VIDEO_SUFFIXES and stem else entry


def list_folder(folder: Path) -> list[str]:
    """Sorted names in a folder, without hidden ones and the system's. Raises InputError where it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); expected a folder of videos") from error


def find_videos(root: Path, wanted: Sequence[str]) -> list[str | None]:
    """For each path under `root`: what is there of it, as it is spelt on disk, or None.

    That is the path itself, or the same name with another video suffix, or as a folder of frames: all data sets are in
    use as files, as frames and as re-encoded copies. Letters with accents are one character or two, as the list or the
    disk has it. Raises InputError for a folder that cannot be listed.
    """
    rows_in: dict[str, list[int]] = {}  # by folder: the names of one folder at a time are kept
    for row, path in enumerate(wanted):
        folder, slash, _ = path.rpartition("/")
        rows_in.setdefault(folder or slash, []).append(row)
    found: list[str | None] = [None] * len(wanted)
    for folder, rows in rows_in.items():
        # Not Path.is_dir(), which raises where a name is too long for the file system.
        there = folder if os.path.isdir(root / folder) else _as_on_disk(root, folder)
        entries = list_folder(root / there) if there is not None else []
        names = {video_name(entry): entry for entry in entries} | {entry: entry for entry in entries}
        names = {_composed(each): entry for each, entry in names.items()} | names
        for row in rows:
            name = wanted[row].rpartition("/")[2]
            entry = names.get(name) or names.get(video_name(name)) or names.get(_composed(name))
            entry = entry or names.get(_composed(video_name(name)))
            found[row] = entry and (f"{there}/{entry}" if there else entry)
    return found


def _composed(name: str) -> str:
    """The one spelling of a name whose accents may be characters of their own, as macOS writes them."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _as_on_disk(root: Path, folder: str) -> str | None:
    """The folder in the spelling that the disk has; None where there is none."""
    if folder.isascii():
        return None
    there = ""
    for part in folder.split("/"):
        if not part:
            there = there or "/"
            continue
        place = root / there
        entries = list_folder(place) if os.path.isdir(place) else []
        names = [each for each in entries if _composed(each) == _composed(part)]
        if not names:
            return None
        there = os.path.join(there, part if part in names else names[0])
    return there


def make_present_manifest(
    name: str,
    split: str,
    root: Path,
    ids: Sequence[str],
    found: Sequence[str | None],
    labels: Sequence[int],
    class_names: Sequence[str],
    flip_pairs: Sequence[tuple[int, int]] = (),
    *,
    listing: Path,
    max_missing_share: float,
    flips_allowed: bool | None = None,
    num_frames: Sequence[int] | None = None,
) -> Manifest:
    """The manifest of the listed videos that were found; the others become its `missing`.

    found: what `find_videos` says. listing: the file that lists them, for the message. The rest is as for
    `make_manifest`.
    Raises InputError where more than max_missing_share of them are missing.
    """
    if not ids:
        raise InputError(f"{listing}: the list is empty; expected one video a line")
    if twice := first_repeated(ids):
        lines = [str(number) for number, line in numbered_lines(listing) if twice in line] if listing.is_file() else []
        raise listed_twice(f"{listing} lines {' and '.join(lines)}" if len(lines) > 1 else str(listing), twice)
    missing = [each for each, path in zip(ids, found, strict=True) if path is None]
    if len(missing) > max_missing_share * len(ids) or len(missing) == len(ids):
        accept = math.ceil(100 * len(missing) / len(ids)) / 100
        raise InputError(
            f"{len(missing)} of {len(ids)} videos of {listing.name} are not under {root}, first {missing[0][:200]}; "
            "complete the folder or correct dataset.root"
            + (f", or continue without them: dataset.max_missing_share={accept}" if len(missing) < len(ids) else "")
        )
    rows = [row for row, path in enumerate(found) if path is not None]
    return make_manifest(
        name,
        split,
        root,
        [path for path in found if path is not None],
        [labels[row] for row in rows],
        class_names,
        flip_pairs,
        ids=[ids[row] for row in rows],
        flips_allowed=flips_allowed,
        num_frames=None if num_frames is None else [num_frames[row] for row in rows],
        missing=missing,
    )
