"""What makes a step faster or smaller without changing what is learnt, and the choice among it by measurement."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from vsn_train.data.loader import Batch
from vsn_train.engine.interleave import interleave

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" -> bf16 where the hardware multiplies in it, else fp32; others stay."""
    if precision != "auto":
        return precision
    return "bf16" if _multiplies_bf16(device) else "fp32"


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """precision "auto", "fp32", "bf16" or "fp16" as an autocast context."""
    precision = resolve_precision(precision, device)
    dtype = PRECISIONS.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in PRECISIONS)


def scaler_for(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss so that fp16 gradients do not vanish; passes everything through in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=resolve_precision(precision, device) == "fp16")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Other CPUs accept bf16 too. Most run it slower than fp32; where AVX-512 has it, `runtime=auto` finds out.
    amx: Any = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(amx and amx())


def allow_tf32(allowed: bool) -> None:
    """CUDA only: whether fp32 products may be rounded to TF32's 10 bits of mantissa."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def peak_memory(device: torch.device) -> float:
    """Most memory so far in GiB: on the device where it has its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def on_device(steps: Iterator[list[Batch]], device: torch.device, prefetch: bool) -> Iterator[list[Batch]]:
    """The same batches on the device. prefetch (CUDA): copied on a side stream while the step before is computed."""
    if device.type != "cuda":
        yield from steps
        return
    stream = torch.cuda.Stream(device) if prefetch else torch.cuda.current_stream(device)

    def copy(step: list[Batch]) -> list[Batch]:
        with torch.cuda.stream(stream):
            return [
                Batch(
                    batch.video.pin_memory().to(device, non_blocking=True),
                    batch.label.pin_memory().to(device, non_blocking=True),
                    batch.bad,
                )
                for batch in step
            ]

    def arrived(step: list[Batch]) -> list[Batch]:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for batch in step:  # their memory was allocated on the side stream and is used on this one
            batch.video.record_stream(current)
            batch.label.record_stream(current)
        return step

    ahead: list[Batch] | None = None
    for step in steps:
        if not prefetch:
            yield copy(step)
            continue
        copied = copy(step)
        if ahead is not None:
            yield arrived(ahead)
        ahead = copied
    if ahead is not None:
        yield arrived(ahead)


def recompute_blocks(backbone: nn.Module) -> None:
    """Activation checkpointing: residual blocks keep only their input and are computed again in the backward pass.

    Less memory, about one forward pass more. The second pass leaves the batch norms' running statistics alone, so that
    the result is the same.
    """
    for block in backbone.modules():
        if isinstance(block, BasicBlock | Bottleneck | InvertedResidual):
            block.forward = partial(_recomputed, block.forward, partial(_contexts, block))


def _recomputed(forward: Callable[[Tensor], Tensor], contexts: Callable[[], Any], x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    return checkpoint(forward, x, use_reentrant=False, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [
        module
        for module in block.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked -= 1


def fastest_choices(
    step: Callable[[str, bool], None], precisions: list[str], formats: list[bool], device: torch.device, rounds: int = 3
) -> tuple[str, bool, list[str]]:
    """Time a training step in turns with each precision and memory format that is left to choose.

    step(precision, channels_last) computes one. Returns the fastest two and lines for the log. fp16 is never among the
    candidates: its range is a matter of the model, not of speed alone.
    """
    candidates = [(precision, channels_last) for precision in precisions for channels_last in formats]
    actions = {each: partial(step, *each) for each in candidates}
    times = {
        each: float(np.median(seconds)) for each, seconds in interleave(actions, rounds, device=device.type).items()
    }
    best = min(times, key=lambda each: times[each])
    lines = [
        f"runtime=auto: {_name(*each)} {1000 * seconds:.0f} ms a step"
        + (", the fastest: chosen" if each == best else "")
        for each, seconds in sorted(times.items(), key=lambda pair: pair[1])
    ]
    return *best, lines


def _name(precision: str, channels_last: bool) -> str:
    return f"{precision} with {'channels_last' if channels_last else 'contiguous'} memory"
