"""The state of a training, and its part in a checkpoint."""

from __future__ import annotations

import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from vsn_train.data.loader import EpochBatches
from vsn_train.engine.optim import Schedule
from vsn_train.models import Recognizer

FORMAT = 2  # of the file; increase it when existing readers would misread new files


@dataclass
class Position:
    """The position of a training; with model, optimizer and scaler everything that a resumed run needs.

    Learning rates and all randomness follow from it: they are functions of seed, epoch, step and sample. epoch, step:
    epochs and optimizer steps done. videos, unreadable: in the current epoch, videos done and unreadable ones among
    them. sums: each process's sums for the epoch's metrics, see `Meter`. best: [value, epoch] of the validations, best
    first; value: the metric of checkpoints.best_by.
    """

    epoch: int = 0
    step: int = 0
    videos: int = 0
    unreadable: int = 0
    sums: list[list[float]] = field(default_factory=list)
    best: list[list[float]] = field(default_factory=list)

    def begin_epoch_anew(self) -> None:
        """Go back to the start of the current epoch; its optimizer steps stay counted."""
        self.videos, self.unreadable, self.sums = 0, 0, []

    def end_epoch(self, value: float, lowest_is_best: bool = False) -> None:
        """Go to the start of the next epoch. value: metric of this epoch's validation, such as top-1 in percent."""
        self.epoch, self.videos, self.unreadable, self.sums = self.epoch + 1, 0, 0, []
        sign = 1 if lowest_is_best else -1
        # Among equal values the earlier epoch stays the best.
        self.best = sorted([*self.best, [value, self.epoch]], key=lambda each: (sign * each[0], each[1]))

    @property
    def epochs_without_better(self) -> int:
        return self.epoch - int(self.best[0][1]) if self.best else 0


@dataclass
class TrainState:
    """Everything that a training step changes.

    model: the network whose parameters the optimizer has, and whose tensors a checkpoint keeps. average: its moving
    average, where one is kept. network: what a step calls, (B, T, C, H, W) -> (B, K): the model, or the model wrapped
    (compiled, for several processes); it shares the model's tensors.
    """

    model: Recognizer
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None
    position: Position = field(default_factory=Position)
    network: nn.Module = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.network is None:
            self.network = self.model

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter group in the next step."""
        return {str(group["name"]): float(group["lr"]) for group in self.optimizer.param_groups}

    def set_rates(self, batches: EpochBatches) -> None:
        """Set the learning rates of the current position. batches: the steps of an epoch."""
        self.schedule.step(self.position.epoch * len(batches) + batches.steps_in(self.position.videos))

    def advance(self, batches: EpochBatches) -> None:
        """Advance the position by one optimizer step and set the learning rates of the next one."""
        self.position.step += 1
        self.position.videos = min(self.position.videos + batches.step_videos, batches.videos)
        self.set_rates(batches)

    def state_dict(self) -> dict[str, Any]:
        """The fields of a `Checkpoint` that change while training; the tensors are the live ones."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        } | asdict(self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned. Call `set_rates` afterwards for the learning rates."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:  # a run in another precision may be resumed in fp16
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"]:
            self.average.module.load_state_dict(state["average"])
            self.average.n_averaged.fill_(state["step"])
        for key in asdict(self.position):
            setattr(self.position, key, state[key])


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The fields of a file, in the order in which they are written: tensors and plain types.

    Those with a default are missing from files of older versions.
    """

    version: str = ""  # of the vsn-train that wrote it
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None  # the moving average of the model's tensors, where one was kept
    optimizer: dict[str, Any]
    scaler: dict[str, Any]  # empty but for fp16
    processes: int = 1
    step_videos: int = 0  # videos of an optimizer step, over all processes
    choices: dict[str, Any] = field(default_factory=dict)  # precision and memory format of the run
    metrics_bytes: int = 0  # size of metrics.jsonl when this file was written
    config: dict[str, Any]  # of the run, as plain types
    class_names: list[str]
    flip_pairs: list[list[int]]  # classes that a horizontal flip exchanges
    flips_allowed: bool = True  # whether a flipped clip has a known class
    manifests: list[str] = field(default_factory=list)  # content hashes of the training and the validation split
    mixing: dict[str, str] | None = None  # where the network mixes frames, see models/layouts.py
    epoch: int  # from here on see `Position`
    step: int
    videos: int = 0
    unreadable: int = 0
    sums: list[list[float]] = field(default_factory=list)
    best: list[list[float]] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """The content of the file; also the argument of `TrainState.load_state_dict`."""
        return {"format": FORMAT} | {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def of(cls, content: dict[str, Any]) -> Checkpoint | None:
        """The checkpoint of a file's content; None for another format."""
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        if isinstance(known.get("config"), dict):
            known["config"] = plain_values(known["config"])
        return cls(**known) if content.get("format") == FORMAT and not lacking(content) else None


def lacking(content: dict[str, Any]) -> list[str]:
    """The required fields that are missing from a file's content."""
    required = (each for each in fields(Checkpoint) if each.default is MISSING and each.default_factory is MISSING)
    return [each.name for each in required if each.name not in content]


def plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint with references resolved.

    In older files a value may refer to another one (${data.crop_size}). Anything else in ${…} stays text: a file must
    not read environment variables of the machine that opens it.
    """

    def follow(value: Any, depth: int = 3) -> Any:
        if isinstance(value, dict):
            return {key: follow(each) for key, each in value.items()}
        if isinstance(value, list):
            return [follow(each) for each in value]
        if not isinstance(value, str) or not depth:
            return value
        if match := re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value):
            group = config.get(match[1])
            known = isinstance(group, dict) and not isinstance(group.get(match[2], {}), dict)
            return follow(group[match[2]], depth - 1) if known else value  # type: ignore[index]
        return re.sub(r"\$\{\w+\.\w+\}", lambda match: str(follow(match[0], depth - 1)), value)

    return {key: follow(value) for key, value in config.items()}
