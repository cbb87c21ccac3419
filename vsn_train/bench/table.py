"""Latency and throughput of the networks, compared as ratios with the tables of the VSN and STH papers.

Neither paper names its hardware (the VSN paper repeats rows that the TSM paper measured on one GPU), so absolute times
cannot be compared, only ratios between networks of the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.network import ModelTimes, Setting, Workload, time_models
from vsn_train.bench.timing import Ratio, ratio

# Argument of `make_model` -> name in the tables. STH is the main model of its paper.
NETWORKS = {
    "tsn": "TSN",
    "tsm": "TSM",
    "vsn_compact": "VSN compact",
    "vsn_headtail": "VSN headtail",
    "sth:integration=attention": "STH attention",
}


@dataclass(frozen=True)
class Printed:
    """One row of a paper's speed table. The VSN paper states 8 frames only for TSM; its VSN always uses 8."""

    paper: str
    network: str
    arch: str
    num_frames: int
    latency_ms: float | None
    videos_per_s: float


VSN_PAPER, STH_PAPER = "VSN, table 6", "STH, table 9"
PRINTED = (
    Printed(VSN_PAPER, "tsn", "resnet50", 8, 15.8, 80.8),
    Printed(VSN_PAPER, "tsn", "resnet101", 8, 26.7, 48.8),
    Printed(VSN_PAPER, "tsm", "resnet50", 8, 17.4, 77.4),
    Printed(VSN_PAPER, "vsn_compact", "resnet50", 8, 16.5, 79.5),
    Printed(VSN_PAPER, "vsn_compact", "resnet101", 8, 28.7, 47.2),
    Printed(STH_PAPER, "tsm", "resnet50", 8, None, 80.4),
    Printed(STH_PAPER, "tsm", "resnet50", 16, None, 39.5),
    Printed(STH_PAPER, "sth:integration=attention", "resnet50", 8, None, 68.8),
    Printed(STH_PAPER, "sth:integration=attention", "resnet50", 16, None, 35.2),
)


@dataclass(frozen=True)
class NetworkTimes:
    """The times of all networks with one arch and number of frames: for single clips, and for a batch."""

    single: ModelTimes
    batch: ModelTimes

    @property
    def size(self) -> tuple[str, int]:
        return self.single.work.arch, self.single.work.num_frames

    def latency(self, network: str) -> np.ndarray:
        """(rounds,) seconds of one clip, in the network's fastest setting."""
        return self.single.times[network, self.single.fastest(network)]

    def per_clip(self, network: str) -> np.ndarray:
        """(rounds,) seconds per clip of a batch, in the network's fastest setting."""
        return self.batch.times[network, self.batch.fastest(network)] / self.batch.work.batch


def time_networks(work: Workload, settings: Sequence[Setting], rounds: int) -> NetworkTimes:
    """Forward passes of all NETWORKS in interleaved rounds, first of one clip, then of work.batch clips."""
    networks = list(NETWORKS)
    single = time_models(networks, settings, replace(work, batch=1), "forward", rounds)
    return NetworkTimes(single, time_models(networks, settings, work, "forward", rounds))


def measured_table(results: Sequence[NetworkTimes]) -> str:
    """Markdown: each network's latency and throughput, and their ratios to TSM's."""
    rows = []
    for each in results:
        for network, title in NETWORKS.items():
            latency, per_clip = each.latency(network), each.per_clip(network)
            rows.append(
                [
                    f"{title}, {each.size[0]}, {each.size[1]} frames",
                    f"{1000 * float(np.median(latency)):.1f}",
                    str(ratio(latency, each.latency("tsm"))),
                    f"{1 / float(np.median(per_clip)):.2f}",
                    str(ratio(each.per_clip("tsm"), per_clip)),
                    str(each.single.fastest(network)),
                    str(each.batch.fastest(network)),
                ]
            )
    header = ["network", "latency, ms", "/ TSM (quartiles)", "videos/s", "/ TSM (quartiles)", "fastest, one clip",
              "fastest, batch"]  # fmt: skip
    return markdown_table(header, rows)


def paper_table(results: Sequence[NetworkTimes]) -> str:
    """Markdown: the papers' ratios to their own TSM, and ours for the measured networks. If a paper has no TSM of that
    arch (VSN, ResNet-101), ratios to its TSN."""
    measured = {each.size: each for each in results}
    rows = []
    for row in PRINTED:
        reference = reference_of(row)
        if row is reference:
            continue
        title = f"{NETWORKS[row.network]}, {row.arch}, {row.num_frames} frames"
        cells = [title, row.paper, f"its {NETWORKS[reference.network]}"]
        latency = throughput = None
        if each := measured.get((row.arch, row.num_frames)):
            latency = ratio(each.latency(row.network), each.latency(reference.network))
            throughput = ratio(each.per_clip(reference.network), each.per_clip(row.network))
        if row.latency_ms is None or reference.latency_ms is None:
            cells += ["-", "-"]
        else:
            cells += [f"{row.latency_ms / reference.latency_ms:.3f}", _cell(latency)]
        cells += [f"{row.videos_per_s / reference.videos_per_s:.3f}", _cell(throughput)]
        rows.append(cells)
    return markdown_table(
        ["network", "paper", "in units of", "latency: paper", "here", "throughput: paper", "here"], rows
    )


def reference_of(row: Printed) -> Printed:
    """The reference of a paper's row: TSM of that size in the same table, or else TSN."""
    size = (row.paper, row.arch, row.num_frames)
    same = [each for each in PRINTED if (each.paper, each.arch, each.num_frames) == size]
    return next(each for name in ("tsm", "tsn") for each in same if each.network == name)


def _cell(value: Ratio | None) -> str:
    return "not measured" if value is None else str(value)
