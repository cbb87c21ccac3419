"""Measure what each speed switch of vsn-train changes in a training step: time and peak memory."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.network import Workload, make_model
from vsn_train.bench.timing import peak_memory, ratio
from vsn_train.data.isolated import usable_cores
from vsn_train.data.loader import Batch
from vsn_train.data.workers import Loader
from vsn_train.engine.checkpoint import Checkpoints, save_checkpoint
from vsn_train.engine.distributed import Process
from vsn_train.engine.interleave import interleave
from vsn_train.engine.optim import Schedule, build_adamw, build_average, build_sgd
from vsn_train.engine.precision import allow_tf32, autocast_for, scaler_for
from vsn_train.engine.state import Checkpoint, TrainState
from vsn_train.engine.train import StepOptions, train_step
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.saving import recompute_blocks

ANYWHERE = (
    "fp32", "channels_last", "bf16", "fp16", "compile", "fused", "adamw", "recompute", "frozen_bn", "ema", "accumulate",
)  # fmt: skip
CUDA_ONLY = ("tf32", "sync_bn")
PROCESSES_ONLY = ("copied_gradients", "static_graph", "exchange_every_batch", "sync_bn")


def default_choices(device: str, processes: int) -> list[str]:
    """The default choices of switches; the first is the baseline."""
    if processes > 1:
        choices = ["fp32", "copied_gradients", "static_graph", "accumulate", "accumulate,exchange_every_batch"]
        return [*choices, "sync_bn"] if device == "cuda" else choices
    choices = ["fp32", "channels_last", "bf16", "bf16,channels_last", "fused", "adamw", "adamw,fused", "recompute",
               "frozen_bn", "ema", "accumulate"]  # fmt: skip
    return [*choices, "tf32", "fp16,channels_last", "bf16,channels_last,compile"] if device == "cuda" else choices


@dataclass(frozen=True)
class StepTimes:
    """For every choice of switches, such as "bf16,channels_last": (rounds,) seconds, and peak bytes of a step without
    weights, momentum and buffers (and, with several processes, without DDP's gradient buckets)."""

    times: dict[str, np.ndarray]
    memory: dict[str, int]


def check_choice(choice: str, work: Workload, processes: int) -> None:
    """Raise InputError for a switch that does not exist, or that has no effect here."""
    known = {*ANYWHERE, *CUDA_ONLY, *PROCESSES_ONLY}
    switches = set(choice.split(","))
    if unknown := switches - known:
        raise InputError(f"{', '.join(sorted(unknown))}: no such switch; expected some of {', '.join(sorted(known))}")
    if work.device != "cuda" and (found := switches & set(CUDA_ONLY)):
        raise InputError(f"{', '.join(sorted(found))}: works on CUDA devices only; leave it out, or use --device cuda")
    if processes == 1 and (found := switches & set(PROCESSES_ONLY)):
        raise InputError(f"{', '.join(sorted(found))}: is for several processes; leave it out, or use --processes 2")
    if "accumulate" in switches and work.batch < 2:
        raise InputError("accumulate: it divides a step's clips into two batches; use --batch 2 or more")
    if {"accumulate", "static_graph"} <= switches:
        raise InputError("accumulate,static_graph: DDP cannot skip the all-reduce in a static graph; leave one out")


def training_step(choice: str, operator: str, work: Workload, processes: int = 1) -> Callable[[], None]:
    """One training step of vsn-train with these switches. work.batch: clips per step and process.

    operator: see `make_model`, including options and reference form. "accumulate" splits the clips into two batches.
    "copied_gradients": runtime.gradient_as_bucket_view=false.
    """
    switches, device = set(choice.split(",")), torch.device(work.device)
    network = make_model(operator, work, frozen_bn="frozen_bn" in switches)
    if "recompute" in switches:
        recompute_blocks(network.backbone)
    if "channels_last" in switches:
        network.to(memory_format=torch.channels_last)
    fused = "fused" in switches
    optimizer: torch.optim.Optimizer
    if "adamw" in switches:
        optimizer = build_adamw(network, 1e-4, (0.9, 0.999), 1e-8, 0.05, 5, fused)
    else:
        optimizer = build_sgd(network, 1e-4, 0.9, 5e-4, 5, fused=fused)
    average = build_average(network, 0.999) if "ema" in switches else None
    precision = next((each for each in ("bf16", "fp16") if each in switches), "fp32")
    options = StepOptions(autocast_for(precision, device), clip_norm=20.0)
    schedule = Schedule(optimizer, lambda steps: 1.0)
    state = TrainState(network, optimizer, schedule, scaler_for(precision, device), average)

    model: nn.Module = network
    if "sync_bn" in switches:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if "compile" in switches:
        model = torch.compile(model)  # type: ignore[assignment]
    if processes > 1:
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        model = DistributedDataParallel(
            model,
            gradient_as_bucket_view="copied_gradients" not in switches,
            static_graph="static_graph" in switches,
        )
        if "exchange_every_batch" in switches:
            vars(model)["no_sync"] = nullcontext  # what a step calls to put the exchange off
    state.network = model.train()
    video = torch.randint(256, (work.batch, work.num_frames, 3, work.size, work.size), dtype=torch.uint8, device=device)
    label = torch.arange(work.batch, device=device) % work.num_classes
    size = -(-work.batch // 2) if "accumulate" in switches else work.batch
    batches = [Batch(*each, ()) for each in zip(video.split(size), label.split(size), strict=True)]
    group, no_draws = Process(0, processes, device), np.random.default_rng(0)

    def step() -> None:
        if device.type == "cuda":
            allow_tf32("tf32" in switches)
        train_step(state, batches, options, group, work.batch * processes, no_draws)
        optimizer.zero_grad(set_to_none=True)  # last, so that a step begins and ends with the state alone

    return step


def image_training_step(choice: str, work: Workload) -> Callable[[], None]:
    """A minimal training step of torchvision's network on work.batch images: the upper bound for our steps.

    Ignores work.num_frames. Normalized float images on the device; forward, cross-entropy, backward and SGD with
    momentum, without gradient clipping, logging and checks. choice: see `training_step`; supports a precision,
    channels_last and fused.
    """
    switches, device = set(choice.split(",")), torch.device(work.device)
    torch.manual_seed(0)
    with device:
        network = torchvision.models.get_model(work.arch, num_classes=work.num_classes).train()
    layout = torch.channels_last if "channels_last" in switches else torch.contiguous_format
    network.to(memory_format=layout)
    images = torch.randn(work.batch, 3, work.size, work.size, device=device).to(memory_format=layout)
    label = torch.arange(work.batch, device=device) % work.num_classes
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused="fused" in switches
    )
    precision = next((each for each in ("bf16", "fp16") if each in switches), "fp32")
    autocast, scaler = autocast_for(precision, device), scaler_for(precision, device)

    def step() -> None:
        if device.type == "cuda":
            allow_tf32("tf32" in switches)
        with autocast:
            loss = F.cross_entropy(network(images), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def time_steps(choices: Sequence[str], operator: str, work: Workload, rounds: int, processes: int = 1) -> StepTimes:
    """Time every choice of switches in interleaved rounds. processes: number of DDP processes on this machine, with one
    CPU thread each unless there are more cores; rank 0 is timed. Raises InputError as `check_choice`."""
    for choice in choices:
        check_choice(choice, work, processes)
    if processes == 1:
        return _time_here(choices, operator, work, rounds, 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (choices, operator, work, rounds, processes, folder)
        torch.multiprocessing.start_processes(_time_in_group, arguments, processes, start_method="spawn")
        found: Any = torch.load(Path(folder) / "found.pt", weights_only=True)
    return StepTimes({choice: np.array(seconds) for choice, seconds in found["times"].items()}, found["memory"])


def _time_here(choices: Sequence[str], operator: str, work: Workload, rounds: int, processes: int) -> StepTimes:
    actions = {choice: training_step(choice, operator, work, processes) for choice in choices}
    memory = {}
    for choice, action in actions.items():
        action()  # the first step allocates the optimizer's state, and compiles
        if processes > 1:
            action()  # DDP rebuilds its buckets after the first
        memory[choice] = peak_memory(action, work.device)
    return StepTimes(interleave(actions, rounds, warmup=0, device=work.device), memory)


def _time_in_group(
    rank: int, choices: Sequence[str], operator: str, work: Workload, rounds: int, processes: int, folder: str
) -> None:
    torch.set_num_threads(max(1, usable_cores() // processes))
    if work.device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if work.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    try:
        found = _time_here(choices, operator, work, rounds, processes)
        if rank == 0:
            times = {choice: seconds.tolist() for choice, seconds in found.times.items()}
            torch.save({"times": times, "memory": found.memory}, Path(folder) / "found.pt")
    finally:
        dist.destroy_process_group()


def step_table(result: StepTimes) -> str:
    """Markdown: milliseconds, time relative to the first choice, and memory of each choice."""
    first = next(iter(result.times))
    rows = [
        [
            choice,
            f"{1000 * float(np.median(seconds)):.0f}",
            str(ratio(seconds, result.times[first])),
            f"{result.memory[choice] / 1e6:.0f}",
            f"{result.memory[choice] / result.memory[first]:.2f}",
        ]
        for choice, seconds in result.times.items()
    ]
    return markdown_table(["switches", "ms a step", f"time / {first} (quartiles)", "MB", f"MB / {first}"], rows)


@dataclass(frozen=True)
class SavingTimes:
    """Median seconds that training waits for a checkpoint: beside_s: written by a thread; at_once_s: synchronously."""

    beside_s: float
    at_once_s: float
    megabytes: float


def time_saving(operator: str, work: Workload, repeats: int = 5) -> SavingTimes:
    """Time saving a checkpoint with the network's weights and momentum."""
    weights = create_model(operator, work.arch, work.num_frames, work.num_classes).state_dict()
    momentum = {name: value.clone() for name, value in weights.items()}  # the same tensors would be written once
    content = Checkpoint(
        model=weights, average=None, optimizer=momentum, scaler={}, config={}, class_names=[], flip_pairs=[], epoch=0,
        step=0,
    )  # fmt: skip
    beside, at_once = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), lambda: content, True)
        other = Path(folder) / "other.pt"
        for _ in range(repeats):
            beside.append(_seconds(checkpoints.save))
            checkpoints.wait()
            at_once.append(_seconds(partial(save_checkpoint, other, content)))
        megabytes = other.stat().st_size / 1e6
    return SavingTimes(float(np.median(beside)), float(np.median(at_once)), megabytes)


def _seconds(action: Callable[[], object]) -> float:
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


class _Nothing:
    """A data set that takes no time to load."""

    def __getitem__(self, key: int) -> int:
        return key

    def video_of(self, key: int) -> tuple[int, str]:
        return key, ""


def time_workers(workers: int, repeats: int = 5) -> tuple[float, float]:
    """Median seconds of an epoch with one empty batch per worker: with persistent workers, and with new ones."""
    kept, started = [], []
    loader = Loader(_Nothing(), [[0]] * workers, list, workers)
    with closing(loader):
        for _ in range(repeats):
            loader.close()
            started.append(_seconds(lambda: list(loader)))
            kept.append(_seconds(lambda: list(loader)))
    return float(np.median(kept)), float(np.median(started))
