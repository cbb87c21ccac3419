"""Parameters and multiply-accumulate operations (MACs) of the operators, compared with the papers.

    vsn-tools complexity                                              the table of the papers' models
    vsn-tools complexity --operator sth --arch resnet50 --classes 174 one model, layer by layer
    vsn-tools complexity --operator sth --arch resnet50 --option p=0.125 --option integration=sum

The papers count MACs and call them FLOPs. Sources: VSN, arXiv 1911.11319, tables 2 and 5; STH, arXiv 2003.08042, tables
2, 6 and 9; the TSM rows are those of the VSN paper.
"""

from __future__ import annotations

import argparse
from typing import Any

from vsn_train.analysis.complexity import complexity, layer_table, total
from vsn_train.import_function import find_operator
from vsn_train.models.backbone import parse_option

# operator, arch, options, title, the papers' figures: parameters in millions, GFLOPs at 8 and 16 frames.
# The papers do not state the number of classes: 24.3M fits 400 (Kinetics), 22.0M fits 174 (Something-Something).
PAPERS: list[tuple[str, str, dict[str, Any], str, str, str, str]] = [
    ("tsn", "resnet50", {}, "TSN", "24.3", "33", "65"),
    ("tsm", "resnet50", {}, "TSM", "24.3", "33", "65"),
    ("vsn_compact", "resnet50", {}, "VSN compact", "24.3", "33", "-"),
    ("vsn_headtail", "resnet50", {}, "VSN headtail", "-", "-", "-"),
    ("tsm", "resnet101", {}, "TSM", "-", "-", "-"),
    ("vsn_compact", "resnet101", {}, "VSN compact", "42.9", "63", "-"),
    ("sth", "resnet50", {"p": 1 / 8, "integration": "sum"}, "STH p=1/8 sum", "23.1", "32.2", "-"),
    ("sth", "resnet50", {"p": 1 / 8, "integration": "attention"}, "STH p=1/8 attention", "-", "-", "-"),
    ("sth", "resnet50", {"p": 1 / 4, "integration": "sum"}, "STH p=1/4 sum", "22.0", "30.5", "-"),
    ("sth", "resnet50", {"p": 1 / 4, "integration": "attention"}, "STH p=1/4 attention", "23.2", "30.6", "61.3"),
    ("sth", "resnet50", {"p": 1 / 2, "integration": "sum"}, "STH p=1/2 sum", "20.3", "28.5", "-"),
    ("sth", "resnet50", {"p": 1 / 2, "integration": "attention"}, "STH p=1/2 attention", "-", "-", "-"),
    ("tsm", "mobilenet_v2", {}, "TSM", "-", "-", "-"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--operator", help="tsn, tsm, …, or module.function; default: the table of all models")
    parser.add_argument("--arch", default="resnet50", help="default resnet50")
    parser.add_argument("--num-frames", type=int, default=8, help="frames per clip; default 8")
    parser.add_argument("--classes", type=int, default=400, help="default 400")
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels; default 224")
    parser.add_argument("--modality", default="rgb", choices=("rgb", "flow"), help="default rgb")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the operator")


def run(arguments: argparse.Namespace) -> int:
    if arguments.operator is None:
        print(paper_table(arguments.size))
        return 0
    options = dict(parse_option(text) for text in arguments.option)
    layers = complexity(
        find_operator(arguments.operator), arguments.arch, arguments.num_frames, arguments.classes, arguments.size,
        arguments.modality, **options,
    )  # fmt: skip
    print(layer_table(layers))
    return 0


def paper_table(size: int = 224) -> str:
    """One line per model: parameters at 174 and 400 classes, GMACs at 8 and 16 frames, and the papers' figures."""
    lines = [
        f"{'':<33} parameters (M)              GMACs, {size} x {size}",
        f"{'model':<20} {'network':<12} {'174 cl.':>7} {'400 cl.':>7} {'paper':>6}   "
        f"{'8 fr.':>6} {'paper':>6} {'16 fr.':>6} {'paper':>6}",
    ]
    for operator, arch, options, title, parameters, macs8, macs16 in PAPERS:
        costs = complexity(operator, arch, 8, 174, size, **options)
        few, macs = total(costs)
        many = few + costs[-1].parameters // 174 * (400 - 174)  # the classifier comes last
        _, macs_16 = total(complexity(operator, arch, 16, 174, size, **options))
        lines.append(
            f"{title:<20} {arch:<12} {few / 1e6:7.2f} {many / 1e6:7.2f} {parameters:>6}   "
            f"{macs / 1e9:6.2f} {macs8:>6} {macs_16 / 1e9:6.2f} {macs16:>6}"
        )
    return "\n".join(lines)
