"""Activation memory: what autograd stores for operators that only move data, and for whole blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck


def run_on_moved(layer: Callable[[Tensor], Tensor], source: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """layer(move(source)); autograd stores `source` instead of the moved tensor, which the backward pass recomputes.

    A convolution stores its input for the gradient of its weights. After a shift that input is a copy, while the
    original is stored too, for the ReLU before it. So only the original is stored, and the backward pass repeats the
    shift: the memory of a network without the shift, for the time of one more copy.

    Does nothing in compiled graphs, where the compiler decides what to store, and without gradients.
    """
    moved = move(source)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return layer(moved)
    place, shape = moved.data_ptr(), moved.shape  # not `moved` itself, which would then live as long as the graph
    version, source = source._version, source.detach()  # detached tensors share the count

    def pack(kept: Tensor) -> Tensor | None:
        return None if kept.data_ptr() == place and kept.shape == shape else kept

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        if source._version != version:
            raise RuntimeError("a tensor that the backward pass needs was changed in place after it had been used")
        with torch.no_grad():
            return move(source)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return layer(moved)


def recompute_blocks(backbone: nn.Module) -> None:
    """Activation checkpointing: residual blocks store only their input and are recomputed in the backward pass.

    Needs less memory and about one more forward pass. The recomputation does not change the running statistics of batch
    norm, so the result is the same.
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
