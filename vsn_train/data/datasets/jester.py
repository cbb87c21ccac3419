"""Jester V1: Materzynska et al., ICCV workshops 2019. Official lists; the videos come as JPEG frames only.

    <root>/<id>/00001.jpg ...                     root: 20bn-jester-v1, or the folder that holds it
    jester-v1-labels.csv …-train.csv …-validation.csv …-test.csv        see labelled_ids.py

The order of labels.csv is the class order, which is not that of sorted names.
"""

from __future__ import annotations

from pathlib import Path

from vsn_train.data.datasets.annotations import search_places, video_root
from vsn_train.data.datasets.labelled_ids import mirror_pairs, read_classes, read_split
from vsn_train.data.datasets.presence import find_videos, make_present_manifest
from vsn_train.data.manifest import Manifest

MIRROR_CLASSES = (
    ("Swiping Left", "Swiping Right"),
    ("Sliding Two Fingers Left", "Sliding Two Fingers Right"),
    ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),  # a mirror reverses the sense of rotation
)


def load_jester(root: Path, split: str, annotations: Path | None = None, max_missing_share: float = 0.0) -> Manifest:
    """split: "train", "val" or "test", which has no labels.

    root: folder of the frame folders. annotations: folder of the CSV files; None looks in and beside the root.
    Raises InputError for missing folders or files, for more than max_missing_share missing videos and for a line that
    does not fit, with file and line.
    """
    videos = video_root(root, ["20bn-jester-v1"], "the folder of Jester's <id> folders")
    places = search_places(root, annotations, "annotations", "labels")
    labels_file, classes = read_classes(places, "jester-v1")
    listing, ids, labels = read_split(places, "jester-v1", split, classes, labels_file)
    pairs, flips_allowed = mirror_pairs(list(classes), MIRROR_CLASSES)
    return make_present_manifest(
        "jester", split, videos, ids, find_videos(videos, ids), labels, list(classes), pairs,
        listing=listing, max_missing_share=max_missing_share, flips_allowed=flips_allowed,
    )  # fmt: skip
