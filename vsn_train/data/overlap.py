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

PIECE = 4096  # bytes, from the start, the middle and the end: files that differ there are not compared further


@dataclass(frozen=True)
class Shared:
    """A video of the second split that the first one has too. copy: as another file with the same bytes."""

    first: str
    second: str
    copy: bool


def shared_videos(first: Manifest, second: Manifest) -> list[Shared]:
    """In the order of the second split, each of its videos once. Folders of frames are compared by path alone.

    Files of equal size are opened, and read as a whole where their ends and middle are equal too.
    """
    place_of: dict[str, int] = {}
    of_size: dict[int, list[int]] = defaultdict(list)
    folders: dict[str, str] = {}
    theirs = [_look_up(second.path(index), folders) for index in range(len(second))]
    places, sizes = {place for place, _ in theirs}, {size for _, size in theirs}
    for index in range(len(first)):  # of the larger split only what may be in the other one is kept
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
    """Videos of one split that hold the same bytes as an earlier one of it, under another name or through a link."""
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
    """Where a video lies, behind all links, and its size in bytes; 0 for what is no file. A hard link is found by its
    content. folders: where those lie that were looked up so far, so that a file server is asked once for each video.
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
    except (OSError, ValueError):  # what is not there is named where it is decoded
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
        return None  # what cannot be read is named where it is decoded
    return None


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for start in (0, max(0, size // 2 - PIECE // 2), max(0, size - PIECE)):
            file.seek(start)
            digest.update(file.read(PIECE))
    return digest.digest()
