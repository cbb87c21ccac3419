"""The files of an evaluation besides the report, and the table that it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vsn_train.analysis.scores import Scores
from vsn_train.analysis.submission import write_submission
from vsn_train.analysis.tables import text_table
from vsn_train.atomic import write_atomic


def save_results(folder: Path, scores: Scores, position: dict[str, int], environment: dict[str, Any]) -> None:
    """Write scores.npz, metrics.json and, for a split without labels, submission.csv; print the table.

    position: the checkpoint's "epoch" and "step", for metrics.json. environment: machine, threads and processes; only
    for metrics.json, since scores.npz does not depend on them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores.save(folder / "scores.npz")
    metrics: dict[str, Any] = {"split": "test"} | position | measure(scores) | scores.facts
    metrics["environment"] = environment
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if not scores.labelled:
        write_submission(scores, folder / "submission.csv")
    print(table(scores))
    for bad in scores.facts.get("bad_videos", []):
        print(f"cannot read {bad['id']}: {bad['cause']}; {'counted as wrong' if scores.labelled else 'left out'}")


def measure(scores: Scores) -> dict[str, Any]:
    """The metrics over all videos, accuracies in percent; without labels only the number of videos."""
    if not scores.labelled:
        return {"n": len(scores)}
    return {
        "loss": scores.loss(),
        "top1": scores.top1(),
        "top5": scores.top5(),
        "mean_class": scores.mean_class(),
        "top1_interval": list(scores.interval("top1")),
        "top5_interval": list(scores.interval("top5")),
        "calibration_error": scores.calibration_error(),
        "n": len(scores),
    }


def table(scores: Scores) -> str:
    """The table of an evaluation, at most 80 columns wide; without accuracies if there are no labels."""
    facts = scores.facts
    header = ["data set", "split", "protocol"]
    row: list[Any] = [str(facts.get("dataset")), str(facts.get("split")), str(facts.get("protocol", {}).get("name"))]
    if scores.labelled:
        header += ["top-1 %", "top-5 %", "videos"]
        row += [scores.top1(), scores.top5(), len(scores)]
    else:
        header += ["videos", "labels"]
        row += [len(scores), "unknown"]
    text = text_table(header, [row])
    if max(map(len, text.splitlines())) > 80:  # a protocol with several changes has a long name
        text = "\n".join(text_table(["", ""], [list(pair)]).strip() for pair in zip(header, row, strict=True))
    if scores.labelled:
        interval = scores.interval("top1")
        text += f"\n95 % interval of top-1: {interval.low:.2f} to {interval.high:.2f} %"
        text += f"; mean class accuracy: {scores.mean_class():.2f} %"
    return text
