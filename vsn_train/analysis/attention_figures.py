"""The four figures of the attention study, each compared with the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vsn_train.analysis.attention import (
    PAPER_BLOCKS,
    PAPER_BY_P,
    PAPER_LAYERS,
    PAPER_STAGES,
    STAGES,
    STATIC_DATA,
    TEMPORAL_DATA,
    Measured,
    by_stage,
    describe,
    group,
)
from vsn_train.analysis.strip import literal_text, shown_name
from vsn_train.atomic import atomic_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe, Ito: colour-blind safe
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx")
# Name of a bar or line -> in each column, the values over the seeds, in percent; None: nothing to draw.
Bars = Mapping[str, Sequence[Sequence[float] | None]]


def draw_figures(runs: Sequence[Measured], output: Path) -> tuple[list[Path], list[str]]:
    """Write <output>_layers.png, _p.png, _data.png and _modality.png, each if the runs for it are given.

    Returns the files, and a line for every figure that lacks runs; its file from an earlier call is removed.
    """
    groups = group(runs)
    figures = {
        "layers": lambda: layers_figure(runs),
        "p": lambda: p_figure(runs),
        "data": lambda: data_figure(runs),
        "modality": lambda: modality_figure(runs),
    }
    needed = {
        "layers": True,
        "p": len({(data, modality) for data, modality, _ in groups}) < len(groups),
        "data": any(_alike(groups, key, TEMPORAL_DATA, STATIC_DATA) for key in groups),
        "modality": any((data, "flow", p) in groups and (data, "rgb", p) in groups for data, _, p in groups),
    }
    wanted = {
        "p": "checkpoints that differ in p, on the same data and modality",
        "data": "a checkpoint on temporal data and one on static data, of the same p and modality "
        f"(temporal: {', '.join(TEMPORAL_DATA)}; static: {', '.join(STATIC_DATA)}; label= sets the name of others)",
        "modality": "an RGB and a flow checkpoint of the same p on data of the same name (set with label=)",
    }
    written, absent = [], []
    for name, draw in figures.items():
        path = output.with_name(f"{output.name}_{name}.png")
        if needed[name]:
            path.parent.mkdir(parents=True, exist_ok=True)
            with literal_text(), atomic_path(path) as drawn:
                draw().savefig(drawn, dpi=130, facecolor="white", format="png")
            written.append(path)
        else:
            path.unlink(missing_ok=True)
            absent.append(f"{path.name} is not drawn: it needs {wanted[name]}")
    return written, absent


def _alike(
    groups: Mapping[tuple[str, str, float], object],
    key: tuple[str, str, float],
    temporal: Sequence[str],
    static: Sequence[str],
) -> bool:
    """Whether there is a group of static data with the same modality and p as this group of temporal data."""
    data, modality, p = key
    return data in temporal and any((other, modality, p) in groups for other in static)


# ---- The four --------------------------------------------------------------------------------------------------------


def layers_figure(runs: Sequence[Measured]) -> Figure:
    """Share per layer (the paper's figure 5). Ours has its own scale, on which its lines can be told apart."""
    figure, (ours, paper) = _figure(sharey=False)
    groups, first = group(runs), runs[0]
    stages = [name.partition(".")[0] for name in first.layers]
    lines = {
        describe(key): [[100 * run.shares[number] for run in each] for number in range(len(first.layers))]
        for key, each in groups.items()
    }
    _draw_lines(ours, lines, first=0)
    sizes = [stages.count(stage) for stage in STAGES if stage in stages]
    _mark_stages(ours, sizes, [STAGES[stage] for stage in STAGES if stage in stages])
    _untrained(ours, runs)
    _draw_lines(paper, {name: [[value] for value in values] for name, values in PAPER_LAYERS.items()}, first=5)
    _mark_stages(paper, PAPER_BLOCKS, list(STAGES.values()))
    _half(paper)
    # Room for the names of the stages, and a scale wide enough that noise does not look like a finding.
    low, high = (
        int(pick(value for each in lines.values() for values in each for value in values)) for pick in (min, max)
    )
    _finish(
        figure, (ours, paper), "Temporal share of each layer (the scales differ)", first, "layer",
        "paper: ResNet-50, RGB, p=1/4",
    )  # fmt: skip
    ours.set_ylim(max(0, min(low - 2, 40)), min(100, max(high + 4, 61)))
    paper.set_ylim(0, 90)
    return figure


def p_figure(runs: Sequence[Measured]) -> Figure:
    """Share by p (the paper's figure 6)."""
    figure, (ours, paper) = _figure()
    groups = group(runs)
    several = [key for key in groups if any(key[:2] == other[:2] and key != other for other in groups)]
    several.sort(key=lambda key: (key[:2], -key[2]))
    columns = [*STAGES.values(), "all"]
    single = len({key[:2] for key in several}) == 1
    names = {key: f"p=1/{round(1 / key[2])}" if single else describe(key) for key in several}
    _draw_bars(ours, columns, {names[key]: _stages(groups[key]) for key in several})
    _untrained(ours, runs)
    of_paper: Bars = {f"p=1/{parts}": [[float(shares[parts])] for shares in PAPER_BY_P.values()] for parts in (2, 4, 8)}
    _draw_bars(paper, list(PAPER_BY_P), of_paper, digits=0)
    _half(paper)
    what = describe(several[0]).rpartition(" ")[0] + ", " if single else ""
    title = "paper: ResNet-50, RGB, all layers"
    _finish(figure, (ours, paper), "Temporal share by p", runs[0], "stage", title, what)
    paper.set_xlabel("data set")
    return figure


def data_figure(runs: Sequence[Measured]) -> Figure:
    """Temporal compared with static data (the paper's figure 7)."""
    figure, (ours, paper) = _figure()
    groups = group(runs)
    temporal = [key for key in groups if _alike(groups, key, TEMPORAL_DATA, STATIC_DATA)]
    static = [key for key in groups if _alike(groups, key, STATIC_DATA, TEMPORAL_DATA)]
    columns = [*STAGES.values(), "all"]
    bars = {f"{describe(key)} (temporal)": _stages(groups[key]) for key in temporal}
    bars |= {f"{describe(key)} (static)": _stages(groups[key]) for key in static}
    _draw_bars(ours, columns, bars)
    _untrained(ours, runs)
    of_paper: Bars = {
        f"{data} ({kind})": [*([float(value)] for value in PAPER_STAGES[data, "rgb"]), [float(PAPER_BY_P[data][4])]]
        for data, kind in {"Something V1": "temporal", "Kinetics-400": "static"}.items()
    }
    _draw_bars(paper, columns, of_paper, digits=0)
    _half(paper)
    return _finish(
        figure, (ours, paper), "Temporal share on temporal and on static data", runs[0], "stage",
        "paper: ResNet-50, RGB, p=1/4",
    )  # fmt: skip


def modality_figure(runs: Sequence[Measured]) -> Figure:
    """Optical flow compared with RGB (the paper's figure 8)."""
    figure, (ours, paper) = _figure()
    groups = group(runs)
    pairs = [key for key in groups if all((key[0], modality, key[2]) in groups for modality in ("rgb", "flow"))]
    columns = [*STAGES.values(), "all"]
    _draw_bars(ours, columns, {describe(key): _stages(groups[key]) for key in pairs})
    _untrained(ours, runs)
    of_paper: Bars = {
        name: [[float(value)] for value in PAPER_STAGES["Something V1", modality]]
        for name, modality in {"RGB": "rgb", "flow (res5: 80 or more)": "flow"}.items()
    }
    _draw_bars(paper, list(STAGES.values()), of_paper, digits=0)
    _half(paper)
    settings = next((run.facts["flow"] for run in runs if run.facts["flow"]), None)
    return _finish(
        figure, (ours, paper), "Temporal share on RGB and on optical flow", runs[0], "stage",
        "paper: ResNet-50, Something V1", f"{settings['method'].upper()} flow, " if settings else "",
    )  # fmt: skip


# ---- Parts -----------------------------------------------------------------------------------------------------------


def _figure(width: float = 12.5, sharey: bool = True) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(width, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    ours, paper = figure.subplots(1, 2, sharey=sharey, width_ratios=(1.3, 1))
    return figure, (ours, paper)


def _stages(runs: Sequence[Measured]) -> list[list[float] | None]:
    """The shares of each seed in percent, for res2 to res5 and for all layers."""
    of_runs = [run.stages() for run in runs]
    found: list[list[float] | None] = [
        [100 * stages[stage] for stages in of_runs] if stage in of_runs[0] else None for stage in STAGES.values()
    ]
    return [*found, [100 * run.overall for run in runs]]


def _draw_bars(axis: Axes, columns: Sequence[str], bars: Bars, digits: int = 1) -> None:
    """Draw bars side by side; a black line spans the seeds. digits: decimals of the values on the bars."""
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(columns))]
        drawn = [(place, each) for place, each in zip(places, values, strict=True) if each is not None]
        axis.bar(
            [place for place, _ in drawn], [float(np.mean(each)) for _, each in drawn], width * 0.92,
            color=COLOURS[number % 7], hatch=HATCHES[number % 4], edgecolor="white", label=shown_name(name),
        )  # fmt: skip
        for place, each in drawn:
            axis.plot([place, place], [min(each), max(each)], color="black", linewidth=1.6)
            axis.annotate(
                f"{np.mean(each):.{digits}f}", (place, max(each)), (0, 3), textcoords="offset points",
                ha="center", va="bottom", size=7.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
    axis.set_xticks(range(len(columns)), list(map(shown_name, columns)))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)


def _draw_lines(axis: Axes, lines: Bars, first: int) -> None:
    """Draw lines; the vertical strokes span the seeds. first: number of the first colour."""
    for number, (name, values) in enumerate(lines.items()):
        aside = (number - (len(lines) - 1) / 2) * 0.11  # the strokes of several lines must not overlap
        drawn = [(place + aside, each) for place, each in enumerate(values, 1) if each is not None]
        colour, marker = COLOURS[(first + number) % 7], MARKERS[(first + number) % 7]
        axis.plot(
            [place for place, _ in drawn], [float(np.mean(each)) for _, each in drawn],
            color=colour, marker=marker, markersize=5, linewidth=1.3, label=shown_name(name),
        )  # fmt: skip
        for place, each in drawn:
            axis.plot([place, place], [min(each), max(each)], color=colour, linewidth=1.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.grid(axis="y", alpha=0.3)


def _mark_stages(axis: Axes, sizes: Sequence[int], names: Sequence[str]) -> None:
    """Draw lines between the stages and their names on top. sizes: number of layers of each stage."""
    end = 0.5
    for size, name in zip(sizes, names, strict=True):
        axis.text(
            end + size / 2, 0.985, name, transform=axis.get_xaxis_transform(), ha="center", va="top", color="dimgrey"
        )
        end += size
        axis.axvline(end, color="lightgrey", linewidth=1)
    axis.set_xlim(0.5, end)


def _untrained(axis: Axes, runs: Sequence[Measured]) -> None:
    """Draw the mean share before training; the stages hardly differ."""
    starts = [value for run in runs for value in by_stage(run.layers, run.untrained).values()]
    axis.axhline(
        100 * float(np.mean(starts)), color="black", linestyle="--", linewidth=1.2,
        label=f"untrained ({100 * float(np.mean(starts)):.1f} %)",
    )  # fmt: skip


def _half(axis: Axes) -> None:
    axis.axhline(50, color="black", linestyle="--", linewidth=1.2)


def _finish(
    figure: Figure, axes: tuple[Axes, Axes], title: str, run: Measured, xlabel: str, paper: str, what: str = ""
) -> Figure:
    facts = run.facts
    ours, theirs = axes
    ours.set(
        title=f"ours: {what}{facts['arch']}, {facts['num_frames']} frames of {facts['protocol']['crop_size']} pixels",
        ylabel="temporal share (%)",
        xlabel=xlabel,
    )
    theirs.set(title=paper, xlabel=xlabel)
    highest = max(axis.get_ylim()[1] for axis in axes)
    ours.set_ylim(0, min(100, highest * 1.03))
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=8.5, frameon=False
        )
    figure.suptitle(title)
    return figure
