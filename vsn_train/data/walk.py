"""Find the videos below a folder, by the same rules for all commands.

A file with the suffix of a video is a video. A folder of numbered images is a video, unless there are video files in or
below it: then the images (thumbnails, for example) are left out. Hidden and system files (.DS_Store, ._clip.mp4,
Thumbs.db, @eaDir, .vsn-train) are ignored; links are followed, but never into a folder above them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from vsn_train.data.datasets.presence import is_hidden, video_name

_FRAME = re.compile(r".*\d\.(jpe?g|png)", re.IGNORECASE | re.DOTALL)

HIDDEN = "hidden or of the system"
PICTURE = "pictures beside videos"
DANGLING = "links to nothing"
CIRCLE = "links to a folder above them"
CLOSED = "folders that cannot be listed"
OTHER = "that are no videos"
EMPTY = "folders without videos"


@dataclass
class Walk:
    """videos: sorted paths relative to the root; "." if the root itself is a folder of images.

    left_out: reason -> relative paths, sorted, without the content of folders that are left out.
    """

    videos: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def note(self) -> str:
        """One line about the files that are left out, with the first names; "" if only hidden files are."""
        parts = [
            f"{len(names)} {why} ({', '.join(map(repr, names[:2]))}{', …' if len(names) > 2 else ''})"
            for why, names in sorted(self.left_out.items())
        ]
        return f"left out: {'; '.join(parts)}" if self.left_out.keys() - {HIDDEN} else ""


def walk_videos(root: Path) -> Walk:
    """Every video below `root`, each folder listed once. A folder that cannot be listed is left out and named."""
    found = Walk()
    _walk(os.fspath(root), "", (), found)
    found.videos.sort()
    for names in found.left_out.values():
        names.sort()
    return found


def _walk(folder: str, relative: str, above: tuple[tuple[int, int], ...], found: Walk) -> bool:
    """Add a folder to `found`; returns whether there are video files in or below it. above: (device, inode) of its
    parent folders."""

    def leave_out(why: str, name: str) -> None:
        found.left_out.setdefault(why, []).append(os.path.join(relative, name))

    try:
        status = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        leave_out(CLOSED, "")
        return False
    here = (*above, (status.st_dev, status.st_ino))
    images: list[str] = []
    folders: list[os.DirEntry[str]] = []
    videos = False
    for entry in entries:
        if is_hidden(entry.name):
            leave_out(HIDDEN, entry.name)
        elif entry.is_dir():
            folders.append(entry)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            leave_out(DANGLING, entry.name)
        elif video_name(entry.name) != entry.name:
            found.videos.append(os.path.join(relative, entry.name))
            videos = True
        elif _FRAME.fullmatch(entry.name):
            images.append(entry.name)
        else:
            leave_out(OTHER, entry.name)
    below = Walk()
    for entry in folders:
        try:
            status = os.stat(entry.path)
        except OSError:
            leave_out(CLOSED, entry.name)
            continue
        if (status.st_dev, status.st_ino) in here:
            leave_out(CIRCLE, entry.name)
        else:
            videos |= _walk(entry.path, os.path.join(relative, entry.name), here, below)
    if images and not videos:
        found.videos.append(relative or ".")
        if below.videos:  # folders of images inside of one, such as flow next to the frames
            found.left_out.setdefault("inside of a folder of images", []).extend(below.videos)
        return False
    if images:
        found.left_out.setdefault(PICTURE, []).extend(os.path.join(relative, name) for name in images)
    found.videos += below.videos
    for why, names in below.left_out.items():
        found.left_out.setdefault(why, []).extend(names)
    return videos
