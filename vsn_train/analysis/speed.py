"""Times and memory of things that are compared.

Machines are noisy: whatever is compared runs in turns, so that a disturbance meets all of them, and what is reported
are medians and the ratios within a round, with the quartiles of these ratios.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vsn_train.analysis.baselines import to_textbook
from vsn_train.errors import InputError
from vsn_train.interleave import interleave, synchronize
from vsn_train.models import create_model
from vsn_train.models.backbone import parse_option

MODES = ("forward", "train")


@dataclass(frozen=True)
class Ratio:
    """Of the times of two things in the same rounds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


def ratio(times: np.ndarray, reference: np.ndarray) -> Ratio:
    """times, reference: (rounds,) seconds, measured in turns."""
    low, median, high = np.quantile(times / reference, (0.25, 0.5, 0.75))
    return Ratio(float(median), float(low), float(high))


def peak_memory(action: Callable[[], object], device: str) -> int:
    """Bytes that one call of `action` holds in tensors at its peak, above what was held before.

    On a CPU these are the allocations that torch's profiler sees; scratch memory inside oneDNN is not among them.
    """
    synchronize(device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells the terminal of every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def hardware(device: str = "cpu") -> dict[str, str]:
    """What the figures depend on, for the head of a table."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    facts = {
        "date": datetime.date.today().isoformat(),
        "cpu": f"{cpu}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "av", "numpy")),
    }
    if hasattr(os, "getloadavg"):
        # Above 1 per core before anything of ours has run, somebody else is at work and the times are too long.
        facts["load before"] = f"{os.getloadavg()[0]:.1f}"
    if device == "cuda":
        facts["gpu"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return facts


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text too; columns after the first to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in (header, *rows)]  # fmt: skip
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))


def write_results(output: Path, title: str, facts: Mapping[str, str], text: str, data: Any) -> None:
    """<output>.md: title, facts, `text`. <output>.json: facts and `data`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    described = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    output.with_suffix(".md").write_text(f"# {title}\n\n{described}\n\n{text}\n", encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps({"facts": dict(facts), "results": data}, indent=1) + "\n")


# ---- Models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How a model is run."""

    precision: str = "fp32"  # "fp32" or "bf16"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        parts = [self.precision, "channels_last" if self.channels_last else "contiguous"]
        return " ".join([*parts, "compiled" if self.compiled else "eager"])


@dataclass(frozen=True)
class Workload:
    """What a model is run on: batch clips of num_frames frames of size × size pixels."""

    arch: str = "resnet50"
    num_frames: int = 8
    size: int = 224
    batch: int = 1
    num_classes: int = 174
    device: str = "cpu"


def make_model(text: str, work: Workload) -> nn.Module:
    """ "sth:p=0.5,integration=sum" -> that network; ":textbook" among the options: with its operators in textbook form.

    Raises InputError for what `create_model` does not know.
    """
    operator, _, rest = text.partition(":")
    options = [option for option in rest.split(",") if option]
    textbook = "textbook" in options
    known: dict[str, Any] = dict(parse_option(option) for option in options if option != "textbook")
    torch.manual_seed(0)
    model = create_model(operator, work.arch, work.num_frames, work.num_classes, **known)
    return to_textbook(model) if textbook else model


def model_action(text: str, work: Workload, setting: Setting, mode: str) -> Callable[[], object]:
    """One forward pass without gradients, or one training step: forward, loss, backward, SGD with momentum."""
    if mode not in MODES:
        raise InputError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    model = make_model(text, work).to(work.device).train(mode == "train")
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)
    run = compiled(model) if setting.compiled else model
    video = torch.randn(work.batch, work.num_frames, 3, work.size, work.size, device=work.device)
    autocast = torch.autocast(work.device, dtype=torch.bfloat16, enabled=setting.precision == "bf16")
    if mode == "forward":

        def forward() -> None:
            with torch.inference_mode(), autocast:
                run(video)

        return forward
    label = torch.arange(work.batch, device=work.device) % work.num_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with autocast:
            logits = run(video)
        F.cross_entropy(logits.float(), label).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # last, so that a step begins and ends with the state alone

    return step


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model as one compiled graph, however many others there are.

    torch keeps graphs with the code that they come from, and after eight for the same code it goes on uncompiled, with
    a warning. All recognizers share their code, so each is called by a copy of a function of its own.
    """

    def call(video: Tensor) -> Tensor:
        return model(video)

    call.__code__ = call.__code__.replace()
    return torch.compile(call, fullgraph=True)


def state_bytes(text: str, work: Workload) -> int:
    """Parameters, their momentum, and buffers; what a training holds between two steps."""
    model = make_model(text, work)
    return sum(2 * p.numel() * p.element_size() for p in model.parameters()) + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )


@dataclass(frozen=True)
class ModelTimes:
    """times: (rounds,) seconds of every model under every setting. memory: bytes at the peak of a training step."""

    work: Workload
    mode: str
    times: dict[tuple[str, Setting], np.ndarray]
    memory: dict[tuple[str, Setting], int]

    def fastest(self, model: str) -> Setting:
        settings = {setting: times for (name, setting), times in self.times.items() if name == model}
        return min(settings, key=lambda setting: float(np.median(settings[setting])))


def time_models(
    models: Sequence[str], settings: Sequence[Setting], work: Workload, mode: str, rounds: int
) -> ModelTimes:
    """Every model under every setting, all in turns."""
    keys = [(model, setting) for model in models for setting in settings]
    actions = {key: model_action(key[0], work, key[1], mode) for key in keys}
    for action in actions.values():
        action()  # compiles, and gives the optimizer its momentum, which belongs to the state
    memory = {}
    if mode == "train":
        for key, action in actions.items():
            memory[key] = state_bytes(key[0], work) + peak_memory(action, work.device)
    return ModelTimes(work, mode, interleave(actions, rounds, device=work.device), memory)


def as_data(result: ModelTimes) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "work": asdict(result.work),
            "mode": result.mode,
            "model": name,
            "setting": asdict(setting),
            "seconds": times.tolist(),
            "peak_bytes": result.memory.get((name, setting)),
        }
        for (name, setting), times in result.times.items()
    ]


def from_data(rows: Sequence[Mapping[str, Any]]) -> list[ModelTimes]:
    """What `as_data` made of one or several results."""
    results: dict[tuple[Workload, str], ModelTimes] = {}
    for row in rows:
        work, key = Workload(**row["work"]), (row["model"], Setting(**row["setting"]))
        result = results.setdefault((work, row["mode"]), ModelTimes(work, row["mode"], {}, {}))
        result.times[key] = np.array(row["seconds"])
        if row["peak_bytes"] is not None:
            result.memory[key] = row["peak_bytes"]
    return list(results.values())


def compare_models(result: ModelTimes, pairs: Sequence[tuple[str, str]]) -> str:
    """Markdown: each pair with the fastest setting of either, then every model under every setting."""
    clips = result.work.batch

    def milliseconds(key: tuple[str, Setting]) -> str:
        return f"{1000 * float(np.median(result.times[key])):.1f}"

    rows = []
    for model, reference in pairs:
        of, to = ((name, result.fastest(name)) for name in (model, reference))
        row = [model, str(of[1]), milliseconds(of), reference, str(to[1]), milliseconds(to)]
        row.append(str(ratio(result.times[of], result.times[to])))
        row += [f"{result.memory[of] / result.memory[to]:.3f}"] if result.memory else []
        rows.append(row)
    header = ["model", "fastest as", "ms", "compared with", "fastest as", "ms", "time ratio (quartiles)"]
    text = markdown_table(header + (["memory ratio"] if result.memory else []), rows)
    rows = []
    for (model, setting), times in result.times.items():
        row = [model, str(setting), milliseconds((model, setting)), f"{clips / float(np.median(times)):.2f}"]
        rows.append(row + ([f"{result.memory[model, setting] / 1e6:.0f}"] if result.memory else []))
    header = ["model", "setting", "ms", "clips/s"] + (["peak MB"] if result.memory else [])
    return f"{text}\n\n{markdown_table(header, rows)}"
