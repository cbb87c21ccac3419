"""The results of a comparison of operators on several data sets, as a table and as a figure.

Operators are written with their options: "sth:p=0.5,integration=sum".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window system needed
import matplotlib.pyplot as plt
import numpy as np

from vsn_train.analysis.tables import markdown_table
from vsn_train.errors import InputError
from vsn_train.models.backbone import OPERATORS, parse_option

# Best possible top-1 without the order of the frames, in percent: one half in each pair of classes.
WITHOUT_ORDER = {"motion": 50.0, "motion_order": 50.0}
# Colour-blind safe colours, and distinct markers.
STYLES = {
    "tsn": ("#555555", "s"),
    "tsm": ("#0072B2", "o"),
    "vsn_compact": ("#D55E00", "D"),
    "vsn_headtail": ("#E69F00", "v"),
    "sth": ("#009E73", "^"),
}


@dataclass(frozen=True)
class Result:
    """A finished run. top1, top5: percent, of the weights after the last epoch, on n validation videos."""

    dataset: str
    operator: str
    seed: int
    top1: float
    top5: float
    n: int
    classes: int
    epochs: int
    protocol: str
    manifest: str
    arch: str
    num_frames: int
    size: int  # pixels, height = width of a crop
    batch_size: int
    train_videos: int
    seconds: float


@dataclass(frozen=True)
class Costs:
    """parameters, macs: of one clip. forward, train: clips per second."""

    parameters: int
    macs: int
    forward: float
    train: float


def canonical(text: str) -> str:
    """The operator's name with the options that differ from their defaults, in a fixed order.

    Raises InputError for an unknown operator or option.
    """
    operator, _, rest = text.partition(":")
    if operator not in OPERATORS:
        raise InputError(f"operator {operator!r}: expected one of {', '.join(OPERATORS)}")
    options = dict(parse_option(option) for option in rest.split(",") if option)
    known = OPERATORS[operator]
    if unknown := set(options) - set(known):
        raise InputError(
            f"{operator} has no option {', '.join(sorted(unknown))}; its options: {', '.join(known) or 'none'}"
        )
    chosen = ",".join(f"{key}={options[key]}" for key in known if key in options and options[key] != known[key])
    return f"{operator}:{chosen}" if chosen else operator


def options_of(operator: str) -> dict[str, Any]:
    """All options of a canonical operator, with their values."""
    name, _, rest = operator.partition(":")
    return OPERATORS[name] | dict(parse_option(option) for option in rest.split(",") if option)


def title_of(operator: str) -> str:
    """The operator's name in tables and figures."""
    name, _, rest = operator.partition(":")
    options = options_of(operator)
    if name == "sth":
        return f"STH {options['variant']} {options['integration']} p={Fraction(options['p']).limit_denominator(64)}"
    if name.startswith("vsn"):
        words = [f"VSN {name.removeprefix('vsn_')}", "+ TSM" if options["standard_block"] == "tsm" else "alone"]
        words += ["in all blocks"] if options["where"] == "all" else []
        return " ".join(words)
    return f"{name.upper()} {rest.replace(',', ' ')}".strip()


def accuracies(results: Sequence[Result]) -> dict[str, dict[str, dict[int, float]]]:
    """data set -> operator -> seed -> top-1 percent, all in the order of `results`."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for each in results:
        found.setdefault(each.dataset, {}).setdefault(each.operator, {})[each.seed] = each.top1
    return found


def comparison_tables(results: Sequence[Result], costs: Mapping[tuple[str, str], Costs]) -> str:
    """Markdown: the common recipe of the runs of each data set, and a table with one row per operator.

    costs: (data set, operator) -> its costs there.
    """
    parts = []
    for dataset, operators in accuracies(results).items():
        runs = [each for each in results if each.dataset == dataset]
        parts.append(f"## {dataset}\n\n{recipe(runs)}\n\n{_table(dataset, operators, costs)}")
    return "\n\n".join(parts)


def recipe(runs: Sequence[Result]) -> str:
    """A description of the common recipe of a data set's runs. Raises InputError if it differs between them."""
    for key in (
        "classes",
        "epochs",
        "train_videos",
        "batch_size",
        "arch",
        "num_frames",
        "size",
        "manifest",
        "protocol",
    ):
        values = {getattr(each, key) for each in runs}
        if len(values) > 1:
            raise InputError(
                f"{runs[0].dataset}: runs with {key} {', '.join(map(str, sorted(values)))} cannot be compared; "
                "remove the older ones or choose another --runs"
            )
    run = runs[0]
    text = (
        f"{run.arch}, {run.num_frames} frames of {run.size} x {run.size} pixels, epochs: {run.epochs}, training clips: "
        f"{run.train_videos}, in batches of {run.batch_size}; {run.n} validation clips of {run.classes} classes, "
        f"`{run.protocol}`, manifest {run.manifest}. Chance is {100 / run.classes:.1f} %"
    )
    if run.dataset in WITHOUT_ORDER:
        text += f"; without the order of the frames no more than {WITHOUT_ORDER[run.dataset]:g} % can be expected"
    return f"{text}."


def _table(dataset: str, operators: Mapping[str, Mapping[int, float]], costs: Mapping[tuple[str, str], Costs]) -> str:
    seeds = sorted({seed for found in operators.values() for seed in found})
    header = ["operator", "mean top-1 %", "± s.d.", *(f"seed {seed}" for seed in seeds)]
    header += ["parameters M", "MMACs", "clips/s forward", "clips/s training"]
    rows = []
    for operator, found in operators.items():
        values = np.array(list(found.values()))
        row = [title_of(operator), f"{values.mean():.1f}", f"{values.std(ddof=1):.1f}" if len(values) > 1 else "-"]
        row += [f"{found[seed]:.1f}" if seed in found else "-" for seed in seeds]
        if cost := costs.get((dataset, operator)):
            row += [
                f"{cost.parameters / 1e6:.2f}",
                f"{cost.macs / 1e6:.0f}",
                f"{cost.forward:.0f}",
                f"{cost.train:.0f}",
            ]
        else:
            row += ["-"] * 4
        rows.append(row)
    return markdown_table(header, rows)


def draw_comparison(results: Sequence[Result], costs: Mapping[tuple[str, str], Costs], output: Path, note: str) -> None:
    """Draw a PNG: one row per operator; a panel of accuracies for each data set, and one of the speed.

    note: a line below the figure.
    """
    found = accuracies(results)
    operators = list(dict.fromkeys(each.operator for each in results))
    rows = rows_of(operators)
    figure, axes = plt.subplots(
        1, len(found) + 1, sharey=True, figsize=(3.4 + 3.1 * (len(found) + 1), 1.6 + 0.42 * len(operators)),
        layout="constrained",
    )  # fmt: skip
    for axis, (dataset, values) in zip(axes, found.items(), strict=False):
        runs = next(each for each in results if each.dataset == dataset)
        _draw_accuracies(axis, dataset, values, rows, runs.classes)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8)
    first = next(iter(found))
    speeds = {operator: costs[first, operator].forward for operator in operators if (first, operator) in costs}
    for operator, speed in speeds.items():
        axes[-1].barh(rows[operator], speed, height=0.62, color=STYLES[operator.partition(":")[0]][0])
        axes[-1].text(
            1.02, rows[operator], f"{speed:.0f}", transform=axes[-1].get_yaxis_transform(), va="center", size=9
        )
    axes[-1].set(title="Speed", xlabel="clips/s, forward")
    finish_drawing(figure, axes, rows, output, note)


def rows_of(operators: Sequence[str]) -> dict[str, int]:
    """operator -> its position on the vertical axis, the first on top."""
    return {operator: len(operators) - 1 - number for number, operator in enumerate(operators)}


def draw_spread(axis: plt.Axes, operator: str, values: Sequence[float], row: float, hollow: bool = False) -> None:
    """Draw values in percent as ticks, and their mean as the operator's marker and as a number at the right."""
    colour, marker = STYLES[operator.partition(":")[0]]
    mean = float(np.mean(values))
    axis.plot([min(values), max(values)], [row, row], color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
    axis.plot(values, [row] * len(values), "|", color=colour, markersize=9)
    axis.plot(mean, row, marker, color=colour, markersize=8, markerfacecolor="white" if hollow else colour)
    axis.text(1.02, row, f"{mean:.1f}", transform=axis.get_yaxis_transform(), va="center", size=9)


def finish_drawing(
    figure: plt.Figure, axes: Sequence[plt.Axes], rows: Mapping[str, int], output: Path, note: str
) -> None:
    """Label the rows and write the PNG. note: a line below the figure."""
    axes[0].set_yticks(list(rows.values()), [title_of(operator) for operator in rows])
    axes[0].set_ylim(-0.6, len(rows) - 0.4)
    for axis in axes:
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    figure.supxlabel(note, size=8, color="#444444")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130, facecolor="white")
    plt.close(figure)


def _draw_accuracies(
    axis: plt.Axes, dataset: str, values: Mapping[str, Mapping[int, float]], rows: Mapping[str, int], classes: int
) -> None:
    for operator, found in values.items():
        draw_spread(axis, operator, list(found.values()), rows[operator])
    axis.axvline(100 / classes, color="black", linewidth=1, linestyle=":", label="chance")
    if dataset in WITHOUT_ORDER:
        axis.axvline(
            WITHOUT_ORDER[dataset], color="black", linewidth=1, linestyle="--", label="limit without frame order"
        )
    axis.set(title=dataset, xlabel="validation top-1 (%)", xlim=(0, 102))
