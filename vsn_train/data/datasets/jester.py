"""Jester V1: Materzynska et al., ICCV workshops 2019. Official lists; the videos come as JPEG frames only.

    <root>/<id>/00001.jpg ...                     root: 20bn-jester-v1, or the folder that holds it
    jester-v1-labels.csv …-train.csv …-validation.csv …-test.csv        see labelled_ids.py

The order of labels.csv is the class order, which is not that of sorted names.
"""

from __future__ import annotations

from pathlib import Path

from vsn_train.data.datasets.annotations import search_places, video_root
from vsn_train.data.datasets.labelled_ids import load_labelled_ids
from vsn_train.data.manifest import Manifest

FLIP_CLASSES = (
    ("Swiping Left", "Swiping Right"),
    ("Sliding Two Fingers Left", "Sliding Two Fingers Right"),
    ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),  # a horizontal flip reverses the sense of rotation
)


def load_jester(root: Path, split: str, annotations: Path | None = None, max_missing_share: float = 0.0) -> Manifest:
    """Load a split: "train", "val" or "test"; "test" has no labels.

    root: folder of the frame folders. annotations: folder of the CSV files; None: in or next to the root.
    Raises InputError for missing folders or files, for more than max_missing_share missing videos, and for an invalid
    line, with file and line.
    """
    videos = video_root(root, ["20bn-jester-v1"], "the folder of Jester's <id> folders")
    places = search_places(root, annotations, "annotations", "labels")
    return load_labelled_ids("jester", split, videos, "jester-v1", places, FLIP_CLASSES, max_missing_share)
