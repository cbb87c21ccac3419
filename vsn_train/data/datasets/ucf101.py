"""UCF101: Soomro, Zamir, Shah, 2012. Official lists and folder layout.

    <root>/<Class>/v_<Class>_g01_c01.avi
    <annotations>/classInd.txt       "1 ApplyEyeMakeup"                               labels from 1, official order
    <annotations>/trainlist01.txt    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
    <annotations>/testlist01.txt     "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"    the folder is the class

Lines end with CR LF. The order of classInd.txt is the class order; it is not that of sorted folders. A mirror changes
no class.
"""

from __future__ import annotations

from pathlib import Path

from vsn_train.data.manifest import Manifest, make_manifest
from vsn_train.errors import InputError


def load_ucf101(root: Path, split: str, list_number: int = 1, annotations: Path | None = None) -> Manifest:
    """split: "train" or "val", which is the official test list: UCF101 has no validation set.

    root: folder of the class folders. list_number: official split 1, 2 or 3. annotations: folder of the lists; None
    looks for ucfTrainTestlist in and beside the root. Raises InputError for missing folders, lists or videos and for a
    line that does not fit, with file and line.
    """
    if not root.is_dir():
        raise InputError(
            f"dataset.root={root}: no such folder; expected the folder of UCF101's class folders "
            "(<root>/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi)"
        )
    folder = annotations or _find_annotations(root)
    classes = _read_classes(folder / "classInd.txt")
    listing = folder / f"{'train' if split == 'train' else 'test'}list{list_number:02d}.txt"
    paths, labels = [], []
    for number, line in _lines(listing):
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
        paths.append(path)
        labels.append(classes[class_name])
    if not paths:
        raise InputError(f"{listing}: the list is empty; expected one video a line")
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} videos of {listing.name} are not under {root}, first {missing[0]}; "
            "complete the folder or correct dataset.root"
        )
    return make_manifest("ucf101", split, root, paths, labels, list(classes))


def _find_annotations(root: Path) -> Path:
    for folder in (root / "ucfTrainTestlist", root.parent / "ucfTrainTestlist"):
        if folder.is_dir():
            return folder
    raise InputError(
        f"found no ucfTrainTestlist in or beside {root}; unpack UCF101TrainTestSplits-RecognitionTask.zip there or "
        "set dataset.annotations"
    )


def _read_classes(path: Path) -> dict[str, int]:
    classes: dict[str, int] = {}
    for number, line in _lines(path):
        index, _, name = line.partition(" ")
        if not name or index != str(len(classes) + 1):
            raise InputError(f"{path} line {number}: found {line!r}, expected '{len(classes) + 1} <Class>'")
        classes[name.strip()] = len(classes)
    return classes


def _lines(path: Path) -> list[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected UCF101's official list")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
