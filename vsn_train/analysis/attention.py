"""How temporal the attention of an STH network is: averages over clips, compared with the paper's findings.

Attentive integration (equation 3 of the STH paper, see models/hybrid.py) gives every output channel of every 3x3
convolution, for each clip, a weight a_T for its temporal and a_S = 1 - a_T for its spatial branch. The share of a layer
is the mean of a_T over its channels and over the clips; stages, and the network, are means over their layers, each
layer counting once. The paper reads four findings off these shares (figures 5 to 8): deeper layers, a smaller p, data
that need the order of frames, and optical flow have the larger temporal shares.

Shares are fractions, 0 to 1, wherever they are computed, and percent or points where they are printed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vsn_train.analysis.tables import markdown_table
from vsn_train.errors import InputError
from vsn_train.models.hybrid import HybridConv2d

# The paper's names of the stages, by torchvision's.
STAGES = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}
# Data sets whose classes need the order of frames, and those whose classes show in single frames (the paper's terms).
TEMPORAL_DATA = ("motion", "motion_order", "something_v1", "something_v2", "jester")
STATIC_DATA = ("motion_static", "kinetics400", "ucf101", "hmdb51")
SMALL = 0.01  # a difference below one point counts as none; the paper's bars can be read to within two points

# The paper's shares in percent, ResNet-50, RGB, read off the bars of its figures 5 to 8 to within two points.
PAPER_LAYERS = {
    "Kinetics-400": (31, 42, 40, 38, 36, 36, 13, 43, 42, 39, 46, 50, 58, 58, 65, 62),
    "Something V1": (45, 43, 63, 62, 42, 47, 44, 55, 61, 59, 66, 61, 57, 68, 75, 77),
}
PAPER_BLOCKS = (3, 4, 6, 3)  # of ResNet-50, one layer each
PAPER_BY_P = {"Kinetics-400": {2: 31, 4: 44, 8: 49}, "Something V1": {2: 50, 4: 58, 8: 61}}  # whole network, by 1/p
PAPER_STAGES = {  # res2 to res5; the flow's data set is not named, but its RGB bars are Something V1's
    ("Kinetics-400", "rgb"): (38, 31, 46, 61),
    ("Something V1", "rgb"): (50, 48, 59, 73),
    ("Something V1", "flow"): (65, 60, 69, 80),  # res5 is "80 or more"
}


# ---- Measuring -------------------------------------------------------------------------------------------------------


def attention_layers(model: nn.Module) -> dict[str, HybridConv2d]:
    """The layers with attention by name, in the order of the network. Raises InputError if there are none."""
    layers = {
        name.removeprefix("backbone."): module
        for name, module in model.named_modules()
        if isinstance(module, HybridConv2d) and module.attention is not None
    }
    if not layers:
        raise InputError(
            "this network has no layer with attention; expected backbone=sth backbone.integration=attention on a ResNet"
        )
    return layers


class WithShares(nn.Module):
    """Wraps a network to return the temporal shares of its layers as extra columns after its logits.

    forward: (B, T, C, H, W) -> (B, K + 2 L): K scores; per layer the mean of a_T over channels; per layer the mean of
    |a_T - 1/2| over channels, in which channels that move in opposite directions do not cancel. probabilities: return
    the softmax of the logits, for protocols that average probabilities.
    """

    def __init__(self, model: nn.Module, probabilities: bool = False) -> None:
        super().__init__()
        self.model, self.probabilities = model, probabilities
        self.layers = list(attention_layers(model).values())

    def forward(self, video: Tensor) -> Tensor:
        logits = self.model(video).float()
        shares = []
        for layer in self.layers:
            assert layer.last_attention is not None
            shares.append(layer.last_attention[:, 0].float())  # (B, Co)
        means = [share.mean(1, keepdim=True) for share in shares]
        distances = [(share - 0.5).abs().mean(1, keepdim=True) for share in shares]
        return torch.cat([logits.softmax(1) if self.probabilities else logits, *means, *distances], dim=1)


@dataclass(frozen=True)
class Measured:
    """The shares of one checkpoint.

    data: name of the data set; p: share of temporal input channels. Of each layer, means over the clips: shares, the
    mean of a_T; distances, the mean of |a_T - 1/2| over channels; untrained, the shares before any training. spreads:
    standard deviation of the share over the clips. facts: protocol, number of videos, manifest hash, checkpoint hash,
    seed, accuracy.
    """

    data: str
    modality: str
    p: float
    layers: tuple[str, ...]
    shares: tuple[float, ...]
    spreads: tuple[float, ...]
    distances: tuple[float, ...]
    untrained: tuple[float, ...]
    facts: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, float]:
        """The same for runs that differ only in the seed."""
        return self.data, self.modality, self.p

    @property
    def overall(self) -> float:
        return float(np.mean(self.shares))

    def stages(self) -> dict[str, float]:
        return by_stage(self.layers, self.shares)


def by_stage(layers: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """res2, …, res5 -> mean over the stage's layers."""
    found: dict[str, list[float]] = {}
    for name, value in zip(layers, values, strict=True):
        found.setdefault(STAGES[name.partition(".")[0]], []).append(value)
    return {stage: float(np.mean(each)) for stage, each in found.items()}


def columns_to_measured(
    data: str, modality: str, p: float, layers: Sequence[str], columns: np.ndarray, untrained: np.ndarray,
    facts: dict[str, Any],
) -> Measured:  # fmt: skip
    """columns: (N, 2 L), the last columns of `WithShares`, means over each video's views; untrained: (N', 2 L)."""
    shares, distances = np.split(columns.astype(np.float64), 2, axis=1)
    starts, _ = np.split(untrained.astype(np.float64), 2, axis=1)
    return Measured(
        data, modality, p, tuple(layers),
        shares=tuple(shares.mean(0).tolist()),
        spreads=tuple(shares.std(0).tolist()),
        distances=tuple(distances.mean(0).tolist()),
        untrained=tuple(starts.mean(0).tolist()),
        facts=facts,
    )  # fmt: skip


def describe(key: tuple[str, str, float]) -> str:
    """ "motion RGB p=1/4" """
    data, modality, p = key
    return f"{data} {'RGB' if modality == 'rgb' else modality} p=1/{round(1 / p)}"


def group(runs: Sequence[Measured]) -> dict[tuple[str, str, float], list[Measured]]:
    """Group the runs that differ only in the seed, in the order given.

    Raises InputError for networks with different layers: their shares cannot be compared layer by layer.
    """
    groups: dict[tuple[str, str, float], list[Measured]] = {}
    for run in runs:
        for fact in ("arch", "variant", "num_frames"):
            if run.facts[fact] != runs[0].facts[fact]:
                raise InputError(
                    f"{run.facts['path']} has {fact} {run.facts[fact]} and {runs[0].facts['path']} has "
                    f"{runs[0].facts[fact]}; expected networks that differ only in p, data, modality and seed: "
                    "run the command once for each kind"
                )
        groups.setdefault(run.key, []).append(run)
    return groups


# ---- Findings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One comparison for a finding. points: the difference in percent points, positive if the finding holds, one for
    each seed that both sides have."""

    what: str
    points: tuple[float, ...]

    @property
    def verdict(self) -> str:
        if all(abs(each) < 100 * SMALL for each in self.points):
            return "no difference"
        if min(self.points) >= 100 * SMALL:
            return "holds"
        return "contradicted" if max(self.points) <= -100 * SMALL else "undecided"

    def __str__(self) -> str:
        number = f"{np.mean(self.points):+.1f} points"
        if len(self.points) > 1:
            number += f" ({min(self.points):+.1f} to {max(self.points):+.1f} over {len(self.points)} seeds)"
        return f"{self.what}: {number}: {self.verdict}"


@dataclass(frozen=True)
class Finding:
    """One of the paper's findings and the comparisons that test it."""

    claim: str
    paper: str
    cases: tuple[Case, ...]

    @property
    def verdict(self) -> str:
        if not self.cases:
            return "not tested"
        verdicts = {case.verdict for case in self.cases}
        return verdicts.pop() if len(verdicts) == 1 else "mixed"

    @property
    def sentence(self) -> str:
        counts = ", ".join(
            f"{word} in {number} of {len(self.cases)}"
            for word in ("holds", "contradicted", "no difference", "undecided")
            if (number := sum(case.verdict == word for case in self.cases))
        )
        held = any(case.verdict == "holds" for case in self.cases)
        alone = any(len(case.points) == 1 for case in self.cases)
        caution = " Measured with one seed: the variation over seeds is not known." if alone else ""
        sentence = {
            "holds": "It holds on our data.",
            "contradicted": "Our data contradict the paper: it is the other way round.",
            "no difference": f"It is not seen on our data: the differences are below {100 * SMALL:.0f} point.",
            "undecided": "Our data do not decide it: the seeds disagree, or some differences are too small.",
            "mixed": f"{'Our data agree in part' if held else 'Our data do not support it'}: {counts} comparisons.",
            "not tested": "Not tested: the checkpoints for it were not given.",
        }[self.verdict]
        return sentence + caution


def findings(runs: Sequence[Measured]) -> list[Finding]:
    """The paper's four findings, each tested with all comparisons that the given runs allow."""
    groups = group(runs)
    deeper = [
        Case(f"{describe(key)}, res5 - res2", tuple(100 * (s["res5"] - s["res2"]) for s in map(Measured.stages, each)))
        for key, each in groups.items()
        if {"res2", "res5"} <= each[0].stages().keys()
    ]
    smaller, temporal, flow = [], [], []
    for first, second in itertools.permutations(groups, 2):
        (data_1, modality_1, p_1), (data_2, modality_2, p_2) = first, second
        if (data_1, modality_1) == (data_2, modality_2) and p_1 < p_2:
            between = [p for data, modality, p in groups if (data, modality) == (data_1, modality_1) and p_1 < p < p_2]
            if not between:
                smaller.append((first, second))
        if (modality_1, p_1) == (modality_2, p_2) and data_1 in TEMPORAL_DATA and data_2 in STATIC_DATA:
            temporal.append((first, second))
        if (data_1, p_1) == (data_2, p_2) and (modality_1, modality_2) == ("flow", "rgb"):
            flow.append((first, second))
    cases = [
        tuple(Case(f"{describe(a)} - {describe(b)}", _differences(groups[a], groups[b])) for a, b in pairs)
        for pairs in (smaller, temporal, flow)
    ]
    by_depth = "res5 - res2: +23 on Kinetics-400, +23 on Something V1"
    by_p = "1/4 - 1/2, 1/8 - 1/4: +13, +5 on Kinetics-400, +8, +3 on Something V1"
    return [
        Finding("Deeper layers are more temporal", by_depth, tuple(deeper)),
        Finding("A smaller p is more temporal", by_p, cases[0]),
        Finding("Temporal data are more temporal", "Something V1 - Kinetics-400: +14", cases[1]),
        Finding("Flow is more temporal than RGB", "flow - RGB: +15, +12, +10, +7 in res2 to res5", cases[2]),
    ]  # fmt: skip


def _differences(first: Sequence[Measured], second: Sequence[Measured]) -> tuple[float, ...]:
    """Differences of the overall shares in points: per common seed, or of the means if there is no common seed."""
    a, b = ({run.facts["seed"]: run.overall for run in runs} for runs in (first, second))
    shared = [seed for seed in a if seed in b]
    if shared:
        return tuple(100 * (a[seed] - b[seed]) for seed in shared)
    return (100 * (float(np.mean(list(a.values()))) - float(np.mean(list(b.values())))),)


def movement(runs: Sequence[Measured]) -> str:
    """Two sentences: how far training has moved the shares from those of untrained networks."""
    moved = np.array([np.subtract(run.shares, run.untrained) for run in runs]) * 100  # (runs, layers)
    run, layer = np.unravel_index(np.abs(moved).argmax(), moved.shape)
    most = f"{moved[run, layer]:+.1f} points ({describe(runs[run].key)}, {runs[run].layers[layer]})"
    single = 100 * float(np.mean([each.distances for each in runs]))
    start = 100 * float(np.mean([each.untrained for each in runs]))
    mean = float(np.abs(moved).mean())
    verdict = "hardly moves" if mean < 100 * SMALL else "moves"
    return (
        f"Training {verdict} the shares: untrained networks have {start:.1f} %, and a trained layer lies on average "
        f"{mean:.1f} points from that, at most {most}. Single channels lie on average {single:.1f} points from 50 %; "
        "in the mean of a layer they partly cancel."
    )


# ---- Tables ----------------------------------------------------------------------------------------------------------


def percent(values: Sequence[float]) -> str:
    """Fractions -> "52.3", or "52.3 (51.9-52.7)" for several seeds."""
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f}-{100 * max(values):.1f})"


def report(runs: Sequence[Measured]) -> str:
    """Markdown: the findings, the shares by stage (with the paper's) and by layer, and the measured runs."""
    groups, facts = group(runs), runs[0].facts
    stages = (
        "Temporal share in %, mean over channels, clips and the stage's layers; with several seeds the mean and the "
        f"range. The paper's network is ResNet-50 with one layer a block at 224 pixels, ours is {facts['arch']} at "
        f"{facts['num_frames']} frames of {facts['protocol']['crop_size']} pixels, with two layers a basic block: "
        "compare trends, not values."
    )
    parts = [
        judgement(runs),
        f"## Shares by stage\n\n{stages}\n\n{_stage_table(groups)}",
        f"## Shares by layer\n\n{_layer_table(groups)}",
        f"## What was measured\n\n{_run_table(runs)}",
    ]
    if flow := next((run.facts["flow"] for run in runs if run.facts["flow"]), None):
        parts.append(f"Flow: {flow['method']}, clipped at {flow['bound']:g} pixels a frame.")
    return "\n\n".join(parts)


def judgement(runs: Sequence[Measured]) -> str:
    """Markdown: the measured networks, whether training moves the shares, and the result for each finding."""
    networks = []
    for key, each in group(runs).items():
        seeds = ", ".join(str(run.facts["seed"]) for run in each)
        networks.append(f"{describe(key)} (seed{'s' if len(each) > 1 else ''} {seeds})")
    lines = [f"Measured: {'; '.join(networks)}.", "", movement(runs), ""]
    for number, finding in enumerate(findings(runs), 1):
        lines.append(f"{number}. {finding.claim} (paper: {finding.paper}). **{finding.sentence}**")
        lines += [f"    - {case}" for case in finding.cases]
    return "\n".join(lines)


def _stage_table(groups: Mapping[tuple[str, str, float], Sequence[Measured]]) -> str:
    stages = list(STAGES.values())
    rows = []
    for key, runs in groups.items():
        columns = [percent([run.stages()[stage] for run in runs]) for stage in stages]
        rows.append([describe(key), *columns, percent([run.overall for run in runs])])
    first = next(iter(groups.values()))[0]
    start = by_stage(first.layers, first.untrained)
    untrained = [percent([start[stage]]) for stage in stages]
    rows.append([f"untrained, {describe(first.key)}", *untrained, percent([float(np.mean(first.untrained))])])
    for (data, modality), values in PAPER_STAGES.items():
        overall = str(PAPER_BY_P[data][4]) if modality == "rgb" else "-"
        name = f"paper: {data} {'RGB' if modality == 'rgb' else modality} p=1/4"
        rows.append([name, *(f"{value}{'+' if value == 80 else ''}" for value in values), overall])
    for data, shares in PAPER_BY_P.items():
        rows += [
            [f"paper: {data} RGB p=1/{groups_p}", *"----", str(share)]
            for groups_p, share in shares.items()
            if groups_p != 4
        ]
    return markdown_table(["network", *stages, "all layers"], rows)


def _layer_table(groups: Mapping[tuple[str, str, float], Sequence[Measured]]) -> str:
    layers = next(iter(groups.values()))[0].layers
    rows = [
        [layer, *(percent([run.shares[number] for run in runs]) for runs in groups.values())]
        for number, layer in enumerate(layers)
    ]
    return markdown_table(["layer", *map(describe, groups)], rows)


def _run_table(runs: Sequence[Measured]) -> str:
    header = ["network", "seed", "epochs", "top-1 %", "videos", "protocol", "manifest", "checkpoint", "share %"]
    rows = []
    for run in runs:
        facts = run.facts
        top1 = "-" if facts["top1"] is None else f"{facts['top1']:.1f}"
        row = [describe(run.key), str(facts["seed"]), str(facts["epoch"]), top1, str(facts["n"])]
        row += [facts["protocol"]["name"], facts["manifest"], facts["checkpoint"], percent([run.overall])]
        rows.append(row)
    return markdown_table(header, rows)


def as_json(runs: Sequence[Measured]) -> dict[str, Any]:
    """Plain types: every run with its shares by layer and stage, and the findings; `from_json` reads the runs back."""
    return {
        "runs": [asdict(run) | {"stages": run.stages(), "overall": run.overall} for run in runs],
        "movement": movement(runs),
        "findings": [
            {
                "claim": finding.claim,
                "paper": finding.paper,
                "verdict": finding.verdict,
                "cases": [
                    {"what": case.what, "points": list(case.points), "verdict": case.verdict} for case in finding.cases
                ],
            }
            for finding in findings(runs)
        ],
    }


def from_json(results: Mapping[str, Any]) -> list[Measured]:
    """The runs that `as_json` wrote."""
    names = [field.name for field in fields(Measured)]
    runs = []
    for run in results["runs"]:
        values: dict[str, Any] = {name: run[name] for name in names}
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        runs.append(Measured(**values))
    return runs
