"""Find which of the listed videos exist. Lists every folder once, without a system call per file."""

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
# Files that operating systems and network storage put next to videos.
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "__macosx", "lost+found", "$recycle.bin"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or a system file: .DS_Store, ._clip.mp4, @eaDir, Thumbs.db."""
    return name.startswith((".", "@")) or name.lower() in SYSTEM_FILES


def video_name(entry: str) -> str:
    """The name of a video: of a file without its suffix, of a frame folder its full name."""
    stem, _, suffix = entry.rpartition(".")
    return stem if suffix.lower() in VIDEO_SUFFIXES and stem else entry


def list_folder(folder: Path) -> list[str]:
    """Sorted names in a folder, without hidden and system files. Raises InputError if it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); expected a folder of videos") from error


def find_videos(root: Path, wanted: Sequence[str]) -> list[str | None]:
    """For each wanted path: the path of the video under `root` as spelt on disk, or None.

    Matches the path itself, the same name with another video suffix, or a folder of frames of that name, since data
    sets are used as files, as frames and as re-encoded copies. Accents match in either Unicode form (one character or
    two). Raises InputError for a folder that cannot be listed.
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
    """The name in Unicode form NFC; macOS writes accents as separate characters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _as_on_disk(root: Path, folder: str) -> str | None:
    """The folder as spelt on disk; None if it does not exist."""
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

    found: result of `find_videos`. listing: the file that lists the videos, for messages. Other arguments: see
    `make_manifest`. Raises InputError if more than max_missing_share of the videos are missing.
    """
    if not ids:
        raise InputError(f"{listing}: the list is empty; expected one video per line")
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
