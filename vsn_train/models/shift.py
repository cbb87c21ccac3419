"""Temporal shift (TSM): Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.

Legend: B videos, T frames, C channels, H W pixels; frames lie along the batch axis, (B*T, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def temporal_shift(x: Tensor, num_frames: int, fold_div: int = 8) -> Tensor:
    """Move 1/fold_div of the channels one frame back and as many one frame on (TSM, section 3 and figure 1).

    x: (B*T, C, H, W). With fold = C // fold_div, channels [0, fold) of frame t are those of frame t + 1, channels
    [fold, 2 fold) those of frame t - 1, and the rest stays. Frames that do not exist are zeros: nothing wraps.
    Returns a new tensor of the same shape. Raises ValueError when the batch is not a whole number of clips.
    """
    frames, channels = x.shape[:2]
    if frames % num_frames:
        raise ValueError(f"{frames} frames are not a whole number of clips of {num_frames} frames")
    fold = channels // fold_div
    x_BTCHW = x.unflatten(0, (frames // num_frames, num_frames))
    after, before, still = x_BTCHW.split([fold, fold, channels - 2 * fold], dim=2)
    zeros = torch.zeros_like(after[:, :1])
    shifted = torch.cat(
        [torch.cat([after[:, 1:], zeros], dim=1), torch.cat([zeros, before[:, :-1]], dim=1), still], dim=2
    )
    return shifted.flatten(0, 1)


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
        return self.conv(temporal_shift(x, self.num_frames, self.fold_div))

    def extra_repr(self) -> str:
        return f"num_frames={self.num_frames}, fold_div={self.fold_div}"
