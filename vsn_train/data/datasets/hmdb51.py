"""HMDB51: Kuehne et al., ICCV 2011. Official lists and folder layout.

    <root>/<class>/<video>.avi                                root: hmdb51_org, or the folder that holds it
    <annotations>/<class>_test_split<1|2|3>.txt               testTrainMulti_7030_splits: 51 files for each split
        April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1           1 training, 2 test, 0 not used in this split

The class is in the file's name. Class index = position in the sorted class names (not in the sorted file names, where
climb_stairs_test… precedes climb_test…). A horizontal flip changes no class.
"""

from __future__ import annotations

import re
from pathlib import Path

from vsn_train.data.datasets.annotations import numbered_lines, search_places, video_root
from vsn_train.data.datasets.presence import find_videos, list_folder, make_present_manifest
from vsn_train.data.manifest import Manifest
from vsn_train.errors import InputError

USE = {"train": "1", "val": "2", "test": "2"}


def load_hmdb51(
    root: Path, split: str, list_number: int = 1, annotations: Path | None = None, max_missing_share: float = 0.0
) -> Manifest:
    """Load a split: "train"; "val" and "test" are both the official test list, as HMDB51 has no validation set.

    root: folder of the class folders. list_number: official split 1, 2 or 3. annotations: folder of the lists; None:
    testTrainMulti_7030_splits in or next to the root. Raises InputError for missing folders or lists, for more than
    max_missing_share missing videos, and for an invalid line, with file and line.
    """
    videos = video_root(root, ["hmdb51_org", "hmdb51"], "the folder of HMDB51's class folders")
    folder, listings = _find_listings(root, annotations, list_number)
    ids, labels = [], []
    for label, (class_name, listing) in enumerate(sorted(listings.items())):
        for number, line in numbered_lines(listing):
            video, _, use = line.rpartition(" ")
            place = f"{listing} line {number}"
            if use not in ("0", "1", "2") or not video:
                raise InputError(f"{place}: found {line!r}, expected '<video>.avi 0', 1 or 2; correct the line")
            if f"_{class_name}_" not in video:
                raise InputError(
                    f"{place}: {video.strip()} is not a video of class {class_name}, to which this list belongs; "
                    f"expected <source>_{class_name}_<…>.avi"
                )
            if use == USE[split]:
                ids.append(f"{class_name}/{video.strip()}")
                labels.append(label)
    return make_present_manifest(
        "hmdb51", split, videos, ids, find_videos(videos, ids), labels, sorted(listings),
        listing=folder / f"*_test_split{list_number}.txt", max_missing_share=max_missing_share,
    )  # fmt: skip


def _find_listings(root: Path, annotations: Path | None, list_number: int) -> tuple[Path, dict[str, Path]]:
    """The folder of the lists, and the list of each class."""
    official = "testTrainMulti_7030_splits"
    for place in search_places(root, annotations, official, "annotations", "splits", f"test_train_splits/{official}"):
        listings = {}
        for name in list_folder(place):
            if match := re.fullmatch(rf"(.+)_test_split{list_number}\.txt", name):
                listings[match[1]] = place / name
        if listings:
            return place, listings
    raise InputError(
        f"found no <class>_test_split{list_number}.txt in {annotations or f'{official} in or next to {root}'}; unpack "
        "test_train_splits.rar there, or name the folder of the lists with dataset.annotations"
    )
