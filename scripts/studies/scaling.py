"""Compute the GPUs, loader cores, disk space and days of a training from measured rates: docs/scaling.md.

Prints the table; writes only the table in --document.

    python scripts/studies/scaling.py                                          the table of docs/scaling.md
    python scripts/studies/scaling.py --document docs/scaling.md               update the table in the document
    python scripts/studies/scaling.py kinetics400x1000 --gpus 64 512 --operator sth --arch resnet101
    python scripts/studies/scaling.py --videos 2000000 --megabytes 1.5 --frames 250 --epochs 30 --gpus 8
    python scripts/studies/scaling.py kinetics400 --loader-json runs/loader.json --model-json runs/model.json

A factor after a data set's name, as in kinetics400x1000, multiplies its videos. The speed of a GPU is taken from
--gpu-clips-per-s; or from `vsn-tools bench model tsm/tsn --mode train --device cuda` (--model-json); or from
scripts/gpu_report.py (--gpu-json; default docs/results/gpu.json if it exists). Otherwise it is computed from the
network's MACs and an assumed rate, --tflops, and compared with published rates.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scripts.studies.needs import (
    Published,
    ReadingRates,
    VideoSet,
    check_positive,
    clips_per_gpu,
    need,
    need_table,
    published_table,
)
from vsn_train.analysis.complexity import complexity, total
from vsn_train.atomic import write_atomic
from vsn_train.errors import InputError
from vsn_train.models.backbone import ARCHS, OPERATORS

# Training and validation videos of the official lists; megabytes and frames per video. Something-Something V2: official
# size divided by its 220,847 videos, and frames of one original; Kinetics-400: means of four files of 340 x 256.
SETS = {
    each.name: each
    for each in (
        VideoSet("something_v2", 168_913, 24_777, megabytes=0.0878, frames=49, views=2),
        VideoSet("kinetics400", 246_534, 19_906, megabytes=0.853, frames=304, views=100),
    )
}
# By `vsn-tools bench loader` on one core of an AMD EPYC, 2026-11-23, at 8 frames; see docs/scaling.md.
RATES = {
    "something_v2": ReadingRates(clips=22.2, copied_clips=75.1, test_videos=12.3, copies_made=3.39, growth=4.64),
    "kinetics400": ReadingRates(clips=6.9, copied_clips=92.7, test_videos=6.9, copies_made=0.85, growth=2.31),
}
GPU_JSON = Path(__file__).resolve().parents[2] / "docs" / "results" / "gpu.json"
# Published training speeds of ResNet-50: TSM with 8 frames, seconds per step of 64 clips on 8 GPUs; images per second
# of one GPU, of which a clip of 8 frames takes 8.
PUBLISHED = (
    Published("TSM, 8 frames, mmaction2: 8 V100, 0.30 s a step of 64 clips", 64 / 0.30 / 8),
    Published("TSM, 8 frames, the TSM repository: 8 V100, 0.38 s a step of 64 clips", 64 / 0.38 / 8),
    Published("ResNet-50 on images, AMP: one A100, 2,470 images/s, a ceiling", 2470 / 8),
)
BLOCK = "<!-- scripts/studies/scaling.py {} -->"  # markers around the block of --document; {}: begins, ends
DEFAULT = [("something_v2", 8), ("kinetics400", 8), ("kinetics400x1000", 512)]
# Marks an operator timed in reference form; "textbook" in older files.
OTHER_FORM = re.compile(r"\b(reference|textbook)\b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET[xN]", help=f"{', '.join(SETS)}, with N times the videos")
    parser.add_argument("--videos", type=int, help="training videos of your own set; loads at Kinetics-400's rates")
    parser.add_argument("--megabytes", type=float, help="mean size of your videos")
    parser.add_argument("--frames", type=float, help="mean number of frames of your videos")
    parser.add_argument("--epochs", type=int, help="default: 50, as in the published recipes")
    parser.add_argument("--gpus", type=int, nargs="+", help="numbers of GPUs, one column each; default 8")
    parser.add_argument(
        "--share", type=float, default=0.9, help="assumed scaling efficiency of several GPUs; default 0.9"
    )
    parser.add_argument("--operator", choices=tuple(OPERATORS), default="tsm", help="default tsm")
    parser.add_argument("--arch", choices=ARCHS, default="resnet50", help="default resnet50")
    parser.add_argument("--num-frames", type=int, default=8, help="frames per clip; default 8")
    parser.add_argument("--tflops", type=float, help="assumed sustained TFLOP/s of a GPU in training; default 40")
    parser.add_argument("--gpu-clips-per-s", type=float, help="training clips per second of one GPU")
    parser.add_argument(
        "--model-json", type=Path, help="JSON of vsn-tools bench model --mode train on your GPU, for this network"
    )
    parser.add_argument(
        "--gpu-json", type=Path, default=GPU_JSON, help="JSON of scripts/gpu_report.py; default: docs/results/gpu.json"
    )
    parser.add_argument("--document", type=Path, help="Markdown file whose block between two markers is replaced")
    parser.add_argument("--loader-json", type=Path, help="JSON of vsn-tools bench loader on your files, for all sets")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except InputError as error:
        print(f"scaling: {error}", file=sys.stderr)
        sys.exit(2)


def run(arguments: argparse.Namespace) -> None:
    numbers = ("videos", "megabytes", "frames", "epochs", "share", "tflops", "gpu_clips_per_s", "num_frames")
    check_positive(**{key: getattr(arguments, key) for key in numbers})
    for gpus in arguments.gpus or ():
        check_positive(gpus=gpus)
    if arguments.share > 1:
        raise InputError(f"--share {arguments.share}: expected at most 1, the summed speed of the GPUs")
    chosen = [(name, gpus) for name in arguments.sets for gpus in arguments.gpus or [8]]
    if not arguments.sets and arguments.videos is None:
        chosen = [(name, gpus) for name, usual in DEFAULT for gpus in arguments.gpus or [usual]]
    columns = [(*set_and_rates(name), gpus) for name, gpus in chosen]
    if arguments.videos is not None:
        columns += [(own_set(arguments), RATES["kinetics400"], gpus) for gpus in arguments.gpus or [8]]

    rate, source, published = gpu_rate(arguments)
    read = "as measured on one core of an AMD EPYC, 2026-11-23"
    if arguments.loader_json:
        measured = rates_of_loader_json(arguments.loader_json)
        columns = [(videos, measured, gpus) for videos, _, gpus in columns]
        read = f"as measured in {arguments.loader_json}"
    elif arguments.num_frames != 8:
        read += ", with 8 frames per clip; give --loader-json for another number"

    rows = []
    for videos, rates, gpus in columns:
        if arguments.epochs:
            videos = replace(videos, epochs=arguments.epochs)
        rows.append((videos, gpus, rate, need(videos, rates, rate, gpus, arguments.share, arguments.num_frames)))
    text = (
        f"{arguments.operator}, {arguments.arch}, {arguments.num_frames} frames of 224 x 224\n"
        f"- a GPU: {rate:.0f} training clips/s, {source}\n"
        f"- several GPUs: {arguments.share:g} of their summed speed, assumed\n"
        f"- reading: {read}\n\n{need_table(rows)}"
    )
    if published:
        text += "\n\nThe assumption beside published rates:\n\n" + published_table(PUBLISHED, rate)
    print(text)
    if arguments.document:
        replace_block(arguments.document, text)


def gpu_rate(arguments: argparse.Namespace) -> tuple[float, str, bool]:
    """Training clips per second of one GPU, the source of the figure, and whether to compare it with published ones."""
    network = arguments.operator, arguments.arch, arguments.num_frames
    if arguments.gpu_clips_per_s:
        return arguments.gpu_clips_per_s, "as given by --gpu-clips-per-s", False
    if arguments.model_json:
        return clips_of_model_json(arguments.model_json, *network), f"as measured in {arguments.model_json}", False
    macs = macs_of(*network)
    if arguments.tflops is None and (arguments.gpu_json != GPU_JSON or arguments.gpu_json.exists()):
        found = clips_of_gpu_json(arguments.gpu_json)
        name = "docs/results/gpu.json" if arguments.gpu_json == GPU_JSON else str(arguments.gpu_json)
        if network in found:
            return found[network], f"as measured by scripts/gpu_report.py ({name})", False
        # Scale from a measured network by MACs.
        like = ("tsm", "resnet50", 8) if ("tsm", "resnet50", 8) in found else next(iter(found))
        rate = found[like] * macs_of(*like) / macs
        return rate, f"computed from {' '.join(map(str, like))} frames ({name}) by the multiplications", False
    tflops = arguments.tflops or 40.0
    source = f"assumed: {macs / 1e9:.1f} GMACs a clip, forward and backward three times that, at a sustained "
    source += f"{tflops:g} TFLOP/s (no GPU was measured)"
    return clips_per_gpu(macs, tflops), source, network[1:] == ("resnet50", 8)


def macs_of(operator: str, arch: str, num_frames: int) -> float:
    """MACs of one clip's forward pass, with the number of classes of Kinetics-400."""
    return float(total(complexity(operator, arch, num_frames, 400))[1])


def replace_block(path: Path, text: str) -> None:
    """Replace the block between the two markers of a file. Raises InputError if the file or a marker is missing."""
    begin, end = BLOCK.format("begins"), BLOCK.format("ends")
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--document {path}: {error}") from None
    before, first, rest = content.partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise InputError(f"--document {path}: expected the lines {begin} and {end}")
    write_atomic(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")


def set_and_rates(text: str) -> tuple[VideoSet, ReadingRates]:
    """ "kinetics400x1000" -> Kinetics-400 with 1000 times the videos, and its reading rates."""
    found = re.fullmatch(r"(.+?)(?:x(\d+))?", text)
    name, factor = (found[1], int(found[2] or 1)) if found else (text, 1)
    if name not in SETS or not factor:
        raise InputError(f"{text}: expected one of {', '.join(SETS)}, or such as kinetics400x1000; or give --videos")
    return (SETS[name].times(factor) if factor > 1 else SETS[name]), RATES[name]


def own_set(arguments: argparse.Namespace) -> VideoSet:
    """The user's own set, with the same share of validation videos as Kinetics-400."""
    if arguments.megabytes is None or arguments.frames is None:
        raise InputError("--videos: give --megabytes and --frames per video too")
    like = SETS["kinetics400"]
    val_videos = round(arguments.videos * like.val_videos / like.train_videos)
    return replace(
        like, name="yours", train_videos=arguments.videos, val_videos=val_videos, megabytes=arguments.megabytes,
        frames=arguments.frames,
    )  # fmt: skip


def clips_of_model_json(path: Path, operator: str, arch: str, num_frames: int) -> float:
    """Training clips per second of the network's fastest setting and batch."""
    speeds = [
        row["work"]["batch"] / float(np.median(row["seconds"]))
        for row in results_of(path, "vsn-tools bench model")
        if row["mode"] == "train" and row["model"].split(":")[0] == operator and not OTHER_FORM.search(row["model"])
        and (row["work"]["arch"], row["work"]["num_frames"]) == (arch, num_frames)
    ]  # fmt: skip
    if not speeds:
        raise InputError(f"{path}: has no training step of {operator} on {arch} with {num_frames} frames")
    return max(speeds)


def clips_of_gpu_json(path: Path) -> dict[tuple[str, str, int], float]:
    """(operator, arch, frames) -> training clips per second on a GPU in bf16, not compiled.

    path: JSON of scripts/gpu_report.py. Raises InputError for another file, and for one without such a training step.
    """
    found: dict[tuple[str, str, int], float] = {}
    for row in results_of(path, "scripts/gpu_report.py"):
        if row["mode"] != "train" or row["work"]["device"] != "cuda":
            continue
        if row["setting"]["compiled"] or row["setting"]["precision"] != "bf16":
            continue
        operator, _, options = row["model"].partition(":")
        if operator in OPERATORS and not OTHER_FORM.search(row["model"]) and options in ("", "integration=attention"):
            key = operator, row["work"]["arch"], row["work"]["num_frames"]
            found.setdefault(key, row["work"]["batch"] / float(np.median(row["seconds"])))
    if not found:
        raise InputError(f"{path}: has no training step on a GPU; scripts/gpu_report.py writes such a file")
    return found


def rates_of_loader_json(path: Path) -> ReadingRates:
    """Rates over all videos in the file. Needs training from copies; of the protocols it uses the slowest."""
    rows = results_of(path, "vsn-tools bench loader")

    def per_second(mode: str, pipeline: str) -> float:
        found = [row for row in rows if (row["mode"], row.get("pipeline")) == (mode, pipeline)]
        if not found:
            raise InputError(
                f"{path}: no {mode!r} of {pipeline!r}; measure with --mode train and a protocol, and copies"
            )
        return sum(row["files"] for row in found) / sum(float(np.median(row["seconds"])) for row in found)

    tests = [row for row in rows if row.get("pipeline") == "ours" and row["mode"] != "train"]
    slowest = max(
        tests, key=lambda row: float(np.median(row["seconds"])) / row["files"], default={"mode": "a protocol"}
    )
    copied = [row for row in rows if (row["mode"], row.get("pipeline")) == ("train", "ours, copies")]
    rates = per_second("train", "ours"), per_second("train", "ours, copies"), per_second(slowest["mode"], "ours")
    files, seconds = (sum(row[key] for row in copied) for key in ("files", "copying_seconds"))
    growth = sum(row["files"] * row["growth"] for row in copied) / files
    return ReadingRates(*rates, files / seconds, growth)


def results_of(path: Path, program: str) -> list[dict[str, Any]]:
    try:
        results: list[dict[str, Any]] = json.loads(path.read_text())["results"]
        return [row for row in results if row["mode"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of {program} ({error!r})") from None


if __name__ == "__main__":
    main()
