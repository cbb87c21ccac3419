"""Temporal shift (TSM): Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.

Legend: B videos, T frames, C channels, H W pixels; frames lie along the batch axis, (B*T, C, H, W).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.models.saving import run_on_moved


def temporal_shift(x: Tensor, num_frames: int, fold_div: int = 8) -> Tensor:
    """Move 1/fold_div of the channels one frame back and as many one frame on (TSM, section 3 and figure 1).

    x: (B*T, C, H, W). With fold = C // fold_div, channels [0, fold) of frame t are those of frame t + 1, channels
    [fold, 2 fold) those of frame t - 1, and the rest stays. Frames that do not exist are zeros: nothing wraps.
    Returns a new tensor of the same shape and memory format; the shift is linear and keeps nothing for the backward
    pass. Raises ValueError when the batch is not a whole number of clips, or fold_div is below 2.
    """
    frames, channels = x.shape[:2]
    if frames % num_frames:
        raise ValueError(f"{frames} frames are not a whole number of clips of {num_frames} frames")
    if fold_div < 2:
        raise ValueError(f"fold_div {fold_div}: expected at least 2, since two parts of the channels move")
    fold = channels // fold_div
    if torch.compiler.is_dynamo_compiling() and x.device.type == "cpu":
        return _shift_op(x, num_frames, fold, False)  # the compiler's own loop over `cat` takes far longer on a CPU
    if torch.compiler.is_compiling():
        return _shift_by_cat(x, num_frames, fold)  # GPUs' compilers fuse this, and exporters know every part of it
    return _Shift.apply(x, num_frames, fold, False)


class ShiftedConv2d(nn.Module):
    """A convolution that sees shifted channels: the first one of a residual branch (TSM's residual shift).

    The shortcut beside it stays untouched, so every frame keeps its own features.
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


class _Shift(torch.autograd.Function):
    """One copy forwards and one backwards. The gradient of a shift is the shift the other way round.

    Autograd's own gradient of slices and concatenations fills a tensor of the full size with zeros for each slice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_frames: int, fold: int, reverse: bool) -> Tensor:
        ctx.arguments = num_frames, fold, not reverse
        return _shift_by_copy(x, num_frames, fold, reverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Shift.apply(gradients[0], *ctx.arguments), None, None, None


def _shift_by_copy(x: Tensor, num_frames: int, fold: int, reverse: bool) -> Tensor:
    """Every element is written once into a buffer of x's memory format. reverse: channels move the other way."""
    out = torch.empty_like(x)
    x_BTCHW, out_BTCHW = (each.unflatten(0, (-1, num_frames)) for each in (x, out))
    back, on = slice(0, fold), slice(fold, 2 * fold)
    if reverse:
        back, on = on, back
    out_BTCHW[:, :-1, back] = x_BTCHW[:, 1:, back]
    out_BTCHW[:, -1, back] = 0
    out_BTCHW[:, 1:, on] = x_BTCHW[:, :-1, on]
    out_BTCHW[:, 0, on] = 0
    out[:, 2 * fold :] = x[:, 2 * fold :]
    return out


@torch.library.custom_op("vsn_train::shift", mutates_args=())
def _shift_op(x: Tensor, num_frames: int, fold: int, reverse: bool) -> Tensor:
    """`_Shift` as one node of a compiled graph."""
    return _shift_by_copy(x, num_frames, fold, reverse)


@_shift_op.register_fake
def _(x: Tensor, num_frames: int, fold: int, reverse: bool) -> Tensor:
    return torch.empty_like(x)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.arguments = inputs[1], inputs[2], not inputs[3]


def _shift_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return _shift_op(gradient, *ctx.arguments), None, None, None


_shift_op.register_autograd(_shift_gradient, setup_context=_keep_arguments)


def _shift_by_cat(x: Tensor, num_frames: int, fold: int) -> Tensor:
    x_BTCHW = x.unflatten(0, (-1, num_frames))
    after, before, still = x_BTCHW.split([fold, fold, x.shape[1] - 2 * fold], dim=2)
    zeros = torch.zeros_like(after[:, :1])
    shifted = torch.cat(
        [torch.cat([after[:, 1:], zeros], dim=1), torch.cat([zeros, before[:, :-1]], dim=1), still], dim=2
    )
    return shifted.flatten(0, 1)
