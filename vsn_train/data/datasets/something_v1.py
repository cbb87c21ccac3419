"""Something-Something V1: Goyal et al., ICCV 2017. Official lists; the videos come as JPEG frames only.

    <root>/<id>/00001.jpg ...                     root: 20bn-something-something-v1, or the folder that holds it
    something-something-v1-labels.csv …-train.csv …-validation.csv …-test.csv        see labelled_ids.py

The order of labels.csv is the class order. It is not that of sorted names, with which many published models were
trained.
"""

from __future__ import annotations

from pathlib import Path

from vsn_train.data.datasets.annotations import search_places, video_root
from vsn_train.data.datasets.labelled_ids import load_labelled_ids
from vsn_train.data.manifest import Manifest

# Classes that a horizontal flip exchanges, by the authors' augmentation mappings of V2, which has the same names.
FLIP_CLASSES = (
    ("Pulling something from left to right", "Pulling something from right to left"),
    ("Pushing something from left to right", "Pushing something from right to left"),
    ("Turning the camera left while filming something", "Turning the camera right while filming something"),
)


def load_something_v1(
    root: Path, split: str, annotations: Path | None = None, max_missing_share: float = 0.0
) -> Manifest:
    """Load a split: "train", "val" or "test"; "test" has no labels.

    root: folder of the frame folders. annotations: folder of the CSV files; None: in or next to the root.
    Raises InputError for missing folders or files, for more than max_missing_share missing videos, and for an invalid
    line, with file and line.
    """
    videos = video_root(root, ["20bn-something-something-v1"], "the folder of Something-Something V1's <id> folders")
    places = search_places(root, annotations, "annotations", "labels")
    return load_labelled_ids(
        "something_v1", split, videos, "something-something-v1", places, FLIP_CLASSES, max_missing_share
    )
