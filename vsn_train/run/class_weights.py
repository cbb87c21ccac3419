"""optimizer.class_weights: per-class factors of the loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from vsn_train.data.datasets.annotations import numbered_lines
from vsn_train.data.datasets.listing import class_name_of
from vsn_train.data.manifest import Manifest
from vsn_train.errors import InputError

BALANCED = "balanced"


def class_weights(choice: str | None, manifest: Manifest) -> np.ndarray | None:
    """The weights, float32 (K,), in class order; None if choice is None. manifest: of the training split.

    choice "balanced": videos / (classes × videos of the class), counting only classes with videos. The mean weight over
    the videos is 1, so the learning rate needs no change. A class without videos has weight 1. Any other choice is a
    file, see `read_class_weights`.
    """
    if choice is None:
        return None
    if choice != BALANCED:
        return read_class_weights(Path(choice).expanduser(), manifest.class_names)
    counts = np.bincount(manifest.labels, minlength=len(manifest.class_names))
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = len(manifest) / (present.sum() * counts[present])
    return weights.astype(np.float32)


def read_class_weights(path: Path, class_names: tuple[str, ...]) -> np.ndarray:
    """Read the weights, float32 (K,), from a text file with a line `class,weight` for each class, in any order.

    A first line "class,weight" is a header. Raises InputError with file and line for any other content.
    """
    if not path.is_file():
        raise InputError(
            f"optimizer.class_weights={path}: no such file; expected balanced, or a text file of lines class,weight"
        )
    found: dict[str, float] = {}
    known = {class_name_of(name): name for name in class_names}
    for number, line in numbered_lines(path):
        text, comma, value = line.rpartition(",")
        name = class_name_of(text.strip().strip('"'))
        if not found and (name.lower(), value.strip().lower()) == ("class", "weight"):
            continue
        try:
            weight = float(value) if comma else math.nan
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise InputError(f"{path} line {number}: found {line!r}, expected class,weight with a number above 0")
        if name not in known:
            raise InputError(
                f"{path} line {number}: class {name!r} is not one of the {len(known)} classes "
                f"({', '.join(class_names[:3])}{', …' if len(known) > 3 else ''}); correct the line"
            )
        if name in found:
            raise InputError(f"{path} line {number}: class {name!r} has two lines; expected one line per class")
        found[name] = weight
    if missing := [name for name in known if name not in found]:
        raise InputError(
            f"{path}: {len(missing)} of {len(known)} classes have no line, first {missing[0]!r}; expected a line "
            "class,weight for each"
        )
    return np.array([found[name] for name in known], np.float32)
