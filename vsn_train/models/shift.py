"""Temporal shift (TSM): Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.

Legend: B videos, T frames, C channels, H W pixels; frames lie along the batch axis, (B*T, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.models.saving import run_on_moved


def temporal_shift(x: Tensor, num_frames: int, fold_div: int = 8) -> Tensor:
    """Shift 1/fold_div of the channels by one frame to the past and as many to the future (TSM, section 3, figure 1).

    x: (B*T, C, H, W). With fold = C // fold_div, channels [0, fold) of frame t are those of frame t + 1, channels
    [fold, 2 fold) those of frame t - 1, and the rest is unchanged. Frames outside the clip are zeros: no wrap-around.
    Returns a new tensor of the same shape and memory format; the shift is linear and stores nothing for the backward
    pass. Raises ValueError if the batch is not a whole number of clips, or fold_div is below 2.
    """
    if fold_div < 2:
        raise ValueError(f"fold_div {fold_div}: expected at least 2, since two parts of the channels move")
    fold = x.shape[1] // fold_div
    return _shift(x, num_frames, fold, fold)


def shift_from_past(x: Tensor, num_frames: int, fold_div: int = 8) -> Tensor:
    """Shift 1/fold_div of the channels from the previous frame only: online TSM (section 3.3 and figure 1c).

    x: (B*T, C, H, W). Channels [0, C // fold_div) of frame t are those of frame t - 1, zeros in the first frame; the
    rest is unchanged. So no frame depends on a later one. Raises ValueError as `temporal_shift`.
    """
    if fold_div < 1:
        raise ValueError(f"fold_div {fold_div}: expected at least 1")
    return _shift(x, num_frames, 0, x.shape[1] // fold_div)


class ShiftedConv2d(nn.Module):
    """A convolution on shifted channels, the first one of a residual branch (TSM's residual shift).

    The shortcut is not shifted, so every frame keeps its own features.
    """

    def __init__(self, conv: nn.Conv2d, num_frames: int, fold_div: int = 8) -> None:
        super().__init__()
        self.conv = conv
        self.num_frames = num_frames
        self.fold_div = fold_div

    def forward(self, x: Tensor) -> Tensor:
        shift = partial(temporal_shift, num_frames=self.num_frames, fold_div=self.fold_div)
        return run_on_moved(self.conv, x, shift)

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, fold_div={self.fold_div}"


class OnlineShiftedConv2d(nn.Module):
    """A convolution on channels shifted from the previous frame, the first one of a residual branch (TSM online).

    Input: whole clips, (B*T, C, H, W); within `one_frame_at_a_time` one frame of one video, (1, C, H, W).
    """

    def __init__(self, conv: nn.Conv2d, num_frames: int, fold_div: int = 8) -> None:
        super().__init__()
        self.conv = conv
        self.num_frames = num_frames
        self.fold_div = fold_div
        self.past: Past | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.past is None:
            shift = partial(shift_from_past, num_frames=self.num_frames, fold_div=self.fold_div)
            return run_on_moved(self.conv, x, shift)
        fold = x.shape[1] // self.fold_div
        before = self.past.get(self)
        self.past[self] = x[:, :fold].clone()  # a slice would keep all of x
        return self.conv(torch.cat([torch.zeros_like(x[:, :fold]) if before is None else before, x[:, fold:]], dim=1))

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, fold_div={self.fold_div}"


Past = dict[OnlineShiftedConv2d, Tensor]  # layer -> the shifted channels of the last frame, (1, fold, H, W)


@contextmanager
def one_frame_at_a_time(network: nn.Module, past: Past) -> Iterator[None]:
    """Make the network process a video frame by frame, (1, C, H, W). past: cache of the shifted channels; empty before
    the first frame."""
    layers = [module for module in network.modules() if isinstance(module, OnlineShiftedConv2d)]
    for layer in layers:
        layer.past = past
    try:
        yield
    finally:
        for layer in layers:
            layer.past = None


class ShiftedBlock(nn.Module):
    """A residual block whose whole input is shifted, shortcut included (TSM's in-place shift)."""

    def __init__(self, block: nn.Module, num_frames: int, fold_div: int = 8) -> None:
        super().__init__()
        self.block = block
        self.num_frames = num_frames
        self.fold_div = fold_div

    def forward(self, x: Tensor) -> Tensor:
        shift = partial(temporal_shift, num_frames=self.num_frames, fold_div=self.fold_div)
        return run_on_moved(self.block, x, shift)

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, fold_div={self.fold_div}"


def _shift(x: Tensor, num_frames: int, back: int, on: int) -> Tensor:
    """Channels [0, back) come from the next frame, channels [back, back + on) from the one before."""
    if x.shape[0] % num_frames:
        raise ValueError(f"{x.shape[0]} frames are not a whole number of clips of {num_frames} frames")
    if torch.compiler.is_dynamo_compiling() and x.device.type == "cpu":
        return _shift_op(x, num_frames, back, on, False)  # the compiler's loop over `cat` is far slower on a CPU
    if torch.compiler.is_compiling():
        return _shift_by_cat(x, num_frames, back, on)  # GPU compilers fuse it, and exporters support its operations
    return _Shift.apply(x, num_frames, back, on, False)


class _Shift(torch.autograd.Function):
    """One copy in the forward and one in the backward pass. The gradient of a shift is the shift in reverse.

    Autograd's gradient of slices and concatenations would fill a full-size tensor with zeros for each slice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_frames: int, back: int, on: int, reverse: bool) -> Tensor:
        ctx.arguments = num_frames, back, on, not reverse
        return _shift_by_copy(x, num_frames, back, on, reverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _Shift.apply(gradients[0], *ctx.arguments), None, None, None, None


def _shift_by_copy(x: Tensor, num_frames: int, back: int, on: int, reverse: bool) -> Tensor:
    """Write every element once into a buffer of x's memory format. reverse: shift in the other direction."""
    out = torch.empty_like(x)
    x_BTCHW, out_BTCHW = (each.unflatten(0, (-1, num_frames)) for each in (x, out))
    from_next, from_last = slice(0, back), slice(back, back + on)
    if reverse:
        from_next, from_last = from_last, from_next
    out_BTCHW[:, :-1, from_next] = x_BTCHW[:, 1:, from_next]
    out_BTCHW[:, -1, from_next] = 0
    out_BTCHW[:, 1:, from_last] = x_BTCHW[:, :-1, from_last]
    out_BTCHW[:, 0, from_last] = 0
    out[:, back + on :] = x[:, back + on :]
    return out


@torch.library.custom_op("vsn_train::shift", mutates_args=())
def _shift_op(x: Tensor, num_frames: int, back: int, on: int, reverse: bool) -> Tensor:
    """`_Shift` as one node of a compiled graph."""
    return _shift_by_copy(x, num_frames, back, on, reverse)


@_shift_op.register_fake
def _(x: Tensor, num_frames: int, back: int, on: int, reverse: bool) -> Tensor:
    return torch.empty_like(x)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.arguments = *inputs[1:4], not inputs[4]


def _shift_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    return _shift_op(gradient, *ctx.arguments), None, None, None, None


_shift_op.register_autograd(_shift_gradient, setup_context=_keep_arguments)


def _shift_by_cat(x: Tensor, num_frames: int, back: int, on: int) -> Tensor:
    x_BTCHW = x.unflatten(0, (-1, num_frames))
    after, before, still = x_BTCHW.split([back, on, x.shape[1] - back - on], dim=2)
    moved = [torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], dim=1)] if back else []
    moved += [torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)]
    return torch.cat([*moved, still], dim=2).flatten(0, 1)
