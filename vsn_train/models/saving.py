"""What autograd keeps between forward and backward pass, where an operator only moves what a layer reads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def run_on_moved(layer: Callable[[Tensor], Tensor], source: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """layer(move(source)), where autograd keeps `source` wherever the layer would have it keep the moved tensor.

    A convolution keeps its input for the gradient of its weights. Behind a shift that input is a copy, while the
    original is being kept as well, for the ReLU in front. So the original is noted in place of the copy and moved
    again in the backward pass: the memory of a network without the shift, for one more copy of time.

    Compilers decide themselves what to keep: nothing is done in their graphs, nor where no gradient is wanted.
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
