"""The leading class over the course of a video, from the scores of windows: segments and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsn_train.analysis.tables import text_table
from vsn_train.atomic import write_atomic

MOST_LINES = 40  # segments printed on the terminal


@dataclass(frozen=True)
class Segment:
    """A period in which one class has the highest probability. start, end: seconds. index: of the class. probability:
    mean over the windows of the segment."""

    start: float
    end: float
    index: int
    probability: float


def leading_segments(bounds: np.ndarray, shares: np.ndarray, start: float, end: float) -> list[Segment]:
    """The segments of a video between start and end, in order and without gaps.

    bounds: float64 (N, 2), start and end of each window in seconds. shares: float (N, K), class probabilities of each
    window. If the leading class changes from one window to the next, the segment ends halfway between their middles.
    """
    leading = shares.argmax(axis=1)
    middles = bounds.mean(axis=1)
    changes = np.flatnonzero(np.diff(leading)) + 1
    times = [start, *((middles[changes - 1] + middles[changes]) / 2).tolist(), end]
    groups = np.split(np.arange(len(leading)), changes)
    return [
        Segment(times[place], times[place + 1], int(leading[group[0]]), float(shares[group, leading[group[0]]].mean()))
        for place, group in enumerate(groups)
    ]


def csv_header(names: Sequence[str]) -> str:
    """The header of timeline.csv: start and end of the window in seconds, best class, its probability, all classes."""
    return _csv_line(["start", "end", "class", "probability", *names])


def csv_row(start: float, end: float, shares: np.ndarray, names: Sequence[str]) -> str:
    """One line of timeline.csv. start, end: seconds. shares: float (K,), the class probabilities."""
    best = int(shares.argmax())
    numbers = [f"{share:.6f}" for share in shares.tolist()]
    return _csv_line([f"{start:.3f}", f"{end:.3f}", names[best], numbers[best], *numbers])


def write_timeline(path: Path, bounds: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> None:
    """Write timeline.csv, one line per window. bounds: (N, 2) seconds. shares: (N, K)."""
    rows = (csv_row(first, last, row, names) for (first, last), row in zip(bounds.tolist(), shares, strict=True))
    write_atomic(path, csv_header(names) + "".join(rows))


def segment_table(segments: Sequence[Segment], names: Sequence[str]) -> str:
    """The segments as a table for a terminal, at most MOST_LINES of them."""
    rows = [[each.start, each.end, names[each.index], f"{100 * each.probability:.1f} %"] for each in segments]
    table = text_table(["from s", "to s", "class", "probability"], rows[:MOST_LINES])
    more = len(rows) - MOST_LINES
    return table + (f"\nand {more} more segments" if more > 0 else "")


def _csv_line(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
