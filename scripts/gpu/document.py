"""The report's document: goals, tables and figure, all computed from the rows in its JSON.

Writes OUTPUT.md, OUTPUT.json and OUTPUT.png, each atomically.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from scripts.gpu.networks import BASE, IMAGES, TITLES, USUAL, reference_of
from scripts.gpu.plan import Rows, per_second
from vsn_train.analysis.tables import markdown_table, write_results
from vsn_train.atomic import write_atomic
from vsn_train.bench.network import Setting
from vsn_train.bench.table import NETWORKS, PRINTED, Printed
from vsn_train.bench.table import reference_of as printed_reference
from vsn_train.bench.timing import Ratio, ratio

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend has been chosen

ATTENTION = "sth:integration=attention"
# Network, its reference, least ratio of training clips/s.
LEAST = (
    ("tsm", "tsn", 0.97), ("vsn_compact", "tsn", 0.97), ("vsn_headtail", "tsn", 0.97), (ATTENTION, "tsm", 1.0),
    ("sth:integration=sum", "tsm", 1.0), ("tsn", IMAGES, 0.95),
)  # fmt: skip
MOST_WAITING = 0.05
LABELS = {
    "operators": "Training: the operators and the upper bound",
    "loader": "Training with the real loader",
    "forward": "Latency and throughput",
    "precision": "Precision",
    "more_frames": "Twice the frames",
    "deeper": "A deeper network",
    "protocols": "Protocols",
    "switches": "Switches of the training step",
    "reference": "Ours compared with the reference forms",
    "compiled": "Compiled",
}
NAMES = TITLES | {IMAGES: "images (upper bound)"}
NAMES |= {reference_of(model): f"{title}, reference form" for model, title in TITLES.items()}


def write_report(output: Path, facts: Mapping[str, str], rows: Rows) -> None:
    """Write the report of all results so far. Raises OSError."""
    rows = [row for row in rows if row["mode"] != "goal"] + goals(rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture = draw(rows)
        if picture:
            write_atomic(output.with_suffix(".png"), picture)
        text = document(rows, f"![Training clips/s as ratios to TSN's]({output.name}.png)" if picture else "")
    except Exception as error:  # an error in a table must not lose minutes of measurements
        traceback.print_exc()
        text = f"The tables could not be made ({error!r}): all figures are in {output.name}.json."
    trial = " (a trial run on a CPU: none of its figures is from a GPU)" if "gpu" not in facts else ""
    write_results(output, f"Speed of one GPU{trial}", facts, text, rows)


def document(rows: Rows, picture: str) -> str:
    parts = [f"## Goals\n\n{goal_table(rows)}"]
    parts += [picture] if picture else []
    for section, table in TABLES.items():
        mine = [row for row in rows if row.get("section") == section]
        if mine:
            parts.append(f"## {LABELS[section]}\n\n{table(mine)}")
            parts += [network_alone(rows)] if section == "loader" else []
    parts.append(f"## Compared with the papers\n\n{paper_table(rows)}")
    parts.append(f"## What was measured, and what was cut\n\n{section_table(rows)}")
    return "\n\n".join(parts)


def base_of(rows: Rows) -> Setting:
    """The default setting of the measurements."""
    return next((Setting(**row["setting"]) for row in rows if row["mode"] in ("train", "forward")), BASE)


# ---- Goals -----------------------------------------------------------------------------------------------------------


def goals(rows: Rows) -> Rows:
    """One row per goal, with the measured value and the verdict."""
    training = {row["model"]: row for row in rows if row.get("section") == "operators" and row["seconds"]}
    found: Rows = []
    for model, other, least in LEAST:
        title = f"{NAMES[model]}: training clips/s / {NAMES[other]}'s"
        if other == IMAGES:
            title = f"{NAMES[model]}: training clips/s / images/s of the upper bound, divided by the frames of a clip"
        goal: dict[str, Any] = {"section": "goals", "mode": "goal", "goal": title, "needed": f">= {least:.2f}"}
        value = None
        if model in training and other in training:
            value = speed_ratio(training[model], training[other])
            goal["rounds"] = rounds_of(training[model], training[other])
        found.append(goal | verdict(value, value is not None and round(value.median, 3) >= least))
    waits = [row for row in rows if row["mode"] == "loader" and row["videos"] == "copies" and row["prefetch"]]
    goal = {"section": "goals", "mode": "goal", "goal": "waiting for data, training from copies"}
    goal |= {"needed": f"<= {MOST_WAITING:.0%}"}
    if waits:
        share = waits[0]["data_wait"]
        reached = "reached" if share <= MOST_WAITING else "missed"
        found.append(goal | {"measured": f"{share:.1%}", "median": share, "verdict": reached})
    else:
        found.append(goal | verdict(None, False))
    return found


def verdict(value: Ratio | None, reached: bool) -> dict[str, Any]:
    if value is None:
        return {"measured": "-", "median": None, "verdict": "not measured"}
    return {"measured": str(value), "median": value.median, "low": value.low, "high": value.high,
            "verdict": "reached" if reached else "missed"}  # fmt: skip


def rounds_of(row: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """The number of rounds that both have; a cut may fall within a round."""
    return min(len(row["seconds"]), len(other["seconds"]))


def speed_ratio(row: Mapping[str, Any], other: Mapping[str, Any]) -> Ratio:
    """The ratio of clips/s; above 1: faster than the other. Images of the upper bound count as frames of clips."""
    rounds = rounds_of(row, other)
    each = np.array(other["seconds"][:rounds]) / frames_of(other)
    return ratio(each, np.array(row["seconds"][:rounds]) / frames_of(row))


def frames_of(row: Mapping[str, Any]) -> int:
    """The number of images of one action."""
    return int(row["work"]["batch"] * row["work"]["num_frames"])


def goal_table(rows: Rows) -> str:
    header = ["goal", "needed", "measured (quartiles)", "rounds", "verdict"]
    cells = [
        [row["goal"], row["needed"], row["measured"], str(row.get("rounds", "-")), row["verdict"]]
        for row in rows if row["mode"] == "goal"
    ]  # fmt: skip
    return f"All in one run, {base_of(rows)}, interleaved; medians.\n\n{markdown_table(header, cells)}"


# ---- Tables ----------------------------------------------------------------------------------------------------------


def speeds(row: Mapping[str, Any]) -> str:
    """Median and quartiles of clips/s."""
    low, median, high = np.quantile(per_second(row, row["work"]["batch"]), (0.25, 0.5, 0.75))
    return f"{median:,.1f} ({low:,.1f}-{high:,.1f})"


def described(row: Mapping[str, Any]) -> str:
    work = row["work"]
    return f"{work['arch']}, {work['batch']} x {work['num_frames']} x 3 x {work['size']} x {work['size']}"


def megabytes(row: Mapping[str, Any]) -> str:
    return "-" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 1e6:,.0f}"


def network_table(rows: Rows) -> str:
    """All rows of the modes train and forward, grouped by size, with ratios to TSN of the same size."""
    parts = []
    groups: dict[tuple[str, str], Rows] = {}
    for row in rows:
        if row["mode"] in ("train", "forward") and row["seconds"]:
            size = described(row) if row["model"] != IMAGES else ""
            groups.setdefault((row["mode"], size), []).append(row)
    images = groups.pop(("train", ""), [])
    for (mode, size), found in groups.items():
        cells = []
        for row in [*found, *(images if mode == "train" else [])]:
            setting = Setting(**row["setting"])
            tsn = next((each for each in found if (each["model"], each["setting"]) == ("tsn", row["setting"])), None)
            name = NAMES[row["model"]]
            clips = speeds(row)
            if row["model"] == IMAGES:
                name, clips = f"{name}: images/s", clips
            cells.append([name, str(setting), f"{1000 * float(np.median(row['seconds'])):.2f}", clips,
                          str(speed_ratio(row, tsn)) if tsn else "-", megabytes(row)])  # fmt: skip
        what = "training step" if mode == "train" else "forward pass"
        header = ["network", "setting", "ms", "clips/s (quartiles)", "clips/s / TSN's (quartiles)", "peak MB"]
        parts.append(f"{what}, {size}\n\n{markdown_table(header, cells)}")
    if any(row.get("peak_bytes") for row in rows):
        parts.append("Peak MB: peak memory of a step, without weights, momentum and buffers.")
    return "\n\n".join(parts) if parts else "nothing"


def precision_table(rows: Rows) -> str:
    """Each network's precisions, as ratios to its first one in the same rounds."""
    parts = []
    base = asdict(base_of(rows))
    for mode in ("train", "forward"):
        mine = [row for row in rows if row["mode"] == mode and row["seconds"]]
        cells = []
        for row in mine:
            same = next((each for each in mine if each["model"] == row["model"] and each["setting"] == base), None)
            cells.append([NAMES[row["model"]], row["setting"]["precision"], speeds(row),
                          str(speed_ratio(row, same)) if same else "-"])  # fmt: skip
        if cells:
            header = ["network", "precision", "clips/s (quartiles)", "clips/s / the first's (quartiles)"]
            what = "training step" if mode == "train" else "forward pass"
            parts.append(f"{what}, {described(mine[0])}\n\n{markdown_table(header, cells)}")
    return "\n\n".join(parts) if parts else "nothing"


def reference_table(rows: Rows) -> str:
    """Ours, its reference form, and the ratio of clips/s."""
    parts = []
    for mode in ("train", "forward"):
        mine = {row["model"]: row for row in rows if row["mode"] == mode and row["seconds"]}
        cells = []
        for model, row in mine.items():
            if other := mine.get(reference_of(model)):
                cells.append([NAMES[model], speeds(row), speeds(other), str(speed_ratio(row, other)), megabytes(row),
                              megabytes(other)])  # fmt: skip
        if cells:
            header = ["network", "ours, clips/s", "reference form", "ratio (quartiles)", "ours, MB", "reference, MB"]
            what = "training step" if mode == "train" else "forward pass"
            parts.append(f"{what}, {described(next(iter(mine.values())))}\n\n{markdown_table(header, cells)}")
    return "\n\n".join(parts) if parts else "nothing"


def compiled_table(rows: Rows) -> str:
    cells = []
    for row in rows:
        if row["mode"] == "train" and row["setting"]["compiled"] and row["seconds"]:
            eager = next((each for each in rows if each["mode"] == "train" and each["model"] == row["model"]
                          and not each["setting"]["compiled"] and each["seconds"]), None)  # fmt: skip
            cells.append([NAMES[row["model"]], speeds(eager) if eager else "-", speeds(row),
                          str(speed_ratio(row, eager)) if eager else "-"])  # fmt: skip
    if not cells:
        return "nothing"
    header = ["training step", "eager, clips/s", "compiled, clips/s", "compiled / eager (quartiles)"]
    return markdown_table(header, cells)


def switch_table(rows: Rows) -> str:
    mine = {row["switches"]: row for row in rows if row["mode"] == "step" and row["seconds"]}
    text = "nothing"
    if mine:
        usual = mine.get(USUAL, next(iter(mine.values())))
        cells = []
        for choice, row in mine.items():
            rounds = rounds_of(row, usual)
            times = ratio(np.array(row["seconds"][:rounds]), np.array(usual["seconds"][:rounds]))
            cells.append([choice, f"{1000 * float(np.median(row['seconds'])):.1f}", str(times), megabytes(row)])
        text = f"TSM, {described(usual)}; times as ratios to the default of vsn-train on a GPU, the first line. MB: "
        text += "peak memory of a step, without weights, momentum and buffers. runtime.sync_bn needs several GPUs; "
        text += "runtime.prefetch is in the table of the real loader, runtime.compile in the last table.\n\n"
        text += markdown_table(["switches", "ms per step", "time / the first (quartiles)", "MB"], cells)
    for row in rows:
        if row["mode"] == "beside":
            text += (
                f"\n\nSaving a checkpoint of {row['saving']['megabytes']:.0f} MB delays a step by "
                f"{row['saving']['beside_s']:.3f} s; a synchronous write would delay it by "
                f"{row['saving']['at_once_s']:.3f} s. An empty batch from each of {row['workers']} loader workers: "
                f"{1000 * row['kept_s']:.1f} ms with persistent workers, "
                f"{1000 * row['started_s']:.1f} ms with new ones."
            )
    return text


def loader_table(rows: Rows) -> str:
    cells = [
        [f"TSM, {row['videos']}", "on" if row["prefetch"] else "off", str(row["workers"]), f"{row['clips_per_s']:,.1f}",
         f"{row['data_wait']:.1%}", str(row["steps"]), f"{row['clips_per_s_from_start']:,.1f}",
         f"{row['data_wait_from_start']:.1%}"]
        for row in rows if row["mode"] == "loader"
    ]  # fmt: skip
    if not cells:
        return "nothing"
    header = ["training from", "prefetch", "workers", "clips/s", "waiting for data", "steps counted",
              "clips/s from the first step", "waiting from the first step"]  # fmt: skip
    text = "The loop of vsn-train, " + described(next(row for row in rows if row["mode"] == "loader"))
    text += "; steps that the workers had prefetched during the first step are not counted.\n\n"
    return text + markdown_table(header, cells)


def protocol_table(rows: Rows) -> str:
    cells = []
    for row in rows:
        if row["mode"] == "protocol" and row["seconds"]:
            low, median, high = np.quantile(per_second(row, row["videos"]), (0.25, 0.5, 0.75))
            cells.append(
                [row["protocol"], row["kind"], str(row["views"]), str(row["videos"]),
                 f"{median:,.2f} ({low:,.2f}-{high:,.2f})", f"{median * row['views']:,.1f}", megabytes(row)]
            )  # fmt: skip
    if not cells:
        return "nothing"
    header = ["protocol", "videos", "views", "of them", "videos/s (quartiles)", "views/s", "peak MB"]
    work = rows[0]["work"]
    text = f"TSM, {work['arch']}, {work['num_frames']} frames, crops of {work['size']} pixels, {rows[0]['workers']} "
    return f"{text}workers, which are started for each pass.\n\n{markdown_table(header, cells)}"


def network_alone(rows: Rows) -> str:
    """The speed of the same steps with the clips already on the device."""
    for row in rows:
        if row.get("section") == "operators" and row["model"] == "tsm" and row["seconds"]:
            return f"With the clips already on the device (first table), TSM trains {speeds(row)} clips/s."
    return "TSM was not measured with the clips on the device."


TABLES: dict[str, Callable[[Rows], str]] = {
    "operators": network_table,
    "loader": loader_table,
    "forward": network_table,
    "precision": precision_table,
    "more_frames": network_table,
    "deeper": network_table,
    "protocols": protocol_table,
    "switches": switch_table,
    "reference": reference_table,
    "compiled": compiled_table,
}


# ---- Compared with the papers ----------------------------------------------------------------------------------------


def paper_table(rows: Rows) -> str:
    """The papers' figures and ours, and both as ratios to TSM of the same table."""
    cells = []
    for printed in PRINTED:
        other = printed_reference(printed)
        one, many = forward_row(rows, printed, single=True), forward_row(rows, printed, single=False)
        theirs, ours = [], []
        if printed is not other:
            theirs = [f"{printed.videos_per_s / other.videos_per_s:.3f}"]
            reference = forward_row(rows, other, single=False)
            ours = [str(speed_ratio(many, reference)) if many and reference else "-"]
        cells.append([
            f"{NETWORKS[printed.network]}, {printed.arch}, {printed.num_frames} frames", printed.paper,
            "-" if printed.latency_ms is None else f"{printed.latency_ms:.1f}",
            f"{1000 * float(np.median(one['seconds'])):.2f}" if one else "-",
            f"{printed.videos_per_s:.1f}",
            f"{float(np.median(per_second(many, many['work']['batch']))):,.1f}" if many else "-",
            *(theirs or ["1"]), *(ours or ["1"]), NETWORKS[other.network],
        ])  # fmt: skip
    header = ["network", "paper", "latency, ms: paper", "here", "videos/s: paper", "here", "ratio: paper",
              "here (quartiles)", "to its"]  # fmt: skip
    return (
        f"Here: {base_of(rows)}, forward passes of clips on the device. VSN's table 6 repeats TSM's row from the TSM "
        "paper, which measured on one P100; the VSN and STH papers do not name their hardware. So absolute times "
        f"mainly compare hardware; ratios within a table compare the networks.\n\n{markdown_table(header, cells)}"
    )


def forward_row(rows: Rows, printed: Printed, single: bool) -> dict[str, Any] | None:
    for row in rows:
        if row["mode"] == "forward" and row["seconds"] and row["section"] in ("forward", "more_frames", "deeper"):
            work = row["work"]
            same = (row["model"], work["arch"], work["num_frames"]) == (
                printed.network,
                printed.arch,
                printed.num_frames,
            )
            if same and row["setting"] == asdict(base_of(rows)) and (work["batch"] == 1) == single:
                return row
    return None


# ---- Sections, and the picture ---------------------------------------------------------------------------------------


def section_table(rows: Rows) -> str:
    cells, notes = [], []
    for row in rows:
        if row["mode"] == "section":
            cells.append(
                [LABELS.get(row["name"], row["name"]), row["state"], f"{row['took_s']:.1f}", f"{row['share_s']:.1f}"]
            )
            notes += [f"- {LABELS.get(row['name'], row['name'])}: {note}" for note in row["notes"]]
    table = markdown_table(["section", "state", "took, s", "its share, s"], cells)
    return "\n\n".join([table, "\n".join(notes)] if notes else [table])


def draw(rows: Rows) -> bytes | None:
    """PNG: training clips/s of every operator as ratios to TSN, with quartiles, goals and the upper bound."""
    training = {row["model"]: row for row in rows if row.get("section") == "operators" and row["seconds"]}
    models = [model for model in TITLES if model in training]
    if "tsn" not in models:
        return None
    values = {model: speed_ratio(training[model], training["tsn"]) for model in training}
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.55 * len(models)), layout="constrained")
    for place, model in enumerate(models):
        value = values[model]
        spread = [[value.median - value.low], [value.high - value.median]]
        axes.errorbar(value.median, place, xerr=spread, fmt="o", color="tab:blue", capsize=4, markersize=7)
        clips = float(np.median(per_second(training[model], training[model]["work"]["batch"])))
        axes.annotate(
            f"{clips:,.0f} clips/s, {value.median:.3f}" if clips >= 100 else f"{clips:.1f} clips/s, {value.median:.3f}",
            (value.median, place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    for model, other, least in LEAST:
        if other in values and model in values and other != IMAGES:
            goal = least * values[other].median
            place = models.index(model)
            axes.plot([goal, goal], [place - 0.3, place + 0.3], color="tab:red", linewidth=2)
    axes.plot([], [], color="tab:red", linewidth=2, label="goal of this operator")
    axes.axvline(1, color="grey", linewidth=1, label="TSN")
    if IMAGES in values:
        ceiling = values[IMAGES].median
        axes.axvline(ceiling, color="black", linestyle="--", linewidth=1.2, label=f"upper bound: images, {ceiling:.3f}")
    axes.set_yticks(range(len(models)), [TITLES[model] for model in models])
    axes.set_ylim(len(models) - 0.4, -0.7)
    axes.margins(x=0.15)
    axes.set_xlabel("training clips/s as ratio to TSN's; median and quartiles over the rounds")
    axes.set_title(f"{described(training['tsn'])}, {base_of(rows)}", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    target = io.BytesIO()
    figure.savefig(target, dpi=120, format="png")
    plt.close(figure)
    return target.getvalue()
