"""The report's sections on networks: training, forward passes, switches. Each adds rows to its section."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from scripts.gpu.plan import Action, CutOff, Section, bounded
from vsn_train.bench.network import Setting, Workload, model_action
from vsn_train.bench.step import check_choice, image_training_step, time_saving, time_workers, training_step
from vsn_train.bench.table import NETWORKS
from vsn_train.data.isolated import usable_cores

IMAGES = "images"  # the upper bound: torchvision's network on as many images as the clips have frames
TITLES = {**NETWORKS, "sth:integration=sum": "STH sum"}
OPERATORS = tuple(TITLES)
# Measured first, in case time runs out.
FIRST = ("tsn", "tsm", "sth:integration=attention")
# Networks that are also measured compiled, in this order: each takes most of a minute.
COMPILED = ("tsm", "tsn", "sth:integration=attention", "vsn_compact")
BASE = Setting("bf16", channels_last=True)
# The baseline of the switches: the default of vsn-train on a GPU.
USUAL = "bf16,channels_last,fused"
SWITCHES = (
    USUAL, "bf16,fused", "bf16,channels_last", f"{USUAL},adamw", f"{USUAL},recompute", f"{USUAL},frozen_bn",
    f"{USUAL},ema", f"{USUAL},accumulate", "channels_last,fused", "tf32,channels_last,fused",
    "fp16,channels_last,fused", "fp32", "tf32",
)  # fmt: skip
Builders = dict[Any, tuple[dict[str, Any], Callable[[], Action]]]


@dataclass(frozen=True)
class Sizes:
    """The workload of all sections. base: the default setting. models: of all sections except the first. rounds: most
    rounds of a comparison; compile_s: most seconds for compiling one network."""

    work: Workload
    deeper: str = "resnet101"
    base: Setting = BASE
    models: tuple[str, ...] = OPERATORS
    rounds: int = 30
    compile_s: float = 75.0

    @property
    def small(self) -> bool:
        """Whether this is a trial of the script."""
        return self.rounds == 1


def choice_of(setting: Setting) -> str:
    """The switches of `training_step` for a setting, with the default optimizer of vsn-train on a GPU."""
    parts = [setting.precision, "channels_last" if setting.channels_last else "", "fused"]
    return ",".join(part for part in [*parts, "compile" if setting.compiled else ""] if part)


def trainings(models: Sequence[str], work: Workload, settings: Sequence[Setting]) -> Builders:
    """Training steps with vsn-train's `train_step`, with uint8 clips on the device. The settings of a network follow
    each other, so that a cut leaves complete networks."""
    found: Builders = {}
    for model in models:
        for setting in settings:
            row = {"mode": "train", "model": model, "work": asdict(work), "setting": asdict(setting)}
            found[f"{model} train {setting}"] = row, partial(training_step, choice_of(setting), model, work)
    return found


def forwards(models: Sequence[str], work: Workload, settings: Sequence[Setting]) -> Builders:
    """Forward passes without gradients, with float clips on the device."""
    found: Builders = {}
    for model in models:
        for setting in settings:
            row = {"mode": "forward", "model": model, "work": asdict(work), "setting": asdict(setting)}
            found[f"{model} forward {work.batch} {setting}"] = (
                row,
                partial(model_action, model, work, setting, "forward"),
            )
    return found


def on_device(settings: Sequence[Setting], device: str) -> list[Setting]:
    """The settings for the device: TF32 needs CUDA, and fp16 takes minutes on a CPU."""
    return [each for each in settings if device == "cuda" or each.precision not in ("tf32", "fp16")]


# ---- Sections --------------------------------------------------------------------------------------------------------


def operators(section: Section, sizes: Sizes) -> None:
    """The goals: the upper bound and all operators, interleaved, in the default setting of vsn-train on a GPU."""
    work = sizes.work
    images = replace(work, num_frames=1, batch=work.batch * work.num_frames)
    row = {"mode": "train", "model": IMAGES, "work": asdict(images), "setting": asdict(sizes.base)}
    builders: Builders = {IMAGES: (row, partial(image_training_step, choice_of(sizes.base), images))}
    section.time(
        builders | trainings(OPERATORS, work, [sizes.base]),
        sizes.rounds,
        work.device == "cuda",
        least=5,
        all_of_them=True,
    )


def forward(section: Section, sizes: Sizes) -> None:
    """Latency of one clip and throughput of a batch."""
    one, many = replace(sizes.work, batch=1), sizes.work
    middle = time.monotonic() + section.clock.left / 2
    section.time(forwards(sizes.models, one, [sizes.base]), 2 * sizes.rounds, deadline=middle)
    section.time(forwards(sizes.models, many, [sizes.base]), sizes.rounds)


def precision(section: Section, sizes: Sizes) -> None:
    """Training and forward passes in every precision, including bf16 again."""
    settings = [Setting(name, channels_last=True) for name in ("bf16", "fp16", "tf32", "fp32")]
    settings, order = on_device(settings, section.device), sorted(sizes.models, key=lambda name: name not in FIRST)
    most = max(1, sizes.rounds // 3)
    until = time.monotonic() + 0.65 * section.clock.left
    section.time(trainings(order, sizes.work, settings), most, deadline=until)
    section.time(forwards(order, sizes.work, settings), most)


def all_three(section: Section, sizes: Sizes, work: Workload) -> None:
    """Training, latency and throughput of another size."""
    began, left, most = time.monotonic(), section.clock.left, max(1, sizes.rounds // 2)
    models, settings = sizes.models, [sizes.base]
    section.time(trainings(models, work, settings), most, deadline=began + 0.55 * left)
    section.time(forwards(models, replace(work, batch=1), settings), most, deadline=began + 0.75 * left)
    section.time(forwards(models, work, settings), most)


def more_frames(section: Section, sizes: Sizes) -> None:
    all_three(section, sizes, replace(sizes.work, num_frames=2 * sizes.work.num_frames))


def deeper(section: Section, sizes: Sizes) -> None:
    all_three(section, sizes, replace(sizes.work, arch=sizes.deeper))


def switches(section: Section, sizes: Sizes) -> None:
    """Each switch of a training step of TSM, and the time of a checkpoint and of starting loader workers."""
    builders: Builders = {}
    for choice in SWITCHES:
        parts = set(choice.split(","))
        if section.device != "cuda" and parts & {"tf32", "fp16"}:
            continue
        if sizes.small and choice not in SWITCHES[:2]:
            continue
        check_choice(choice, sizes.work, 1)
        row = {"mode": "step", "switches": choice, "model": "tsm", "work": asdict(sizes.work)}
        builders[choice] = row, partial(training_step, choice, "tsm", sizes.work)
    section.time(builders, max(1, sizes.rounds // 3), memory=section.device == "cuda")
    if section.clock.left > 2:
        workers = max(1, usable_cores() - 2)
        saving, (kept, started) = time_saving("tsm", sizes.work, repeats=2), time_workers(workers, repeats=2)
        found = {"saving": asdict(saving), "workers": workers, "kept_s": kept, "started_s": started}
        section.rows.append({"section": section.name, "mode": "beside", **found})
    else:
        section.notes.append("not measured, time was up: checkpoints, loader workers")


def reference(section: Section, sizes: Sizes) -> None:
    """Our operators compared with their reference forms, which follow the papers' formulas literally."""
    models = [each for name in sizes.models if name != "tsn" for each in (name, reference_of(name))]
    most = max(1, sizes.rounds // 3)
    until = time.monotonic() + 0.65 * section.clock.left
    section.time(trainings(models, sizes.work, [sizes.base]), most, memory=section.device == "cuda", deadline=until)
    section.time(forwards(models, sizes.work, [sizes.base]), most)


def reference_of(model: str) -> str:
    return f"{model},reference" if ":" in model else f"{model}:reference"


def compiled(section: Section, sizes: Sizes) -> None:
    """Training steps with runtime.compile=true, each network compared with itself not compiled."""
    most = max(1, sizes.rounds // 3)
    for model in [each for each in COMPILED if each in sizes.models]:
        if section.clock.left < min(10.0, sizes.compile_s / 2):
            section.notes.append(f"not measured, time was up: {model} compiled")
            continue
        torch.compiler.reset()  # torch keeps at most eight graphs per code object, which all networks share
        builders = trainings([model], sizes.work, [sizes.base, replace(sizes.base, compiled=True)])
        began = time.monotonic()
        try:
            with bounded(min(sizes.compile_s, section.clock.left)):
                section.time(builders, most, least=5)
        except CutOff:
            section.notes.append(f"{model}: cut off after {time.monotonic() - began:.0f} s of compiling and timing")
