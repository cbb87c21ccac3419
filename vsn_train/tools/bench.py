"""Measure speed and memory on this machine, compare with baselines, and write JSON and a Markdown table.

    vsn-tools bench model                        the pairs behind the speed claims, R50, 8 x 224 x 224
    vsn-tools bench model sth/tsm tsm/tsn --mode forward train --batch 1 4 --compile off on
    vsn-tools bench loader /data/kinetics400/val /data/UCF-101   decoding videos: training and evaluation
    vsn-tools bench model sth:p=0.5,integration=sum/sth:reference --device cuda --precision bf16
    vsn-tools bench eval ../clips/*.mp4 --protocols tencrop_10clip      evaluation, compared with decoding per view
    vsn-tools bench step                          what each speed switch changes in a training step
    vsn-tools bench step --only fp32 bf16,channels_last --size 224 --batch 8 --device cuda
    vsn-tools bench step --processes 2            the speed switches for several processes
    vsn-tools bench live --threads 1              live video: one new frame, compared with the whole clip again
    vsn-tools bench table --arch resnet50 --frames 8     latency and throughput, compared with the papers' tables

Everything that is compared runs in interleaved rounds. The tables show medians, and ratios within each round with their
quartiles. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from vsn_train.analysis.tables import markdown_table, write_results
from vsn_train.bench.evaluation import (
    EvalWorkload,
    Run,
    list_videos,
    measured,
    score_decoding_once,
    score_view_by_view,
)
from vsn_train.bench.live import live_table, time_live
from vsn_train.bench.network import MODES, Setting, Workload, as_data, compare_models, from_data, time_models
from vsn_train.bench.reading import (
    Reading,
    clips_per_second,
    compare_reading,
    gather_videos,
    growth_table,
    memory_table,
    reading_table,
    together,
    total_table,
    worker_memory,
)
from vsn_train.bench.reading import (
    as_data as reading_data,
)
from vsn_train.bench.step import default_choices, step_table, time_saving, time_steps, time_workers
from vsn_train.bench.table import NetworkTimes, measured_table, paper_table, time_networks
from vsn_train.bench.timing import hardware, ratio
from vsn_train.config import Data, config_folder
from vsn_train.data.inputs import find_videos
from vsn_train.data.isolated import usable_cores
from vsn_train.data.protocol import Protocol
from vsn_train.engine.distributed import Process
from vsn_train.engine.interleave import interleave
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.backbone import ARCHS, OPERATORS

# Operators against the network without one, STH against TSM, and each against its reference form.
PAIRS = ["tsm/tsn", "vsn_compact/tsn", "vsn_headtail/tsn", "sth/tsm"]
PAIRS += [f"{operator}/{operator}:reference" for operator in ("tsm", "vsn_compact", "vsn_headtail", "sth")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)
    model_arguments(commands.add_parser("model", help="forward pass and training step of networks, pair by pair"))
    eval_arguments(
        commands.add_parser("eval", help="videos/s and memory of each protocol, compared with decoding per view")
    )
    loader_arguments(commands.add_parser("loader", help="decoding videos for training and for each protocol"))
    step_arguments(commands.add_parser("step", help="what each speed switch changes in a training step"))
    live_arguments(commands.add_parser("live", help="live video: one new frame, compared with the whole clip again"))
    table_arguments(commands.add_parser("table", help="latency and throughput, compared with the papers' speed tables"))


def run(arguments: argparse.Namespace) -> int:
    arguments.work(arguments)
    return 0


def model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pairs", nargs="*", metavar="MODEL/REFERENCE", default=PAIRS,
        help="operator[:key=value,…,reference], twice; default: " + " ".join(PAIRS),
    )  # fmt: skip
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--arch", choices=ARCHS, default="resnet50")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes, in clips; default 1")
    setting_arguments(parser, channels_last=["off", "on"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark/model"),
        help="output path without suffix; writes .md and .json",
    )
    parser.set_defaults(work=model)


def setting_arguments(parser: argparse.ArgumentParser, channels_last: list[str]) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--channels-last", nargs="+", choices=("off", "on"), default=channels_last)
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"])


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """Every requested combination; each network is reported in its fastest one."""
    return [
        Setting(precision, channels_last == "on", compiled == "on")
        for precision in arguments.precision
        for channels_last in arguments.channels_last
        for compiled in arguments.compile
    ]


def use_device(device: str, threads: int, processes: int = 1) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device; use --device cpu")
    if device == "cuda" and processes > torch.cuda.device_count():
        raise InputError(f"--processes {processes}: this machine has {torch.cuda.device_count()} CUDA devices")
    if threads:
        torch.set_num_threads(threads)


def model(arguments: argparse.Namespace) -> None:
    use_device(arguments.device, arguments.threads)
    pairs = []
    for text in arguments.pairs:
        name, separator, reference = text.partition("/")
        if not separator:
            raise InputError(f"{text}: expected two models, as in tsm/tsn")
        pairs.append((name, reference))
    settings = settings_of(arguments)
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
            data += as_data(result)
    facts["rounds"] = str(arguments.rounds)
    write_results(arguments.output, "Speed and memory of the networks", facts, "\n\n".join(parts), data)
    print(f"written: {arguments.output}.md and .json")


def loader_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", type=Path, help="files or folders; each is reported separately")
    parser.add_argument(
        "--mode", nargs="+", choices=["train", *protocol_names()], default=["train", "center_1clip", "tencrop_10clip"]
    )
    parser.add_argument("--limit", type=int, default=20, help="most videos of a folder, evenly spaced; default 20")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-copies", action="store_true", help="do not measure fast-seek copies (temporary files)")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="loader workers for the total throughput; 0: skip it"
    )
    parser.add_argument(
        "--memory", type=int, default=0, metavar="CLIPS", help="measure a worker's memory over CLIPS clips; 0: skip it"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark/loader"),
        help="output path without suffix; writes .md and .json",
    )
    parser.set_defaults(work=loader)


def loader(arguments: argparse.Namespace) -> None:
    facts, parts, data = hardware(), [], []
    facts["rounds"] = str(arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        copies = None if arguments.no_copies else Path(folder)
        groups = [gather_videos(path, arguments.limit, copies) for path in arguments.videos]

        def report(title: str, table: str) -> None:
            parts.append(f"## {title}\n\n{table}")
            print(parts[-1] + "\n", flush=True)

        if copies:
            report("Space of the fast-seek copies", growth_table(groups))
        for mode in arguments.mode:
            results = [
                compare_reading(group, reading_of(mode, arguments.num_frames), arguments.rounds) for group in groups
            ]
            data += [row for result in results for row in reading_data(result)]
            report(f"{mode}, one core", reading_table(results + ([together(results)] if len(results) > 1 else [])))
        training = Reading("train", arguments.num_frames)
        if arguments.workers:
            speeds = clips_per_second(groups, training, arguments.workers, clips=200)
            data.append({"mode": "train", "workers": arguments.workers, "clips_per_s": speeds})
            report("train, all workers together", total_table(speeds, arguments.workers))
        if arguments.memory:
            kinds = {"ours": [f for group in groups for f in group.files]}
            kinds |= {"ours, copies": [f for group in groups for f in group.copies]} if copies else {}
            memory = {name: worker_memory(files, training, arguments.memory) for name, files in kinds.items()}
            data.append({"mode": "memory", "megabytes": memory})
            report("Resident memory of one worker", memory_table(memory))
    write_results(arguments.output, "Speed of reading videos", facts, "\n\n".join(parts), data)
    print(f"written: {arguments.output}.md and .json")


def reading_of(mode: str, num_frames: int) -> Reading:
    """ "train", or a file of configs/protocol under the sizes of configs/data."""
    if mode == "train":
        return Reading("train", num_frames)
    protocol = protocol_of(mode, 256, 224)
    return Reading(mode, num_frames, protocol.placement, protocol.clips, protocol.crops, protocol.short_side,
                   protocol.crop_size)  # fmt: skip


# ---- Tests -----------------------------------------------------------------------------------------------------------


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", help="files, folders or patterns")
    parser.add_argument("--protocols", nargs="+", choices=protocol_names(), default=protocol_names())
    parser.add_argument("--operator", default="tsm", choices=tuple(OPERATORS))
    parser.add_argument("--arch", choices=ARCHS, default="resnet18")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="crop in pixels; the short side is 8/7 of it")
    parser.add_argument("--views-per-batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--modality", choices=("rgb", "flow"), default="rgb")
    parser.add_argument(
        "--channels-last", choices=("ours", "both", "neither"), default="ours",
        help="memory format of the network; ours: as vsn-eval chooses, and the baseline's as it was built",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark/eval"),
        help="output path without suffix; writes .md and .json",
    )
    parser.set_defaults(work=evaluation)


def evaluation(arguments: argparse.Namespace) -> None:
    use_device(arguments.device, arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model = create_model(arguments.operator, arguments.arch, arguments.num_frames, 400, modality=arguments.modality)
    torch.nn.init.normal_(model.head.weight, std=0.05)  # scores of the usual size, so that a difference shows
    models = dict.fromkeys(("once", "by view"), model)
    for way in {"ours": ("once",), "both": ("once", "by view"), "neither": ()}[arguments.channels_last]:
        models[way] = copy.deepcopy(models[way]).to(memory_format=torch.channels_last)
    paths = find_videos(arguments.videos)
    facts = hardware(arguments.device) | {
        "network": f"{arguments.operator} {arguments.arch}, {arguments.num_frames} x {arguments.size} x "
        f"{arguments.size}, {arguments.precision}",
        "channels last": arguments.channels_last,
        "videos": str(len(paths)),
        "workers": str(arguments.workers),
        "views per batch": str(arguments.views_per_batch),
        "rounds": str(arguments.rounds),
    }
    rows, data = [], []
    for name in arguments.protocols:
        protocol = protocol_of(name, arguments.size * 8 // 7, arguments.size)
        workloads = {
            way: EvalWorkload(
                network.to(device), paths, arguments.num_frames, protocol, Process(0, 1, device),
                torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"),
                arguments.views_per_batch, arguments.workers, modality=arguments.modality,
            )
            for way, network in models.items()
        }  # fmt: skip
        score: dict[str, Callable[[EvalWorkload], np.ndarray]] = {
            "once": score_decoding_once,
            "by view": partial(score_view_by_view, videos=list_videos(workloads["by view"])),
        }
        runs: dict[str, list[Run]] = {way: [] for way in workloads}
        actions = {way: partial(add_run, runs[way], partial(score[way], workloads[way])) for way in workloads}
        times = interleave(actions, arguments.rounds, warmup=0, device=arguments.device)
        found = {way: runs[way][0].scores for way in workloads}
        error = float(np.abs(found["once"] - found["by view"]).max())
        speeds = {way: len(paths) / float(np.median(times[way])) for way in times}
        cpu = {way: [run.cpu_seconds for run in runs[way]] for way in workloads}
        peaks = {way: [run.peak_bytes or 0 for run in runs[way]] for way in workloads}
        ways = ("by view", "once")
        row = [name, str(protocol.views), *(f"{speeds[way]:.3f}" for way in ways)]
        row.append(str(ratio(times["by view"], times["once"])))
        row += [f"{np.median(cpu[way]) / len(paths):.2f}" for way in ways]
        rows.append([*row, *(f"{max(peaks[way]) / 2**20:.0f}" for way in ways), f"{error:.1e}"])
        print("  ".join(rows[-1]), flush=True)
        data.append({"protocol": name, "views": protocol.views, "largest_difference": error,
                     "largest_score": float(np.abs(found["once"]).max()), "cpu_seconds": cpu,
                     "seconds": {way: times[way].tolist() for way in times}, "peak_bytes": peaks})  # fmt: skip
    header = ["protocol", "views", "by view, videos/s", "once, videos/s", "ratio (quartiles)",
              "by view, CPU s a video", "once, CPU s a video", "by view, MiB", "once, MiB",
              "largest difference"]  # fmt: skip
    text = markdown_table(header, rows)
    write_results(arguments.output, "Speed and memory of tests", facts, text, data)
    print(f"\n{text}\n\nwritten: {arguments.output}.md and .json")


def add_run(runs: list[Run], score: Callable[[], np.ndarray]) -> None:
    runs.append(measured(score))


def protocol_names() -> list[str]:
    return sorted(path.stem for path in (config_folder() / "protocol").glob("*.yaml"))


def protocol_of(name: str, short_side: int, crop_size: int) -> Protocol:
    """A file of configs/protocol for a network of these sizes in pixels."""
    sizes = {"data": {"short_side": short_side, "crop_size": crop_size}}
    values = OmegaConf.merge(sizes, OmegaConf.load(config_folder() / "protocol" / f"{name}.yaml"))
    return Protocol(values.clips, values.placement, values.crops, values.short_side, values.crop_size)


# ---- Switches of the training step -----------------------------------------------------------------------------------


def step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", nargs="+", metavar="SWITCH[,SWITCH…]", help="switches to measure; the first is the baseline"
    )
    parser.add_argument("--operator", default="tsm", choices=tuple(OPERATORS))
    parser.add_argument("--arch", choices=ARCHS, default="resnet50")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=2, help="clips per step and process; default 2")
    parser.add_argument("--processes", type=int, default=1, help="above 1: measure the switches for several processes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default; several processes share the cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark/step"),
        help="output path without suffix; writes .md and .json",
    )
    parser.set_defaults(work=step)


def step(arguments: argparse.Namespace) -> None:
    use_device(arguments.device, arguments.threads, arguments.processes)
    work = Workload(arguments.arch, arguments.num_frames, arguments.size, arguments.batch, device=arguments.device)
    choices = arguments.only or default_choices(arguments.device, arguments.processes)
    facts = hardware(arguments.device) | {
        "network": f"{arguments.operator}, {work.arch}",
        "clips of a step": f"{work.batch} x {work.num_frames} x 3 x {work.size} x {work.size}, in each process",
        "processes": str(arguments.processes),
        "rounds": str(arguments.rounds),
    }
    result = time_steps(choices, arguments.operator, work, arguments.rounds, arguments.processes)
    saving = time_saving(arguments.operator, work)
    workers = Data().workers
    kept, started = time_workers(workers)
    text = f"{step_table(result)}\n\nMB: peak memory of a step, without weights, momentum and buffers.\n\n" + (
        f"Saving a checkpoint of {saving.megabytes:.0f} MB delays a step by {saving.beside_s:.2f} s; a synchronous "
        f"write would delay it by {saving.at_once_s:.2f} s.\n\nOne empty batch from each of {workers} loader workers: "
        f"{1000 * kept:.1f} ms with persistent workers, {1000 * started:.1f} ms with new ones."
    )
    data = {
        "steps": [
            {"switches": choice, "seconds": seconds.tolist(), "peak_bytes": result.memory[choice]}
            for choice, seconds in result.times.items()
        ],
        "saving": asdict(saving),
        "workers": {"workers": workers, "kept_s": kept, "started_s": started},
    }
    write_results(arguments.output, "Switches of the training step", facts, text, data)
    print(f"{text}\n\nwritten: {arguments.output}.md and .json")


# ---- Live video ------------------------------------------------------------------------------------------------------


def live_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", nargs="+", choices=ARCHS, default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="crop in pixels; the short side is 8/7 of it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark/live"),
        help="output path without suffix; writes .md and .json",
    )
    parser.set_defaults(work=live)


def live(arguments: argparse.Namespace) -> None:
    use_device(arguments.device, arguments.threads)
    facts = hardware(arguments.device) | {
        "frames": "320 x 240, from pixels to scores; tsm_online, fp32, channels_last",
        "rounds": str(arguments.rounds),
    }
    works = [Workload(arch, arguments.num_frames, arguments.size, device=arguments.device) for arch in arguments.arch]
    results = [time_live(work, arguments.rounds) for work in works]
    data = []
    for each in results:
        seconds, cpu = ({way: times.tolist() for way, times in of.items()} for of in (each.times, each.cpu))
        data.append(asdict(each.work) | {"seconds": seconds, "cpu_seconds": cpu})
    text = live_table(results)
    write_results(arguments.output, "Live video, frame by frame", facts, text, data)
    print(f"{text}\n\nwritten: {arguments.output}.md and .json")


# ---- Compared with the papers' speed tables --------------------------------------------------------------------------


def table_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", nargs="+", choices=ARCHS, default=["resnet50", "resnet101"])
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=8, help="batch size for the throughput, in clips; default 8")
    parser.add_argument("--add", action="store_true", help="keep the other sizes of an earlier run in --output")
    setting_arguments(parser, channels_last=["on"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark/table"),
        help="output path without suffix; writes .md and .json",
    )
    parser.set_defaults(work=table)


def table(arguments: argparse.Namespace) -> None:
    use_device(arguments.device, arguments.threads)
    facts = hardware(arguments.device) | {
        "clips": f"3 x {arguments.size} x {arguments.size} a frame; one for the latency, {arguments.batch} at once for "
        "the throughput; forward passes, with float clips on the device",
        "settings": "the fastest of each network among " + ", ".join(str(each) for each in settings_of(arguments)),
        "rounds": str(arguments.rounds),
    }
    sizes = [(arch, frames) for arch in arguments.arch for frames in arguments.frames]
    results = [each for each in earlier(arguments.output, facts) if each.size not in sizes] if arguments.add else []
    for arch, frames in sizes:
        work = Workload(arch, frames, arguments.size, arguments.batch, device=arguments.device)
        results.append(time_networks(work, settings_of(arguments), arguments.rounds))
        results.sort(key=lambda each: each.size[1])
        results.sort(key=lambda each: ARCHS.index(each.size[0]))
        text = (
            f"## This machine\n\n{measured_table(results)}\n\n## Compared with the papers\n\n"
            "As ratios, because neither paper names its hardware; latency below 1 and throughput above 1 are "
            f"better than the reference.\n\n{paper_table(results)}"
        )
        data = [row for each in results for row in as_data(each.single) + as_data(each.batch)]
        # After each size, so that an interrupted measurement keeps its results.
        write_results(arguments.output, "Latency and throughput, compared with the papers", facts, text, data)
    print(f"{text}\n\nwritten: {arguments.output}.md and .json")


def earlier(output: Path, facts: dict[str, str]) -> list[NetworkTimes]:
    """The results of an earlier measurement under the same conditions. Raises InputError for other conditions."""
    path = output.with_suffix(".json")
    try:
        found = json.loads(path.read_text())
        times = {(each.work.arch, each.work.num_frames, each.work.batch): each for each in from_data(found["results"])}
        theirs = dict(found["facts"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: --add needs the results of an earlier `bench table` ({error!r})") from None
    for key in set(facts) - {"date", "load before"}:
        if theirs.get(key) != facts[key]:
            raise InputError(f"{path}: --add: {key} was {theirs.get(key)!r}, now {facts[key]!r}; measure all again")
    sizes = dict.fromkeys((arch, frames) for arch, frames, _ in times)
    batch = max(batch for *_, batch in times)
    return [NetworkTimes(times[arch, frames, 1], times[arch, frames, batch]) for arch, frames in sizes]
