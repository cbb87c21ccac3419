"""Videos that two splits share: by their path, through links, or as copies with the same content."""

from __future__ import annotations

import filecmp
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vsn_train.data.manifest import Manifest

PIECE = 4096  # bytes read at the start, middle and end of a file; only files that agree there are compared as a whole


@dataclass(frozen=True)
class Shared:
    """A video that both splits contain. first, second: its ids. copy: another file with the same bytes."""

    first: str
    second: str
    copy: bool


def shared_videos(first: Manifest, second: Manifest) -> list[Shared]:
    """The videos of the second split that the first contains too, in the order of the second.

    Folders of frames are compared by path alone. Files of equal size are read, as a whole only if `PIECE` bytes at
    their start, middle and end are equal.
    """
    place_of: dict[str, int] = {}
    of_size: dict[int, list[int]] = defaultdict(list)
    folders: dict[str, str] = {}
    theirs = [_look_up(second.path(index), folders) for index in range(len(second))]
    places, sizes = {place for place, _ in theirs}, {size for _, size in theirs}
    for index in range(len(first)):  # keep only the entries that can match, to save memory
        place, size = _look_up(first.path(index), folders)
        if place in places:
            place_of.setdefault(place, index)
        if size in sizes:
            of_size[size].append(index)
    digest_of: dict[int, bytes] = {}
    found = []
    for index, (place, size) in enumerate(theirs):
        path = second.path(index)
        other = place_of.get(place)
        copy = other is None
        if copy and size > 0 and of_size.get(size):
            other = _copy_of(path, size, of_size[size], first, digest_of)
        if other is not None:
            found.append(Shared(first.sample_id(other), second.sample_id(index), copy))
    return found


def same_contents(manifest: Manifest) -> list[Shared]:
    """Videos of a split with the same bytes as an earlier one of it: copies under another name, or links."""
    found = []
    place_of: dict[str, int] = {}
    of_size: dict[int, list[int]] = defaultdict(list)
    digest_of: dict[int, bytes] = {}
    folders: dict[str, str] = {}
    for index in range(len(manifest)):
        path = manifest.path(index)
        place, size = _look_up(path, folders)
        other = place_of.setdefault(place, index)
        copy = other == index
        if copy and size > 0:
            same = _copy_of(path, size, of_size[size], manifest, digest_of) if of_size[size] else None
            if same is None:
                of_size[size].append(index)
            other = index if same is None else same
        if other != index:
            found.append(Shared(manifest.sample_id(other), manifest.sample_id(index), copy))
    return found


def _look_up(path: Path, folders: dict[str, str]) -> tuple[str, int]:
    """A video's path with all links resolved, and its size in bytes; 0 for anything but a file.

    Hard links are not resolved; they are found by their content. folders: resolved folders so far, a cache that saves
    requests to a file server.
    """
    folder, name = os.path.split(path)
    try:
        found = os.lstat(path)
        if name in ("", "..") or stat.S_ISLNK(found.st_mode):
            place, found = os.path.realpath(path), os.stat(path)
        else:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            place = os.path.join(folders[folder], name)
        return place, found.st_size if stat.S_ISREG(found.st_mode) else 0
    except (OSError, ValueError):  # a missing video is reported when it is decoded
        return os.path.realpath(path), 0


def _copy_of(
    path: Path, size: int, candidates: Iterable[int], first: Manifest, digest_of: dict[int, bytes]
) -> int | None:
    try:
        own = _digest(path, size)
        for other in candidates:
            if other not in digest_of:
                digest_of[other] = _digest(first.path(other), size)
            if digest_of[other] == own and filecmp.cmp(path, first.path(other), shallow=False):
                return other
    except OSError:
        return None  # an unreadable video is reported when it is decoded
    return None


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for start in (0, max(0, size // 2 - PIECE // 2), max(0, size - PIECE)):
            file.seek(start)
            digest.update(file.read(PIECE))
    return digest.digest()
