"""Plot runs side by side: validation accuracy over the epochs, and each run's confusion matrix.

Writes the figure to --output, by default runs.png.

    python scripts/plot_runs.py runs/motion/tsm runs/motion/tsn --output result.png

A run's confusion matrix comes from its newest eval/*/*/scores.npz; run vsn-eval first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window system needed
import matplotlib.pyplot as plt
import numpy as np
import yaml
from matplotlib.ticker import MaxNLocator

from vsn_train.analysis.scores import Scores
from vsn_train.analysis.strip import literal_text
from vsn_train.errors import InputError

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # colour-blind safe
MARKERS = ["o", "s", "^", "D", "v", "P"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--output", type=Path, default=Path("runs.png"))
    arguments = parser.parse_args()
    try:
        with literal_text():
            plot_runs(arguments.runs, arguments.output)
    except InputError as error:
        print(f"plot_runs: {error}", file=sys.stderr)
        sys.exit(2)


def plot_runs(runs: list[Path], output: Path) -> None:
    """Draw one figure of all runs. Raises InputError for a folder that is no run or has no evaluation yet."""
    figure, axes = plt.subplots(
        1,
        1 + len(runs),
        figsize=(5.4 + 4.6 * len(runs), 4.6),
        width_ratios=[1.15] + [1] * len(runs),
        layout="constrained",
    )
    for number, run in enumerate(runs):
        label = describe_run(run)
        epochs, accuracies = validation_curve(run)
        axes[0].plot(epochs, accuracies, color=COLOURS[number % 6], marker=MARKERS[number % 6], label=label)
        draw_confusion(axes[1 + number], evaluated_scores(run), label)
    axes[0].set(xlabel="epoch", ylabel="validation top-1 (%)", ylim=(0, 102), title="Validation accuracy")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    figure.savefig(output, dpi=130, facecolor="white")
    print(f"written: {output}")


def describe_run(run: Path) -> str:
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: found no config.yaml; expected a run folder of vsn-train")
    backbone = yaml.safe_load(path.read_text())["backbone"]
    return f"{backbone['operator'].upper()} {backbone['arch']}"


def validation_curve(run: Path) -> tuple[list[int], list[float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    val = [line for line in lines if line["split"] == "val"]
    return [line["epoch"] for line in val], [line["top1"] for line in val]


def evaluated_scores(run: Path) -> Scores:
    found = sorted(run.glob("eval/*/*/scores.npz"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(
            f"{run}: found no eval/*/*/scores.npz; run vsn-eval checkpoint={run}/checkpoints/best.pt first"
        )
    return Scores.load(found[-1])


def draw_confusion(axis: plt.Axes, scores: Scores, label: str) -> None:
    counts = scores.confusion()
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 10):
        value = shares[row, column]
        axis.text(
            column, row, f"{value:.0f}", ha="center", va="center", size=7, color="white" if value > 55 else "black"
        )
    axis.set_xticks(range(len(counts)), scores.class_names, rotation=90, size=8)
    axis.set_yticks(range(len(counts)), scores.class_names, size=8)
    axis.set(
        title=f"{label}: {scores.top1():.1f} % of n={len(scores)}", xlabel="predicted", ylabel="class (values in %)"
    )


if __name__ == "__main__":
    main()
