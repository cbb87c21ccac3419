"""The videos that a user names on the command line: files, folders and patterns."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

from vsn_train.data.datasets.presence import VIDEO_SUFFIXES
from vsn_train.data.loader import BadVideo, EvalVideo, read_eval_video
from vsn_train.data.protocol import Protocol
from vsn_train.data.video import VideoError
from vsn_train.data.walk import walk_videos
from vsn_train.errors import InputError


def find_videos(given: str | Sequence[str]) -> list[Path]:
    """Find the given videos, each once, in the given order; those of a folder or a pattern sorted by name.

    given: files, folders of videos (with subfolders), folders of frames (one video each), or glob patterns. A path that
    exists is not treated as a pattern. Raises InputError for a folder or pattern without a video.
    """
    found: dict[Path, None] = {}
    for name in [given] if isinstance(given, str) else given:
        path = Path(str(name)).expanduser()
        matches = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        videos = [video for match in matches for video in (_in_folder(match) if match.is_dir() else [match])]
        if not videos and (path.is_dir() or glob.has_magic(str(path))):
            known = ", ".join(sorted(VIDEO_SUFFIXES))
            raise InputError(f"video={name}: found no videos; expected files that end in one of {known}")
        found |= dict.fromkeys(videos or [path])  # opening a missing file raises the error
    return list(found)


def _in_folder(folder: Path) -> list[Path]:
    found = walk_videos(folder)
    if found.videos and (note := found.note()):
        print(f"{folder}: {note}", file=sys.stderr)
    return [folder / each for each in found.videos]  # folder / "." is the folder


@dataclass(eq=False)
class GivenVideos(Dataset["EvalVideo | BadVideo"]):
    """The part of each video from start to end in seconds (end None: to its end), decoded once and resized once."""

    paths: Sequence[Path]
    num_frames: int
    protocol: Protocol
    decoder: str
    modality: str = "rgb"
    start: float = 0.0
    end: float | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> EvalVideo | BadVideo:
        try:
            return read_eval_video(
                self.paths[index], self.num_frames, self.protocol, self.decoder, self.modality, index,
                start=self.start, end=self.end,
            )  # fmt: skip
        except VideoError as error:
            return BadVideo(index, str(self.paths[index]), error.cause)

    def video_of(self, key: int) -> tuple[int, Path]:
        """Index and path of a key's video."""
        return key, self.paths[key]
