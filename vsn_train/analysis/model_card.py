"""The README.md of an exported model folder: the model card with accuracies and how to load the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsn_train.analysis.tables import markdown_table


def evaluations_of(folder: Path, checkpoint: str) -> list[dict[str, Any]]:
    """The metrics.json of every evaluation of this checkpoint in a folder, only those with labels.

    folder: eval/<checkpoint stem>/ of a run. checkpoint: hash.
    """
    found = []
    for path in sorted(folder.glob("*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # truncated
            continue
        if isinstance(metrics, dict) and metrics.get("checkpoint") == checkpoint and "top1" in metrics:
            found.append(metrics)
    return found


def model_card(facts: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The model card as Markdown, with the YAML header that model hubs read.

    facts: see `TrainedModel.facts`. evaluations: see `evaluations_of`.
    """
    network = f"{facts['operator']} on {facts['arch']}, {facts['num_frames']} frames"
    tags = ["video-classification", "action-recognition", facts["operator"], facts["arch"]]
    head = {"library_name": "vsn-train", "pipeline_tag": "video-classification", "tags": tags}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {network}, trained on {facts['dataset']}", ""]
    lines += [
        f"A video-recognition network of {len(facts['class_names'])} classes, trained with vsn-train "
        f"{facts['version']}, epoch {facts['epoch']}{', averaged weights' if facts['averaged'] else ''}.",
        "",
        "## Accuracy",
        "",
    ]
    if evaluations:
        header = ["data set", "split", "protocol", "top-1 %", "95 % interval", "top-5 %", "videos", "manifest"]
        lines += [markdown_table(header, [_row(each) for each in evaluations]), ""]
        lines += [f"Evaluated with the checkpoint `{facts['checkpoint']}`, from which this folder was made.", ""]
    else:
        lines += [
            "No evaluation of this checkpoint was found when the folder was written. `vsn-eval checkpoint=FOLDER` "
            "computes its accuracy.",
            "",
        ]
    preprocessing = facts["preprocessing"]
    lines += [
        "## Use it",
        "",
        "```python",
        "from vsn_train import load_model",
        "",
        'trained = load_model("FOLDER")  # this folder',
        'print(trained.top("clip.mp4"))  # [(class name, probability), …]',
        "```",
        "",
        "On the command line: `vsn-predict checkpoint=FOLDER video=clip.mp4`, `vsn-eval checkpoint=FOLDER`; as the "
        "start of another training: `vsn-train weights=FOLDER`.",
        "",
        "## What it takes",
        "",
        f"- {preprocessing['num_frames']} frames of a video, {preprocessing['sampling']} sampling; protocol: clips "
        f"{facts['protocol']['clips']}, crops {facts['protocol']['crops']}, mean of the "
        f"{facts['protocol']['average']}",
        f"- {facts['modality']}; shorter side {preprocessing['short_side']} pixels, crop {preprocessing['crop_size']}",
    ]
    if facts["modality"] == "rgb":
        lines.append(f"- colours {preprocessing['colours']}, mean {preprocessing['mean']}, std {preprocessing['std']}")
    lines += ["", "## Where it comes from", "", f"- checkpoint `{facts['checkpoint']}`"]
    lines += [
        f"- manifest of the {split} split `{manifest}`"
        for split, manifest in zip(("training", "validation"), facts["manifests"], strict=False)
    ]
    return "\n".join([*lines, ""])


def _row(metrics: Mapping[str, Any]) -> list[str]:
    low, high = metrics["top1_interval"]
    protocol = metrics["protocol"]["name"]
    return [
        str(metrics["dataset"]), str(metrics["split"]), protocol, f"{metrics['top1']:.2f}", f"{low:.2f} to {high:.2f}",
        f"{metrics['top5']:.2f}", str(metrics["n"]), metrics["manifest"],
    ]  # fmt: skip
