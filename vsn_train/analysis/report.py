"""report.html: the report of an evaluation, one file that opens offline.

The page with its style and script is report.html in this folder; this module fills in the data.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.analysis.scores import Scores
from vsn_train.atomic import write_atomic

PAIRS, SHOWN = 15, 12  # rows of the table of confused classes; mistakes shown with frames


def write_report(
    path: Path,
    scores: Scores,
    frames_of: Callable[[int], list[bytes]],
    details: Mapping[str, str | dict[str, Any]],
) -> None:
    """Write the report. frames_of: index of a video -> JPEG files, called for the mistakes that are shown. details:
    title -> text or plain types, for the end of the page."""
    facts = scores.facts
    data = {
        "title": f"{facts.get('dataset')}, {facts.get('split')} split",
        "labelled": scores.labelled,
        "bad": facts.get("bad_videos", []),
        "details": [
            (title, text if isinstance(text, str) else json.dumps(text, indent=2))
            for title, text in {**details, "facts in scores.npz": facts}.items()
        ],
    }
    data |= _labelled(scores, frames_of) if scores.labelled else _unlabelled(scores)
    page = (Path(__file__).with_suffix(".html")).read_text(encoding="utf-8")
    # Escape "<": "</script>" in a name would end the data.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = page.replace("vsn-eval report</title>", f"{html.escape(data['title'])}: vsn-eval report</title>")
    write_atomic(path, page.replace("@DATA@", text))


def _labelled(scores: Scores, frames_of: Callable[[int], list[bytes]]) -> dict[str, Any]:
    predicted, sure, own = scores.predictions(), scores.confidence(), scores.probability_of_label()
    readable = np.flatnonzero(scores.readable)
    wrong = readable[predicted[readable] != scores.labels[readable]]
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    counts, accuracies = scores.class_counts(), scores.per_class()
    cells = np.stack(scores.confused(), axis=1).tolist()
    taken = [(i, j, videos, int(counts[i])) for i, j, videos in cells if i != j]
    top1, top5 = scores.interval("top1"), scores.interval("top5")
    mean_class = scores.interval("mean_class")
    edges, in_bin, confidence, accuracy = scores.reliability()
    return {
        "headline": [
            f"{scores.top1():.2f} %",
            "top-1",
            f"95 % confidence interval {top1.low:.2f} to {top1.high:.2f} (Wilson); {_over(scores)}",
        ],
        "tiles": [
            ["top-5", f"{scores.top5():.2f} %", f"{top5.low:.2f} to {top5.high:.2f}"],
            ["mean of classes", f"{scores.mean_class():.2f} %", f"{mean_class.low:.2f} to {mean_class.high:.2f}"],
            ["calibration error", f"{scores.calibration_error():.2f} %", "expected, 15 bins"],
            ["cross entropy", f"{scores.loss():.3f}", "mean over videos"],
            ["checkpoint", str(scores.facts.get("checkpoint")), f"epoch {scores.facts.get('epoch')}"],
            ["manifest", str(scores.facts.get("manifest")), f"{len(scores)} videos"],
        ],
        "classes": [
            {"name": str(name), "index": index, "count": int(counts[index]), "value": _plain(accuracies[index])}
            for index, name in enumerate(scores.class_names)
        ],
        "cells": cells,
        "pairs": sorted(taken, key=lambda row: (-row[2], row))[:PAIRS],
        "mistakes": [
            [str(scores.ids[i]), int(scores.labels[i]), int(predicted[i]), round(float(sure[i]), 4)] for i in wrong
        ],
        "shown": [
            {
                "id": str(scores.ids[i]),
                "label": int(scores.labels[i]),
                "said": int(predicted[i]),
                "sure": float(sure[i]),
                "own": float(own[i]),
                "frames": [f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" for jpeg in frames_of(int(i))],
            }
            for i in wrong[:SHOWN]
        ],
        "views": scores.over_views() if scores.views is not None and scores.views.shape[1] > 1 else None,
        "reliability": [
            [float(edges[i]), float(edges[i + 1]), int(in_bin[i]), _plain(confidence[i]), _plain(accuracy[i])]
            for i in range(len(in_bin))
        ],
    }


def _unlabelled(scores: Scores) -> dict[str, Any]:
    counts = np.bincount(scores.predictions()[scores.readable], minlength=len(scores.class_names))
    return {
        "headline": [f"{len(scores)}", "videos without labels", f"no accuracy; {_over(scores)}"],
        "tiles": [
            ["checkpoint", str(scores.facts.get("checkpoint")), f"epoch {scores.facts.get('epoch')}"],
            ["manifest", str(scores.facts.get("manifest")), "submission.csv is for the server"],
        ],
        "classes": [
            {"name": str(name), "index": index, "count": 0, "value": int(counts[index])}
            for index, name in enumerate(scores.class_names)
        ],
    }


def _over(scores: Scores) -> str:
    protocol = scores.facts.get("protocol", {})
    views = protocol.get("clips", 1) * protocol.get("crops", 1)
    return f"protocol {protocol.get('name')}, {views} view{'s' if views > 1 else ''} a video, n = {len(scores)}"


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
