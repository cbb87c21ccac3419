"""Measure speed and memory on this machine, against baselines, and write JSON and a Markdown table.

    python scripts/benchmark.py model                        the pairs behind the speed claims, R50, 8 x 224 x 224
    python scripts/benchmark.py model sth/tsm tsm/tsn --mode forward train --batch 1 4 --compile off on
    python scripts/benchmark.py model sth:p=0.5,integration=sum/sth:textbook --device cuda --precision bf16

Everything that is compared runs in turns; reported are medians and the ratios within each round with their quartiles.
Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from vsn_train.analysis.speed import MODES, Setting, Workload, compare_models, hardware, time_models, write_results
from vsn_train.errors import InputError
from vsn_train.models.backbone import ARCHS

# Operators against the network without one, STH against TSM, and each against its textbook form.
PAIRS = ["tsm/tsn", "vsn_compact/tsn", "vsn_headtail/tsn", "sth/tsm"]
PAIRS += [f"{operator}/{operator}:textbook" for operator in ("tsm", "vsn_compact", "vsn_headtail", "sth")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    model_arguments(commands.add_parser("model", help="forward pass and training step of networks, pair by pair"))
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except InputError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(2)


def model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pairs", nargs="*", metavar="MODEL/REFERENCE", default=PAIRS,
        help="operator[:key=value,…,textbook], twice; default: " + " ".join(PAIRS),
    )  # fmt: skip
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--arch", choices=ARCHS, default="resnet50")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="clips")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--channels-last", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark/model"), help="without .md and .json")
    parser.set_defaults(run=model)


def model(arguments: argparse.Namespace) -> None:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device; use --device cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pairs = []
    for text in arguments.pairs:
        name, separator, reference = text.partition("/")
        if not separator:
            raise InputError(f"{text}: expected two models, as in tsm/tsn")
        pairs.append((name, reference))
    settings = [
        Setting(precision, channels_last == "on", compiled == "on")
        for precision in arguments.precision
        for channels_last in arguments.channels_last
        for compiled in arguments.compile
    ]
    facts, parts, data = hardware(arguments.device), [], []
    models = list(dict.fromkeys(name for pair in pairs for name in pair))
    for mode in arguments.mode:
        for batch in arguments.batch:
            work = Workload(arguments.arch, arguments.num_frames, arguments.size, batch, device=arguments.device)
            result = time_models(models, settings, work, mode, arguments.rounds)
            shape = f"{batch} x {work.num_frames} x 3 x {work.size} x {work.size}"
            what = "forward pass" if mode == "forward" else "training step"
            parts.append(f"## {work.arch}, {shape}: {what}\n\n{compare_models(result, pairs)}")
            print(parts[-1] + "\n", flush=True)
            data += [
                {"work": asdict(work), "mode": mode, "model": name, "setting": asdict(setting),
                 "seconds": times.tolist(), "peak_bytes": result.memory.get((name, setting))}
                for (name, setting), times in result.times.items()
            ]  # fmt: skip
    facts["rounds"] = str(arguments.rounds)
    write_results(arguments.output, "Speed and memory of the networks", facts, "\n\n".join(parts), data)
    print(f"written: {arguments.output}.md and .json")


if __name__ == "__main__":
    main()
