"""3x3 convolutions on feature maps of one pixel, as in the last stage of a ResNet on small frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """`F.conv2d` with padding 1. x: (N, Ci, H, W); weight: (Co, Ci, 3, 3).

    On a map of one pixel only the centre tap is used, and the others have no gradient. oneDNN computes all nine, and
    its weight gradient is ten times slower than necessary: forward and backward pass of 512 channels and 128 frames
    take 145 ms, with the centre tap alone 13 ms (one AVX2 core; 2026-11-28). So training on a CPU uses only that tap.
    Inference, and compiled and exported graphs, use the library's convolution.
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
    """Make a network's dense 3x3 convolutions compute `conv3x3`, in place, with the same parameters and names."""
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and (module.kernel_size, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1))
            and module.groups == 1
            and module.bias is None
        ):
            module.__class__ = Conv3x3
