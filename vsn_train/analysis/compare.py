"""The table of a sweep: what was swept, top-1 over the seeds, time and parameters."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from vsn_train.analysis.tables import markdown_table, text_table
from vsn_train.atomic import write_atomic

WIDTH = 80  # columns of the terminal
# Keys that differ in every run and are no settings to compare.
OWN = ("name", "resume", "seed")
# The main key of each group; keys that follow from these are not shown.
CHOICES = ("dataset.name", "backbone.operator", "backbone.arch", "optimizer.lr", "schedule.shape")


@dataclass(frozen=True)
class Run:
    """best, last: top-1 in percent of the best and the latest validation, or None. seconds: of all launches."""

    folder: Path
    settings: dict[str, Any]
    best: float | None
    last: float | None
    seconds: float | None
    parameters: int | None


@dataclass(frozen=True)
class Sweep:
    """keys: the settings that differ. rows: their values, and the runs with these values, which differ in the seed."""

    keys: list[str]
    rows: list[tuple[list[str], list[Run]]]


def compare_runs(folders: Sequence[Path]) -> Sweep:
    """Group the runs that differ only in the seed. A damaged file is reported and treated as missing."""
    runs = [_read(folder) for folder in folders]
    keys = _swept([run.settings for run in runs if run.settings])
    rows: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        rows.setdefault(tuple(str(run.settings.get(key, "-")) for key in keys), []).append(run)
    return Sweep(keys, [(list(values), same) for values, same in rows.items()])


def sweep_text(sweep: Sweep) -> str:
    """The table for a terminal of 80 columns; settings that do not fit are listed below it."""
    header, rows = _columns(sweep)
    runs, values = [_names(same) for _, same in sweep.rows], [values for values, _ in sweep.rows]
    table = text_table(
        ["run", *_short(sweep.keys), *header],
        [[name, *own, *row] for name, own, row in zip(runs, values, rows, strict=True)],
    )
    if max(map(len, table.splitlines())) <= WIDTH:
        return table
    lines = [text_table(["run", *header], [[name, *row] for name, row in zip(runs, rows, strict=True)]), ""]
    for name, own in zip(runs, values, strict=True):
        text = "  ".join(f"{key}={value}" for key, value in zip(sweep.keys, own, strict=True))
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"{name}: ", subsequent_indent="   ",
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines)


def save_sweep(folder: Path, sweep: Sweep) -> None:
    """Write sweep.md (the table and the run folders) and sweep.csv (the same numbers, unrounded)."""
    header, rows = _columns(sweep)
    cells = [[*values, *map(str, row)] for (values, _), row in zip(sweep.rows, rows, strict=True)]
    table = markdown_table([*sweep.keys, *header] or ["runs"], cells)
    runs = ["- " + ", ".join([*(f"`{key}={value}`" for key, value in zip(sweep.keys, values, strict=True))] or ["all"])
            + ": " + ", ".join(f"`{run.folder.name}`" for run in same) for values, same in sweep.rows]  # fmt: skip
    text = "± is the sample standard deviation over the seeds. Folders of the runs:"
    write_atomic(folder / "sweep.md", f"# Sweep\n\n{table}\n\n{text}\n\n" + "\n".join(runs) + "\n")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measured = ["best_top1_mean", "best_top1_deviation", "last_top1_mean", "last_top1_deviation"]
    writer.writerow([*sweep.keys, "runs", "validated", *measured, "seconds_mean", "parameters"])
    for values, same in sweep.rows:
        done = [run for run in same if run.best is not None]
        numbers: list[Any] = [len(same), len(done)]
        for found in ([run.best for run in done], [run.last for run in done]):
            numbers += [_mean(found), _deviation(found)]
        writer.writerow([*values, *numbers, _mean([run.seconds for run in done]), _first(same)])
    write_atomic(folder / "sweep.csv", out.getvalue())


def _columns(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    header = ["done", "best top-1 %", "last top-1 %", "time", "params"]
    rows = []
    for _, same in sweep.rows:
        done = [run for run in same if run.best is not None]
        seconds, parameters = _mean([run.seconds for run in done]), _first(same)
        rows.append([
            f"{len(done)} of {len(same)}",
            _spread([run.best for run in done]),
            _spread([run.last for run in done]),
            "-" if seconds is None else _clock(seconds),
            "-" if parameters is None else f"{parameters / 1e6:.1f} M",
        ])  # fmt: skip
    return header, rows


def _names(runs: Sequence[Run]) -> str:
    """The names of one row's run folders: 0,1 or 0…11."""
    names = [run.folder.name for run in runs]
    text = ",".join(names)
    return text if len(text) <= 8 else f"{names[0]}…{names[-1]}"


def _spread(values: Sequence[float | None]) -> str:
    mean, deviation = _mean(values), _deviation(values)
    return "-" if mean is None else f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None


def _first(runs: Sequence[Run]) -> int | None:
    return next((run.parameters for run in runs if run.parameters is not None), None)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _short(keys: Sequence[str]) -> list[str]:
    """`lr` for `optimizer.lr`, if no other key ends like this."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def _swept(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that tell the runs apart, without keys whose value follows from those before them."""
    keys = list(dict.fromkeys(key for config in configs for key in config if key not in OWN))
    keys.sort(key=lambda key: CHOICES.index(key) if key in CHOICES else len(CHOICES))
    found: list[str] = []
    for key in keys:
        values: dict[str, set[str]] = {}
        for config in configs:
            values.setdefault(repr([config.get(each) for each in found]), set()).add(repr(config.get(key)))
        if any(len(different) > 1 for different in values.values()):
            found.append(key)
    return found


def _damaged(path: Path, error: Exception) -> None:
    """Report a damaged file without failing: the rows of the other runs are still useful."""
    print(f"{path}: damaged, ignored ({type(error).__name__}: {str(error).splitlines()[0]})", file=sys.stderr)


def _read(folder: Path) -> Run:
    best, last = _validations(folder / "metrics.jsonl")
    return Run(folder, _settings(folder), best, last, _seconds(folder / "log.txt"), _parameters(folder))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        return _flatten(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        _damaged(path, error)
        return {}


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _validations(path: Path) -> tuple[float | None, float | None]:
    """Top-1 of the best and of the latest validation."""
    found = []
    # Not splitlines(): it also splits at characters that a value may contain.
    for text in filter(None, path.read_bytes().split(b"\n") if path.exists() else []):
        try:
            line = json.loads(text)
            if line["split"] == "val":
                found.append(float(line["top1"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:  # a run that was killed while it wrote
            _damaged(path, error)
    return (max(found), found[-1]) if found else (None, None)


def _seconds(path: Path) -> float | None:
    """Total time by the time stamps of log.txt: of each launch from its first line (with the numbers of videos) to its
    last."""
    total, first, last = 0.0, None, None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            stamp = datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S")
        except ValueError:
            continue
        if first is None or re.search(r": \d+ training and \d+ validation videos", line):
            total += (last - first).total_seconds() if first and last else 0
            first = stamp
        last = stamp
    return total + (last - first).total_seconds() if first and last else None


def _parameters(folder: Path) -> int | None:
    path = folder / "environment.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["parameters"]) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # of an earlier version, or damaged
