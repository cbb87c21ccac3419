"""The mean over UCF101's or HMDB51's three official splits, which is what papers report.

    for n in 1 2 3; do
        vsn-train dataset=hmdb51 dataset.split=$n hydra.run.dir=runs/hmdb51/$n …
        vsn-eval checkpoint=runs/hmdb51/$n/checkpoints/best.pt
    done
    python scripts/mean_of_splits.py runs/hmdb51/*/eval/tencrop_10clip/scores.npz

Every split's accuracy is computed from its score file; the files must be of the same data set and protocol, one for
each split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vsn_train.analysis.scores import Scores
from vsn_train.errors import InputError

SPLITS = (1, 2, 3)


def mean_of_splits(paths: list[Path]) -> dict[str, Any]:
    """Accuracies in percent of each split and their mean. Raises InputError where the files do not belong together."""
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
                    f"{path}: {key} is {each.facts[key]}, but {first[key]} in {paths[0]}; take alike files"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("scores", nargs="+", type=Path, help="scores.npz of each split, as vsn-eval writes it")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON too")
    arguments = parser.parse_args()
    try:
        result = mean_of_splits(arguments.scores)
    except InputError as error:
        print(f"mean_of_splits: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{result['dataset']}, {result['protocol']['name']}")
    print("split  top-1 %  top-5 %  videos  manifest          checkpoint")
    for row in result["splits"]:
        print(
            f"{row['split']:<5}  {row['top1']:7.2f}  {row['top5']:7.2f}  {row['n']:6d}  {row['manifest']}  "
            f"{row['checkpoint']}"
        )
    print(f"mean   {result['top1']:7.2f}  {result['top5']:7.2f}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
