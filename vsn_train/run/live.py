"""vsn-predict live=true: scores of live video, updated with every frame."""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from vsn_train import config as schema
from vsn_train.analysis.timeline import Segment, csv_header, csv_row, segment_table
from vsn_train.data.live import is_address, live_frames
from vsn_train.engine.interrupts import Interrupts
from vsn_train.errors import VideoError
from vsn_train.trained import TrainedModel

RATE_OVER = 30  # frames


def predict_live(
    trained: TrainedModel, config: schema.Predict, run_folder: Path, begin: Callable[[], None]
) -> dict[str, Any]:
    """Score the frames of a source until it ends or Ctrl-C; print a line and write a row of timeline.csv for each.

    Returns the source's entry of prediction.json; its `error` is the cause if the source failed. begin: called before
    the first file is written. Raises InputError for a network that uses later frames, VideoError for a source without a
    frame.
    """
    stream, names = trained.stream(), trained.class_names
    source = config.video if is_address(config.video) else os.path.expanduser(config.video)
    step = config.window / trained.num_frames if config.window else 0.0
    line, leading = _Line(), _Leading()
    times: deque[float] = deque(maxlen=trained.num_frames)  # of the frames that the scores are averaged over
    clock: deque[float] = deque(maxlen=RATE_OVER + 1)
    count, began, ended, error = 0, 0.0, "at its end", ""
    table = run_folder / "timeline.csv"
    file = None
    with Interrupts().caught() as interrupts:
        frames = live_frames(
            source, step, config.start, config.end, config.data.timeout, lambda: bool(interrupts.received)
        )
        try:
            for seconds, image in frames:
                if file is None:  # written line by line: the rows so far survive any end
                    begin()
                    file = table.open("w", encoding="utf-8", errors="surrogateescape", buffering=1)
                    file.write(csv_header(names))
                    began = perf_counter()
                shares = trained.probabilities(stream.push(image))
                count += 1
                times.append(seconds)
                clock.append(perf_counter())
                file.write(csv_row(times[0], seconds, shares, names))
                best = leading.add(seconds, shares)
                rate = (len(clock) - 1) / (clock[-1] - clock[0]) if len(clock) > 1 else 1 / (clock[0] - began)
                line.show(f"{seconds:9.2f} s  {names[best]}  {100 * shares[best]:.1f} %  {rate:.1f} frames/s")
        except VideoError as lost:
            if not count:
                raise
            error = ended = lost.cause
        finally:
            line.end()
            if file is not None:
                file.close()
    if interrupts.received:
        ended = f"by {interrupts.name}"
    overall = count / (clock[-1] - began) if count else 0.0
    print(f"{source}: {count} frames, {overall:.1f} frames/s; ended {ended}")
    if leading.segments:
        print(segment_table(leading.segments, names))
    found = {
        "video": source, "frames": count, "frames_per_second": overall, "ended": ended,
        "timeline": table.name if count else None,
        "segments": [asdict(each) | {"name": names[each.index]} for each in leading.segments],
    }  # fmt: skip
    return found | ({"error": error} if error else {})


@dataclass
class _Leading:
    """The segments in which one class leads, updated with every frame."""

    segments: list[Segment] = field(default_factory=list)
    frames: int = 0  # of the last segment

    def add(self, seconds: float, shares: np.ndarray) -> int:
        """Add a frame; returns the class that leads now. A segment ends where the next one begins."""
        best = int(shares.argmax())
        share = float(shares[best])
        before = self.segments[-1] if self.segments else None
        if before is not None:
            mean = before.probability
            if before.index == best:
                mean += (share - mean) / (self.frames + 1)
            self.segments[-1] = Segment(before.start, seconds, before.index, mean)
        if before is None or before.index != best:
            self.segments.append(Segment(seconds, seconds, best, share))
            self.frames = 0
        self.frames += 1
        return best


class _Line:
    """A status line: overwritten on a terminal, one line per frame in a file or a pipe."""

    def __init__(self) -> None:
        self.anew = sys.stdout.isatty()
        self.open = False

    def show(self, text: str) -> None:
        if self.anew:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width].ljust(width)}", end="", flush=True)
            self.open = True
        else:
            print(text, flush=True)

    def end(self) -> None:
        if self.open:
            print()
