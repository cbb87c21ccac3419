"""Measure times and memory of networks: forward passes and training steps, in every setting, in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.reference_operators import to_reference
from vsn_train.bench.timing import peak_memory, ratio
from vsn_train.engine.interleave import interleave
from vsn_train.engine.precision import allow_tf32, autocast_for
from vsn_train.errors import InputError
from vsn_train.models import Recognizer, create_model
from vsn_train.models.backbone import parse_option

MODES = ("forward", "train")


@dataclass(frozen=True)
class Setting:
    """How a model is run."""

    precision: str = "fp32"  # "fp32", "bf16", "fp16", or on CUDA "tf32"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        parts = [self.precision, "channels_last" if self.channels_last else "contiguous"]
        return " ".join([*parts, "compiled" if self.compiled else "eager"])


@dataclass(frozen=True)
class Workload:
    """The input of a model: batch clips of num_frames frames of size × size pixels."""

    arch: str = "resnet50"
    num_frames: int = 8
    size: int = 224
    batch: int = 1
    num_classes: int = 174
    device: str = "cpu"


def make_model(text: str, work: Workload, **more: Any) -> Recognizer:
    """ "sth:p=0.5,integration=sum" -> that network; option "reference": with its operators in reference form.

    Created and initialized on work.device: on a GPU that takes a hundredth of the time. more: arguments of
    `create_model`. Raises InputError as `create_model`.
    """
    operator, _, rest = text.partition(":")
    options = [option for option in rest.split(",") if option]
    reference = "reference" in options
    known: dict[str, Any] = dict(parse_option(option) for option in options if option != "reference")
    torch.manual_seed(0)
    with torch.device(work.device):
        model = create_model(operator, work.arch, work.num_frames, work.num_classes, **known, **more)
    return to_reference(model) if reference else model


def model_action(text: str, work: Workload, setting: Setting, mode: str) -> Callable[[], object]:
    """One forward pass without gradients, or one training step: forward, loss, backward, SGD with momentum."""
    if mode not in MODES:
        raise InputError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    model = make_model(text, work).train(mode == "train")
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)
    run = compiled(model) if setting.compiled else model
    video = torch.randn(work.batch, work.num_frames, 3, work.size, work.size, device=work.device)
    autocast = autocast_for(setting.precision, torch.device(work.device))

    def choose_products() -> None:  # a setting of the whole process, which another action may have changed
        if work.device == "cuda":
            allow_tf32(setting.precision == "tf32")

    if mode == "forward":

        def forward() -> None:
            choose_products()
            with torch.inference_mode(), autocast:
                run(video)

        return forward
    label = torch.arange(work.batch, device=work.device) % work.num_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        choose_products()
        with autocast:
            logits = run(video)
        F.cross_entropy(logits.float(), label).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # last, so that only the state is in memory between steps

    return step


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile the model as one graph.

    torch caches graphs per code object, and after eight for the same code it runs uncompiled, with a warning. All
    recognizers share their code, so each is called through its own copy of a function.
    """

    def call(video: Tensor) -> Tensor:
        return model(video)

    call.__code__ = call.__code__.replace()
    return torch.compile(call, fullgraph=True)


def state_bytes(text: str, work: Workload) -> int:
    """Bytes of parameters, momentum and buffers: the memory of a training between two steps."""
    model = make_model(text, work)
    return sum(2 * p.numel() * p.element_size() for p in model.parameters()) + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )


@dataclass(frozen=True)
class ModelTimes:
    """times: (rounds,) seconds of every model in every setting. memory: peak bytes of a training step."""

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
    """Time every model in every setting, in interleaved rounds."""
    keys = [(model, setting) for model in models for setting in settings]
    actions = {key: model_action(key[0], work, key[1], mode) for key in keys}
    for action in actions.values():
        action()  # compiles, and creates the optimizer's momentum, which belongs to the state
    memory = {}
    if mode == "train":
        for key, action in actions.items():
            memory[key] = state_bytes(key[0], work) + peak_memory(action, work.device)
    return ModelTimes(work, mode, interleave(actions, rounds, device=work.device), memory)


def as_data(result: ModelTimes) -> list[dict[str, Any]]:
    """The result as plain types for JSON."""
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
    """The results from the rows of `as_data`."""
    results: dict[tuple[Workload, str], ModelTimes] = {}
    for row in rows:
        work, key = Workload(**row["work"]), (row["model"], Setting(**row["setting"]))
        result = results.setdefault((work, row["mode"]), ModelTimes(work, row["mode"], {}, {}))
        result.times[key] = np.array(row["seconds"])
        if row["peak_bytes"] is not None:
            result.memory[key] = row["peak_bytes"]
    return list(results.values())


def compare_models(result: ModelTimes, pairs: Sequence[tuple[str, str]]) -> str:
    """Markdown: each pair, both in their fastest setting, then every model in every setting."""
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
    header = ["model", "fastest setting", "ms", "compared with", "fastest setting", "ms", "time ratio (quartiles)"]
    text = markdown_table(header + (["memory ratio"] if result.memory else []), rows)
    rows = []
    for (model, setting), times in result.times.items():
        row = [model, str(setting), milliseconds((model, setting)), f"{clips / float(np.median(times)):.2f}"]
        rows.append(row + ([f"{result.memory[model, setting] / 1e6:.0f}"] if result.memory else []))
    header = ["model", "setting", "ms", "clips/s"] + (["peak MB"] if result.memory else [])
    return f"{text}\n\n{markdown_table(header, rows)}"
