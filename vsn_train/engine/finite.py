"""Stop a training whose loss or gradient is not finite, without a synchronization of host and device in every step."""

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
    """The results of a step, on the device. losses: of each batch, summed over its videos; logits: (B, K) each.

    grad_norm: (), before clipping, over the step of all processes. If it is not finite, no weight was updated.
    """

    losses: list[Tensor]
    logits: list[Tensor]
    grad_norm: Tensor


class FiniteCheck:
    """Checks the gradient norm of a step after the next step has been started.

    If the host read the norm of the newest step, a GPU would be idle meanwhile. All processes read the same norm, so
    all of them stop at the same step.
    """

    def __init__(self, state: TrainState, loader: Loader[Batch], batches: EpochBatches, process: Process) -> None:
        self.state, self.loader, self.batches, self.process = state, loader, batches, process
        self.newest: _Started | None = None

    def add(self, step: Step) -> None:
        """Add a step started at the state's position. Raises StoppedError if the previous step was not finite."""
        rate = float(self.state.optimizer.param_groups[0]["lr"])
        started = _Started(step, to_host(step.grad_norm), replace(self.state.position), rate)
        self.wait()
        self.newest = started

    def wait(self) -> None:
        """Wait for the newest step. Raises StoppedError if it was not finite. Call it before saving or logging."""
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
            "optimizer.lr, lengthen schedule.warmup_epochs or set optimizer.clip_norm, and check these videos"
        )


@dataclass(frozen=True)
class _Started:
    """grad_norm: see `to_host`. position, rate: of the step, before it."""

    step: Step
    grad_norm: Callable[[], Tensor]
    position: Position
    rate: float


def what_is_broken(step: Step, norm: float, scaler: torch.amp.GradScaler, process: Process) -> str:
    """ "the loss" if that of any process is not finite, "the gradient" if only its norm is not; else "".

    norm: the same in all processes; not finite if any loss is not, see `clip_loss`. With fp16 an infinite gradient
    alone is an overflow: the scaler skips that update.
    """
    if math.isfinite(norm):
        return ""
    # All processes get here, as the norm is the same. The all-reduce is needed since the loss may be bad in only one.
    (broken,) = process.all_reduce_sum(float(not torch.stack(step.losses).isfinite().all()))
    return "the loss" if broken else "" if scaler.is_enabled() else "the gradient"
