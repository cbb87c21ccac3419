"""UCF101: Soomro, Zamir, Shah, 2012. Official lists and folder layout.

    <root>/<Class>/v_<Class>_g01_c01.avi      root: UCF-101, or the folder that holds it
    <annotations>/classInd.txt       "1 ApplyEyeMakeup"                               labels from 1, official order
    <annotations>/trainlist01.txt    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
    <annotations>/testlist01.txt     "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"    the folder is the class

Lines end with CR LF. The order of classInd.txt is the class order; it is not that of sorted folders. The folder
HandstandPushups has files v_HandStandPushups_…, so file names do not follow from class names. A horizontal flip changes
no class.
"""

from __future__ import annotations

from pathlib import Path

from vsn_train.data.datasets.annotations import numbered_lines, search_places, video_root
from vsn_train.data.datasets.presence import find_videos, make_present_manifest
from vsn_train.data.manifest import Manifest
from vsn_train.errors import InputError


def load_ucf101(
    root: Path, split: str, list_number: int = 1, annotations: Path | None = None, max_missing_share: float = 0.0
) -> Manifest:
    """Load a split: "train"; "val" and "test" are both the official test list, as UCF101 has no validation set.

    root: folder of the class folders. list_number: official split 1, 2 or 3. annotations: folder of the lists; None:
    ucfTrainTestlist in or next to the root. Raises InputError for missing folders or lists, for more than
    max_missing_share missing videos, and for an invalid line, with file and line.
    """
    videos = video_root(
        root,
        ["UCF-101"],
        "the folder of UCF101's class folders (<root>/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi)",
    )
    folder = _find_lists(root, annotations)
    classes = _read_classes(folder / "classInd.txt")
    listing = folder / f"{'train' if split == 'train' else 'test'}list{list_number:02d}.txt"
    ids, labels = [], []
    for number, line in numbered_lines(listing):
        path, _, written = line.partition(" ")
        class_name = path.partition("/")[0]
        place = f"{listing} line {number}"
        if class_name not in classes:
            raise InputError(f"{place}: class {class_name!r} is not in classInd.txt; expected <Class>/<video>.avi")
        if written and written.strip() != str(classes[class_name] + 1):
            raise InputError(
                f"{place}: label {written.strip()}, but {class_name} is {classes[class_name] + 1} in classInd.txt, "
                f"which has {len(classes)} classes (1 to {len(classes)}); correct the list"
            )
        ids.append(path)
        labels.append(classes[class_name])
    return make_present_manifest(
        "ucf101", split, videos, ids, find_videos(videos, ids), labels, list(classes),
        listing=listing, max_missing_share=max_missing_share,
    )  # fmt: skip


def _find_lists(root: Path, annotations: Path | None) -> Path:
    for place in search_places(root, annotations, "ucfTrainTestlist", "annotations"):
        if (place / "classInd.txt").is_file():
            return place
    where = f"no classInd.txt in {annotations}" if annotations else f"no ucfTrainTestlist in or next to {root}"
    raise InputError(
        f"found {where}; unpack UCF101TrainTestSplits-RecognitionTask.zip there or set dataset.annotations"
    )


def _read_classes(path: Path) -> dict[str, int]:
    classes: dict[str, int] = {}
    for number, line in numbered_lines(path):
        index, _, name = line.partition(" ")
        if not name or index != str(len(classes) + 1):
            raise InputError(f"{path} line {number}: found {line!r}, expected '{len(classes) + 1} <Class>'")
        classes[name.strip()] = len(classes)
    return classes
