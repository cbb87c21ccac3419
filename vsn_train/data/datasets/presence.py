"""Which of the listed videos exist. Every folder is listed once; there is no system call per file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from vsn_train.data.datasets.annotations import numbered_lines
from vsn_train.data.manifest import Manifest, first_repeated, make_manifest
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
    """For each path under `root`: what is there of it, or None.

    That is the path itself, or the same name with another video suffix, or as a folder of frames: all data sets are in
    use as files, as frames and as re-encoded copies. Raises InputError for a folder that cannot be listed.
    """
    folders: dict[str, dict[str, str]] = {}
    found: list[str | None] = []
    for path in wanted:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            entries = list_folder(root / folder) if (root / folder).is_dir() else []
            folders[folder] = {video_name(entry): entry for entry in entries} | {entry: entry for entry in entries}
        entry = folders[folder].get(name) or folders[folder].get(video_name(name))
        found.append(entry and (f"{folder}/{entry}" if folder else entry))
    return found


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
        place = f"{listing} line{'s' * (len(lines) > 1)} {' and '.join(lines)}" if lines else str(listing)
        raise InputError(f"{place}: {twice} is listed more than once; remove the repeated line")
    missing = [each for each, path in zip(ids, found, strict=True) if path is None]
    if len(missing) > max_missing_share * len(ids) or len(missing) == len(ids):
        accept = math.ceil(100 * len(missing) / len(ids)) / 100
        raise InputError(
            f"{len(missing)} of {len(ids)} videos of {listing.name} are not under {root}, first {missing[0]}; "
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
