"""Analyse score files (scores.npz of vsn-eval), without model, GPU or videos.

    vsn-tools scores show runs/…/scores.npz            accuracies with confidence intervals, calibration
    vsn-tools scores per-class scores.npz              every class with its number of videos
    vsn-tools scores confused scores.npz               the most confused classes
    vsn-tools scores views scores.npz                  accuracy by number of views
    vsn-tools scores compare tsm.npz tsn.npz           difference with its interval, and a paired test
    vsn-tools scores fuse rgb.npz flow.npz --weights 1 1.5 --output fused.npz
    vsn-tools scores submit scores.npz --output test.csv
    vsn-tools scores mean runs/hmdb51/*/eval/best/tencrop_10clip/scores.npz     over the three official splits

Each command has --json FILE. Accuracies are in percent. 95 % confidence intervals are Wilson intervals for top-1 and
top-5, and percentiles of 1,000 bootstrap samples of the videos for class means and differences. Files can be compared
or fused only if videos, labels and class order agree.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.analysis.results import measure, table
from vsn_train.analysis.scores import Scores, compare, fuse
from vsn_train.analysis.splits import mean_of_splits
from vsn_train.analysis.submission import write_submission
from vsn_train.analysis.tables import text_table
from vsn_train.atomic import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, work: Callable[[argparse.Namespace], Any], about: str, files: int | str = 1) -> Any:
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("files", nargs=files, type=Path, metavar="SCORES", help="scores.npz of vsn-eval")
        command.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
        command.set_defaults(work=work)
        return command

    add("show", show, "accuracies with confidence intervals, calibration", files="+")
    per_class_command = add("per-class", per_class, "top-1 of each class with its number of videos")
    per_class_command.add_argument("--sort", choices=("index", "accuracy", "videos"), default="index")
    confused_command = add("confused", confused, "the most confused classes, most frequent first")
    confused_command.add_argument("--top", type=int, default=20, help="pairs of classes to print; default 20")
    add("views", views, "top-1 by number of views")
    add("compare", compare_two, "difference of two models on the same videos, with a paired test", files=2)
    fuse_command = add("fuse", fuse_files, "weighted mean of the scores of several models", files="+")
    fuse_command.add_argument("--weights", type=float, nargs="+", help="one weight per file; default: equal weights")
    fuse_command.add_argument("--output", type=Path, help="write the fused scores to this .npz file")
    submit_command = add("submit", submit, "write the submission file for the data set's evaluation server")
    submit_command.add_argument(
        "--output", type=Path, default=Path("submission.csv"), help="file to write; default submission.csv"
    )
    add("mean", mean, "mean over the three official splits of UCF101 or HMDB51, one file for each", files="+")


def run(arguments: argparse.Namespace) -> int:
    numbers = arguments.work(arguments)
    if arguments.json:
        write_atomic(arguments.json, json.dumps(numbers, indent=2) + "\n")
    return 0


def show(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for path in arguments.files:
        scores = Scores.load(path)
        print(f"{path}\n{table(scores)}")
        numbers = measure(scores)
        if scores.labelled:
            low, high = numbers["top5_interval"]
            print(f"95 % interval of top-5 {low:.2f} to {high:.2f}")
            print(f"calibration error {numbers['calibration_error']:.2f} %, cross entropy {numbers['loss']:.4f}")
        for key in ("checkpoint", "manifest"):
            if key in scores.facts:
                print(f"{key} {scores.facts[key]}")
        for bad in scores.facts.get("bad_videos", []):
            print(f"unreadable: {bad['id']}: {bad['cause']}")
        found.append({"file": str(path)} | numbers | scores.facts)
    return found


def per_class(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    scores = Scores.load(arguments.files[0])
    counts, accuracies = scores.class_counts(), scores.per_class()
    order = np.arange(len(counts))
    if arguments.sort != "index":
        order = np.argsort(accuracies if arguments.sort == "accuracy" else -counts, kind="stable")
    rows = [
        {"index": int(i), "class": str(scores.class_names[i]), "videos": int(counts[i]),
         "top1": None if np.isnan(accuracies[i]) else float(accuracies[i])}
        for i in order
    ]  # fmt: skip
    print(text_table(["index", "class", "videos", "top-1 %"], [list(row.values()) for row in rows]))
    print(f"mean of the classes: {scores.mean_class():.2f}")
    return rows


def confused(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    scores = Scores.load(arguments.files[0])
    cells, totals = np.stack(scores.confused(), axis=1).tolist(), scores.class_counts()
    wrong = sorted(((videos, i, j) for i, j, videos in cells if i != j), key=lambda row: -row[0])
    rows = [
        {"class": str(scores.class_names[i]), "taken for": str(scores.class_names[j]), "videos": count,
         "of": int(totals[i])}
        for count, i, j in wrong[: arguments.top]
    ]  # fmt: skip
    print(text_table(["class", "taken for", "videos", "of"], [list(row.values()) for row in rows]))
    return rows


def views(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = Scores.load(arguments.files[0]).over_views()
    print(text_table(["views", "top-1 %", "lowest", "highest"], rows))
    return [dict(zip(("views", "top1", "lowest", "highest"), row, strict=True)) for row in rows]


def compare_two(arguments: argparse.Namespace) -> dict[str, Any]:
    first, second = (Scores.load(path) for path in arguments.files)
    found = compare(first, second)
    rows = [
        [str(path), scores.top1(), scores.top5(), str(scores.facts.get("protocol", {}).get("name"))]
        for path, scores in zip(arguments.files, (first, second), strict=True)
    ]
    print(text_table(["", "top-1 %", "top-5 %", "protocol"], rows))
    low, high = found.interval
    print(f"difference {found.difference:+.2f} points of top-1, 95 % interval {low:+.2f} to {high:+.2f}")
    print(
        f"of {len(first)} videos, {found.only_first} are right in the first file only and {found.only_second} in the "
        f"second only; exact McNemar test p = {found.p:.3g}"
    )
    return {
        "difference": found.difference, "interval": list(found.interval), "only_first": found.only_first,
        "only_second": found.only_second, "p": found.p, "n": len(first),
    }  # fmt: skip


def fuse_files(arguments: argparse.Namespace) -> dict[str, Any]:
    parts = [Scores.load(path) for path in arguments.files]
    fused = fuse(parts, arguments.weights)
    if fused.labelled:
        rows = [[str(path), part.top1(), part.top5()] for path, part in zip(arguments.files, parts, strict=True)]
        print(text_table(["", "top-1 %", "top-5 %"], [*rows, ["fused", fused.top1(), fused.top5()]]))
    if arguments.output:
        fused.save(arguments.output)
        print(f"written: {arguments.output}")
    return measure(fused) | fused.facts


def submit(arguments: argparse.Namespace) -> dict[str, Any]:
    scores = Scores.load(arguments.files[0])
    write_submission(scores, arguments.output)
    print(f"written: {arguments.output}, {len(scores)} videos")
    return {"n": len(scores)}


def mean(arguments: argparse.Namespace) -> dict[str, Any]:
    result = mean_of_splits(arguments.files)
    print(f"{result['dataset']}, {result['protocol']['name']}")
    keys = ("split", "top1", "top5", "n", "manifest", "checkpoint")
    rows = [[row[key] for key in keys] for row in result["splits"]]
    rows.append(["mean", result["top1"], result["top5"], None, "", ""])
    print(text_table(["split", "top-1 %", "top-5 %", "videos", "manifest", "checkpoint"], rows))
    return result
