"""Submission files for evaluation servers of data sets with hidden test labels."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from vsn_train.analysis.scores import Scores
from vsn_train.atomic import write_atomic
from vsn_train.errors import InputError


def write_submission(scores: Scores, path: Path) -> None:
    """Write one line per video, without a header, in the order of the data set's own test list.

    Something-Something V2: `id;c1;c2;c3;c4;c5`, the indices of the five best classes. Others (Something-Something V1,
    Jester): `id;class name` of the best class. These are the formats of TSM's test_models.py, whose authors submitted
    such files. The id is the name of the video's file or folder without suffix. Raises InputError for a video without
    scores.
    """
    if not scores.readable.all():
        missing = scores.ids[~scores.readable]
        raise InputError(
            f"{len(missing)} of {len(scores)} videos have no scores, first {missing[0]}; the server expects every "
            "video: repair them and evaluate again"
        )
    best = np.argsort(-scores.scores, axis=1, kind="stable")[:, :5]
    lines = []
    for sample, classes in zip(scores.ids, best, strict=True):
        video = PurePosixPath(str(sample)).stem
        if scores.facts.get("dataset") == "something_v2":
            lines.append(";".join([video, *map(str, classes)]))
        else:
            lines.append(f"{video};{scores.class_names[classes[0]]}")
    write_atomic(path, "\n".join(lines) + "\n")
