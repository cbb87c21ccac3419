"""Measure live video: the time of a new frame in a stream, compared with computing the whole clip again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from time import process_time
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.network import Workload, make_model
from vsn_train.bench.timing import ratio
from vsn_train.data.protocol import Protocol
from vsn_train.data.transforms import center_crop, normalize
from vsn_train.engine.interleave import interleave
from vsn_train.trained import TrainedModel

STREAM, CLIP = "stream", "whole clip"


@dataclass(frozen=True)
class LiveTimes:
    """For STREAM and CLIP, (rounds,) seconds from a frame to its scores: times: wall-clock time; cpu: CPU time of this
    process. They are equal with one thread on an idle machine."""

    work: Workload
    times: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]


def time_live(work: Workload, rounds: int, height: int = 240, width: int = 320) -> LiveTimes:
    """Time frames of height x width pixels: resize, crop, normalize, tsm_online. Both ways prepare only the new frame;
    they differ in the frames that go through the network."""
    model = make_model("tsm_online", work).eval().to(memory_format=torch.channels_last)
    protocol = Protocol(1, "uniform", 1, work.size * 8 // 7, work.size)
    names = list(map(str, range(work.num_classes)))
    no_file: Any = None
    trained = TrainedModel(model, names, protocol, "rgb", torch.device(work.device), "fp32", 1, "auto", [], no_file)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (8, height, width, 3), dtype=torch.uint8, generator=generator)
    stream = trained.stream()
    pushed, given = cycle(frames), cycle(frames)
    clip: deque[Tensor] = deque(maxlen=work.num_frames)

    @torch.inference_mode()
    def whole_clip() -> np.ndarray:
        frame = center_crop(next(given).movedim(-1, -3)[None], protocol.short_side, protocol.crop_size)
        clip.append(normalize(frame.to(work.device)))
        while len(clip) < work.num_frames:
            clip.append(clip[-1])
        return cast("np.ndarray", model(torch.stack(tuple(clip), dim=1)).float().cpu().numpy())

    actions: dict[str, Callable[[], object]] = {STREAM: lambda: stream.push(next(pushed)), CLIP: whole_clip}
    cpu: dict[str, list[float]] = {way: [] for way in actions}
    timed = {way: partial(_on_cpu, action, cpu[way]) for way, action in actions.items()}
    times = interleave(timed, rounds, warmup=2, device=work.device)
    return LiveTimes(work, times, {way: np.array(seconds[-rounds:]) for way, seconds in cpu.items()})


def _on_cpu(action: Callable[[], object], seconds: list[float]) -> None:
    before = process_time()
    action()
    seconds.append(process_time() - before)


def live_table(results: Sequence[LiveTimes]) -> str:
    rows = []
    for each in results:
        name = f"{each.work.arch}, {each.work.num_frames} frames of {each.work.size} x {each.work.size}"
        cells = []
        for way in (STREAM, CLIP):
            seconds, cpu = (float(np.median(of[way])) for of in (each.times, each.cpu))
            cells += [f"{1000 * seconds:.1f}", f"{1 / seconds:.1f}", f"{1000 * cpu:.1f}"]
        ratios = [str(ratio(of[CLIP], of[STREAM])) for of in (each.times, each.cpu)]
        rows.append([name, *cells, *ratios])
    header = ["network"]
    header += [f"{way}, {what}" for way in (STREAM, CLIP) for what in ("ms", "frames/s", "CPU ms")]
    header += ["ratio (quartiles)", "ratio of CPU times"]
    return markdown_table(header, rows)
