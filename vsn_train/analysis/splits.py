"""The mean over the three official splits of UCF101 or HMDB51, as papers report it.

Accuracies are computed from one score file per split; the files must be of the same data set and protocol.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vsn_train.analysis.scores import Scores
from vsn_train.errors import InputError

SPLITS = (1, 2, 3)


def mean_of_splits(paths: list[Path]) -> dict[str, Any]:
    """Accuracies in percent of each split and their mean. Raises InputError if the files do not belong together."""
    scores: dict[int, Scores] = {}
    first: dict[str, Any] | None = None
    for path in paths:
        each = Scores.load(path)
        split = each.facts.get("official_split")
        if split not in SPLITS:
            raise InputError(f"{path}: of {each.facts.get('dataset')}, which has no official splits 1, 2 and 3")
        if split in scores:
            raise InputError(f"{path}: a second file of split {split}; expected one for each of 1, 2, 3")
        first = first or each.facts
        for key in ("dataset", "split", "protocol", "num_frames"):
            if each.facts[key] != first[key]:
                raise InputError(
                    f"{path}: {key} is {each.facts[key]}, but {first[key]} in {paths[0]}; expected the same {key}"
                )
        scores[split] = each
    if first is None or len(scores) < len(SPLITS):
        absent = [str(split) for split in SPLITS if split not in scores]
        raise InputError(f"no score file of split {' and '.join(absent)}; expected one for each of 1, 2, 3")
    rows = [
        {"split": split, "top1": each.top1(), "top5": each.top5(), "n": len(each),
         "missing": each.facts.get("missing", 0), "manifest": each.facts["manifest"],
         "checkpoint": each.facts["checkpoint"]}
        for split, each in sorted(scores.items())
    ]  # fmt: skip
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("top1", "top5")}
    return {"dataset": first["dataset"], "protocol": first["protocol"], **mean, "splits": rows}
