"""3x3 convolutions on maps of one pixel, which small frames leave in the last stage of a ResNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """`F.conv2d` with padding 1. x: (N, Ci, H, W); weight: (Co, Ci, 3, 3).

    On a map of one pixel only the middle tap meets it, and the others have no gradient. oneDNN computes all nine, and
    the weight gradient there takes ten times what its arithmetic needs: 145 ms for forward and backward pass of 512
    channels and 128 frames, 13 ms with the middle tap alone (one AVX2 core; 2026-11-28). So training on a CPU uses
    that tap. Inference keeps the library's own form, and compiled and exported graphs theirs.
    """
    if (
        x.shape[-2:] == (1, 1)
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    ):
        return F.conv2d(x, weight[:, :, 1:2, 1:2])
    return F.conv2d(x, weight, stride=stride, padding=1)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1 and no bias that computes `conv3x3`."""

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3(x, self.weight, self.stride[0])


def use_conv3x3(network: nn.Module) -> None:
    """Let a network's dense 3x3 convolutions compute `conv3x3`, in place; parameters and names stay."""
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and (module.kernel_size, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1))
            and module.groups == 1
            and module.bias is None
        ):
            module.__class__ = Conv3x3
