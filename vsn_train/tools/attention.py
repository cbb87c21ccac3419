"""Measure how temporal the attention of an STH network is, layer by layer, on the validation clips of a data set.

    vsn-tools attention checkpoint=runs/sth/…/checkpoints/last.pt
    vsn-tools attention checkpoint=last.pt dataset.root=/data/sthv1 protocol=center_1clip
    vsn-tools attention checkpoint=[rgb.pt,flow.pt] label=[motion,motion] output=study/attention

checkpoint: one or several, trained with backbone=sth backbone.integration=attention. Checkpoints that differ only in
the seed are averaged. label: a name for the data of each checkpoint; default: the data set's name. To compare flow and
RGB of dataset=custom, give both the same label. output: path without suffix; default: `attention`. Writes OUTPUT.md,
OUTPUT.json and up to four figures, depending on the checkpoints: OUTPUT_layers.png, _p.png (several p), _data.png
(temporal and static data), _modality.png (RGB and flow). document: a Markdown file; the text between
<!-- findings --> and <!-- end of findings --> is replaced by the result for each of the paper's findings and the
figures.

All other keys are those of vsn-eval and apply to every checkpoint: dataset.root=…, protocol=…, split=…. Other values
are taken from each checkpoint. Exit code 0: done, 2: wrong input.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from vsn_train import config as schema
from vsn_train.analysis.attention import (
    Measured,
    WithShares,
    as_json,
    attention_layers,
    columns_to_measured,
    judgement,
    report,
)
from vsn_train.analysis.attention_figures import draw_figures
from vsn_train.analysis.scores import Scores
from vsn_train.analysis.tables import write_results
from vsn_train.atomic import write_atomic
from vsn_train.bench.timing import hardware
from vsn_train.data.loader import EvalVideos, eval_loader
from vsn_train.data.manifest import Manifest
from vsn_train.engine.checkpoint import OpenedCheckpoint, checkpoint_in, open_checkpoint
from vsn_train.engine.distributed import Process, join_processes
from vsn_train.engine.evaluate import Scoring, score_videos, video_groups
from vsn_train.engine.precision import autocast_for
from vsn_train.errors import InputError
from vsn_train.models import Recognizer
from vsn_train.run.data import check_flips
from vsn_train.run.network import build_model, load_trained
from vsn_train.run.own_split import tested_manifest
from vsn_train.run.record import computed
from vsn_train.tools.compose import eval_config
from vsn_train.typed_paths import hydra_words

OWN_KEYS = ("checkpoint", "label", "output", "document")
BEGIN, END = "<!-- findings -->", "<!-- end of findings -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="see above")


def run(arguments: argparse.Namespace) -> int:
    study(*split_arguments(arguments.overrides))
    return 0


def split_arguments(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Split the arguments into this command's own keys with their values, and the overrides for vsn-eval."""
    own: dict[str, list[str]] = {}
    rest = []
    for argument in arguments:
        key, separator, _ = argument.partition("=")
        if not separator or argument.startswith(("+", "-")):
            raise InputError(f"{argument}: expected key=value, such as checkpoint=runs/sth/checkpoints/last.pt")
        if key in OWN_KEYS:
            (word,) = hydra_words([argument], {"checkpoint", "output", "document"}, {"checkpoint"})
            value = OverridesParser.create().parse_override(word).value()
            own[key] = [str(each) for each in (value if isinstance(value, list) else [value])]
        else:
            rest.append(argument)
    return own, rest


def study(own: dict[str, list[str]], overrides: list[str]) -> None:
    """Measure every checkpoint, then write the results. Nothing is written if one of them cannot be measured."""
    paths = [Path(each).expanduser() for each in own.get("checkpoint", [])]
    if not paths:
        raise InputError("checkpoint is not given; add checkpoint=… or checkpoint=[…,…]")
    labels: list[str] | list[None] = own.get("label") or [None] * len(paths)
    if len(labels) != len(paths):
        raise InputError(f"{len(labels)} labels for {len(paths)} checkpoints; expected one each, in the same order")
    document = Path(own["document"][0]) if "document" in own else None
    if document:
        replace_findings(document, "")  # raises InputError early where the document lacks the markers
    output = Path(own.get("output", ["attention"])[0]).expanduser()
    runs: list[Measured] = []
    facts: dict[str, str] = {}
    for path, label in zip(paths, labels, strict=True):
        opened = open_checkpoint(checkpoint_in(path))
        config = eval_config(opened, overrides)
        with join_processes(config.runtime.device, config.runtime.threads) as process:
            facts = facts or hardware(process.device.type)  # before any work: it records the machine's load
            run = measure(config, opened, label, process)
        print(f"{path}: {run.data}: temporal share {100 * run.overall:.1f} % (n={run.facts['n']})")
        runs.append(run)
    text = report(runs)
    figures, absent = draw_figures(runs, output)
    links = "\n\n".join(f"![{path.stem}]({path.name})" for path in figures)
    write_results(output, "Temporal share of the attention of STH", facts, f"{text}\n\n{links}", as_json(runs))
    if document:
        folder = Path(os.path.relpath(output.parent, document.parent))
        links = "\n".join(f"![{path.stem}]({(folder / path.name).as_posix()})" for path in figures)
        write_atomic(document, replace_findings(document, f"{BEGIN}\n{judgement(runs)}\n\n{links}\n{END}"))
    print(judgement(runs))
    for line in absent:
        print(line)
    files = [output.with_suffix(".md"), output.with_suffix(".json"), *figures]
    print(f"written: {', '.join(map(str, files))}")
    if document:
        print(f"rewritten: {document}")


def measure(config: schema.Eval, opened: OpenedCheckpoint, label: str | None, process: Process) -> Measured:
    """The shares of one checkpoint over every view of every video of the split."""
    checkpoint = opened.checkpoint
    model = load_trained(config, opened, process).model
    try:
        layers = list(attention_layers(model))
    except InputError as error:
        trained = ", ".join(f"{key}={value}" for key, value in asdict(config.backbone).items())
        raise InputError(f"{config.checkpoint}: {error}; found {trained}") from error
    manifest = tested_manifest(config, opened, process)
    classes = len(checkpoint.class_names)
    same_classes = list(manifest.class_names) == checkpoint.class_names
    check_flips(config.protocol, manifest.flips_allowed, manifest.name, manifest.class_names)

    groups = video_groups(len(manifest), config.protocol.views, config.runtime.views_per_batch, process)
    autocast = autocast_for(config.runtime.precision, process.device)
    found = shares_of_videos(model, manifest, groups, config, process, autocast, f"attention {config.checkpoint}")
    rows = {index: row[0] for index, row in found.items() if isinstance(row, np.ndarray)}
    if not rows:
        raise InputError(f"{manifest.name}: none of the {len(manifest)} videos could be read")
    torch.manual_seed(checkpoint.config.get("seed", 0))
    fresh = build_model(config.backbone, classes, config.data.modality).to(process.device)
    fp32 = torch.autocast(process.device.type, enabled=False)
    first = shares_of_videos(fresh, manifest, groups[:1], config, process, fp32, "")
    untrained = np.stack([row[0] for row in first.values() if isinstance(row, np.ndarray)])
    trained = checkpoint.config["data"]
    facts = {
        "path": config.checkpoint,
        "seed": checkpoint.config.get("seed", 0),
        "epoch": checkpoint.epoch,
        "arch": config.backbone.arch,
        "variant": config.backbone.variant,
        "num_frames": config.backbone.num_frames,
        "dataset": manifest.name,
        "split": manifest.split,
        "n": len(rows),
        "bad_videos": len(manifest) - len(rows),
        "top1": top1(manifest, rows, classes) if same_classes and manifest.is_labelled else None,
        "protocol": {
            "name": config.protocol.name(trained["short_side"], trained["crop_size"]), **asdict(config.protocol)
        },
        "manifest": manifest.content_hash(),
        "checkpoint": opened.hash,
        "flow": flow_settings(manifest) if config.data.modality == "flow" else None,
        "computed": computed(config.runtime.precision, model, process),
    }  # fmt: skip
    return columns_to_measured(
        label or data_name(config, manifest), config.data.modality, config.backbone.p, layers,
        np.stack(list(rows.values()))[:, classes:], untrained[:, classes:], facts,
    )  # fmt: skip


def shares_of_videos(
    model: Recognizer,
    manifest: Manifest,
    groups: list[list[int]],
    config: schema.Eval,
    process: Process,
    autocast: torch.autocast,
    title: str,
) -> Any:
    """The output columns of `WithShares`, averaged over each video's views: index -> (1, K + 2 L).

    Uses the evaluation loop of vsn-eval: the shares are appended as extra columns, which a flip leaves unchanged.
    """
    protocol = config.protocol
    videos = EvalVideos(manifest, config.backbone.num_frames, protocol, config.data.decoder, config.data.modality)
    network = WithShares(model, protocol.average == "probabilities")
    classes = model.head.out_features
    columns = np.arange(classes + 2 * len(network.layers))
    if len(manifest.class_names) == classes:
        columns[:classes] = manifest.flipped_labels()
    workers = min(config.data.workers, len(groups))
    with closing(eval_loader(videos, groups, workers, config.data.timeout)) as loader:
        scoring = Scoring(
            replace(protocol, average="logits"), columns, config.runtime.views_per_batch, autocast,
            on_bad_video=config.on_bad_video,
        )  # fmt: skip
        return score_videos(network, loader, len(groups), process, lambda results: None, scoring, title)


def top1(manifest: Manifest, rows: dict[int, np.ndarray], classes: int) -> float:
    """Accuracy in percent; unreadable videos count as wrong."""
    scores = np.full((len(manifest), classes), np.nan, dtype=np.float32)
    for index, row in rows.items():
        scores[index] = row[:classes]
    ids = np.array([manifest.sample_id(index) for index in range(len(manifest))])
    return Scores(ids, manifest.labels, scores, np.array(manifest.class_names), {}).top1()


def data_name(config: schema.Eval, manifest: Manifest) -> str:
    """The name of the data; a custom data set is named after its folder."""
    return manifest.root.resolve().name if config.dataset.name == "custom" else manifest.name


def flow_settings(manifest: Manifest) -> dict[str, Any] | None:
    """The settings of `vsn-tools flow` for this data set; None where it did not compute the flow."""
    path = manifest.root / "flow.json"
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); it records how the flow was made: remove it") from error


def replace_findings(document: Path, text: str) -> str:
    """The document with `text` between its markers. Raises InputError where it has no markers."""
    if not document.is_file():
        raise InputError(f"document={document}: no such file; expected a Markdown file with the line {BEGIN}")
    try:
        before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    except UnicodeDecodeError as error:
        raise InputError(f"document={document}: not a UTF-8 text file ({error})") from error
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"document={document}: found no markers for the findings; expected a line {BEGIN} and, below, a line {END}"
        )
    return before + text + after
