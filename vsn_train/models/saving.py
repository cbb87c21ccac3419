"""What autograd keeps between forward and backward pass, where an operator only moves what a layer reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def saves_source(source: Tensor, moved: Tensor, move: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
    """In this context autograd keeps `source` wherever an operation would keep `moved` = move(source).

    A convolution keeps its input for the gradient of its weights. Behind a shift that input is a copy, while the
    original is being kept as well, for the ReLU in front. So the original is noted in place of the copy and moved
    again in the backward pass: the memory of a network without the shift, for one more copy of time.

    Compilers decide themselves what to keep: nothing is done in their graphs, nor where no gradient is wanted.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return nullcontext()
    place, shape, version = moved.data_ptr(), moved.shape, source._version
    source = source.detach()

    def pack(kept: Tensor) -> Tensor | None:
        return None if kept.data_ptr() == place and kept.shape == shape else kept

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        if source._version != version:  # detached tensors share the count
            raise RuntimeError("a tensor that the backward pass needs was changed in place after it had been used")
        with torch.no_grad():
            return move(source)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
