"""Video shuffle (VSN): Ma, Zhou, Lu, Zhang, "Learning Efficient Video Representation with Video Shuffle Networks",
arXiv 1911.11319, 2019: figure 1 and the figures of the operator and of the blocks.

Legend: B videos, T frames, C channels in T groups of g = C / T, H W pixels; frames lie along the batch axis,
(B*T, C, H, W). Frame j of a clip is X[j].

    Xhat[i, j*g + r] = X[j, i*g + r]        0 <= i, j < T, 0 <= r < g

Frame i gathers group i of every frame: the transpose of the grid of frames and groups, hence its own inverse.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.errors import InputError
from vsn_train.models.saving import run_on_moved

REMAINDERS = ("error", "keep")


def video_shuffle(x: Tensor, num_frames: int, remainder: str = "error") -> Tensor:
    """Exchange channel groups and frames of each clip (the formula above); applied twice it gives x back.

    x: (B*T, C, H, W). remainder: treatment of channels that do not split into T groups: "error", or "keep": shuffle the
    first floor(C / T) * T channels and leave the rest in place. Returns a tensor of the same shape and memory format.
    Raises ValueError if C is not divisible by T with "error", if the batch is not a whole number of clips, and for
    another remainder.
    """
    frames, channels = x.shape[:2]
    if frames % num_frames:
        raise ValueError(f"{frames} frames are not a whole number of clips of {num_frames} frames")
    check_groups(channels, num_frames, remainder)
    if channels % num_frames:
        shuffled = channels // num_frames * num_frames
        return torch.cat([_shuffle(x[:, :shuffled], num_frames), x[:, shuffled:]], dim=1) if shuffled else x
    return _shuffle(x, num_frames)


def check_groups(channels: int, num_frames: int, remainder: str) -> None:
    """Raise ValueError unless the channels can be shuffled over this number of frames."""
    if remainder not in REMAINDERS:
        raise ValueError(f"remainder {remainder!r}: expected one of {', '.join(REMAINDERS)}")
    if channels % num_frames and remainder == "error":
        raise ValueError(
            f"{channels} channels do not split into {num_frames} equal groups, one for each frame; choose a number of "
            f"frames that divides {channels}, or backbone.remainder=keep, which leaves the last "
            f"{channels % num_frames} in place"
        )


class ShuffledConv2d(nn.Module):
    """A convolution on shuffled frames. The shuffle is its own inverse, so it also restores shuffled frames."""

    def __init__(
        self, conv: nn.Conv2d, num_frames: int, remainder: str = "error", restores: bool = False, name: str = ""
    ) -> None:
        """restores: only for printing. name: of the layer, for the InputError if its channels do not split."""
        super().__init__()
        _check_layer(conv.in_channels, num_frames, remainder, name)
        self.conv = conv
        self.num_frames = num_frames
        self.remainder = remainder
        self.restores = restores

    def forward(self, x: Tensor) -> Tensor:
        shuffle = partial(video_shuffle, num_frames=self.num_frames, remainder=self.remainder)
        return run_on_moved(self.conv, x, shuffle)

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, remainder={self.remainder}, restores={self.restores}"


class RestoredNorm2d(nn.Module):
    """A batch norm on shuffled frames, followed by the restoring shuffle: the end of a residual branch.

    The norm's statistics belong to channel slots, which come from other frames while shuffled, so the two do not
    commute.
    """

    def __init__(self, norm: nn.BatchNorm2d, num_frames: int, remainder: str = "error", name: str = "") -> None:
        super().__init__()
        _check_layer(norm.num_features, num_frames, remainder, name)
        self.norm = norm
        self.num_frames = num_frames
        self.remainder = remainder

    def forward(self, x: Tensor) -> Tensor:
        return video_shuffle(self.norm(x), self.num_frames, self.remainder)

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, remainder={self.remainder}"


def _check_layer(channels: int, num_frames: int, remainder: str, name: str) -> None:
    try:
        check_groups(channels, num_frames, remainder)
    except ValueError as error:
        raise InputError(f"{name}: {error}" if name else str(error)) from None


class _Shuffle(torch.autograd.Function):
    """Its own gradient. Stores nothing, and passes gradients to the convolutions in their memory format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_frames: int) -> Tensor:
        ctx.num_frames = num_frames
        return _shuffle_by_copy(x, num_frames)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Shuffle.apply(gradients[0], ctx.num_frames), None


def _shuffle(x: Tensor, num_frames: int) -> Tensor:
    if not torch.compiler.is_compiling():
        return _Shuffle.apply(x, num_frames)
    if torch.compiler.is_dynamo_compiling() and x.device.type == "cpu":
        return _shuffle_op(x, num_frames)  # the compiler's loop is slower on a CPU
    # Views and one copy, which GPU compilers fuse with neighbours. `reshape` copies in the order of the axes.
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        x_BjHWig = _grid(x, num_frames).permute(0, 1, 4, 5, 2, 3)
        return x_BjHWig.transpose(1, 4).reshape(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
    return _grid(x, num_frames).transpose(1, 2).reshape(x.shape)


def _shuffle_by_copy(x: Tensor, num_frames: int) -> Tensor:
    """Shuffle in x's memory format. Copying frame by frame has long runs and takes half the time of a single copy."""
    out = torch.empty_like(x)
    x_BjigHW, out_BijgHW = _grid(x, num_frames), _grid(out, num_frames)
    for j in range(num_frames):
        out_BijgHW[:, :, j] = x_BjigHW[:, j]
    return out


@torch.library.custom_op("vsn_train::shuffle", mutates_args=())
def _shuffle_op(x: Tensor, num_frames: int) -> Tensor:
    """`_Shuffle` as one node of a compiled graph."""
    return _shuffle_by_copy(x, num_frames)


@_shuffle_op.register_fake
def _(x: Tensor, num_frames: int) -> Tensor:
    return torch.empty_like(x)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.num_frames = inputs[1]


def _shuffle_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return _shuffle_op(gradient, ctx.num_frames), None


_shuffle_op.register_autograd(_shuffle_gradient, setup_context=_keep_arguments)


def _grid(x: Tensor, num_frames: int) -> Tensor:
    """(B*T, C, H, W) as a view (B, T frames, T groups, C / T, H, W)."""
    return x.unflatten(0, (-1, num_frames)).unflatten(2, (num_frames, -1))
