"""Ends a training whose loss or gradient is not a finite number, without keeping the device waiting for the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vsn_train.data.loader import Batch, EpochBatches
from vsn_train.data.workers import Loader
from vsn_train.engine.distributed import Process
from vsn_train.engine.prefetch import to_host
from vsn_train.engine.state import Position, TrainState
from vsn_train.errors import StoppedError


@dataclass(frozen=True)
class Step:
    """What a step has computed, on the device. losses: of each batch, summed over its videos; logits: (B, K) each.

    grad_norm: (), before clipping, over the step of all processes. Where it is not a finite number, no weight was
    updated.
    """

    losses: list[Tensor]
    logits: list[Tensor]
    grad_norm: Tensor


class FiniteCheck:
    """Reads the gradient norm of a step when the step behind it has been started.

    A device that computes on its own would stand still while the host reads, if the step were its newest one. All
    processes read the same norm of the same step, so all of them end together.
    """

    def __init__(self, state: TrainState, loader: Loader[Batch], batches: EpochBatches, process: Process) -> None:
        self.state, self.loader, self.batches, self.process = state, loader, batches, process
        self.newest: _Started | None = None

    def add(self, step: Step) -> None:
        """A step that was started at the state's position. Raises StoppedError for the one before it."""
        rate = float(self.state.optimizer.param_groups[0]["lr"])
        started = _Started(step, to_host(step.grad_norm), replace(self.state.position), rate)
        self.wait()
        self.newest = started

    def wait(self) -> None:
        """Wait for the newest step. Raises StoppedError where it was not finite: do so before it is saved or logged."""
        if self.newest is None:
            return
        started, self.newest = self.newest, None
        if broken := what_is_broken(started.step, float(started.grad_norm()), self.state.scaler, self.process):
            raise self._stopped(broken, started)

    def _stopped(self, what: str, started: _Started) -> StoppedError:
        manifest, position = self.loader.dataset.manifest, started.position
        names = [manifest.sample_id(int(index)) for index in self.batches.step_at(position.videos)]
        return StoppedError(
            f"{what} is not a finite number at step {position.step + 1} (epoch {position.epoch + 1}), learning rate "
            f"{started.rate:.4g}; the weights were not updated. Videos of the step: {', '.join(names)}. Lower "
            "optimizer.lr, lengthen schedule.warmup_epochs or set optimizer.clip_norm, and look at these videos"
        )


@dataclass(frozen=True)
class _Started:
    """grad_norm: see `to_host`. position, rate: of the step, before it."""

    step: Step
    grad_norm: Callable[[], Tensor]
    position: Position
    rate: float


def what_is_broken(step: Step, norm: float, scaler: torch.amp.GradScaler, process: Process) -> str:
    """ "the loss" when that of any process is not finite, "the gradient" when only its norm is not; else "".

    norm: the same in all processes, and not a number where any loss is none, see `clip_loss`. With fp16 an infinite
    gradient alone is an overflow, which the scaler answers by leaving out the update.
    """
    if math.isfinite(norm):
        return ""
    # A sum over the processes, which all come here, as the norm is the same: the loss may be one process's alone.
    (broken,) = process.all_reduce_sum(float(not torch.stack(step.losses).isfinite().all()))
    return "the loss" if broken else "" if scaler.is_enabled() else "the gradient"
