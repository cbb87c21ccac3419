"""Spatio-temporal hybrid convolution (STH): Li, Wang, Ma, Zhang, Lian, Kang, Wang, "Spatio-Temporal Hybrid
Convolution for Efficient Action Recognition", arXiv 2003.08042, 2020: section on STH-Conv, figures 3 and 4, equation 3.

Legend: B videos, T frames, Ci input and Co output channels, H W pixels; frames lie along the batch axis,
(B*T, C, H, W). p is the share of input channels that a kernel reads through time, G = 1/p the number of groups.
*_t is a 3x1x1 convolution over time, *_hw a 1x3x3 one over space, both padded with zeros.

hybrid, output m in group j:   O_T[m] = sum of W_T[m,c] *_t X[c] over c in group j
                               O_S[m] = sum of W_S[m,c] *_hw X[c] over c in every other group
merge:                         O_T[m] over all c for m in the first p*Co outputs, O_S[m] over all c for the others;
                               the branch that an output lacks is zero
integration "sum":             O = O_T + O_S
integration "attention":       O = a_T O_T + a_S O_S (equation 3), one weight per clip and output channel:
                               (a_T, a_S) = softmax over the branches of FC(mean of O_T), FC(mean of O_S), means over
                               T, H, W, one FC from Co to Co without bias for both, zero at the start: a_T = a_S = 1/2

A pair of channels has 9 (1-p) + 3 p weights on average instead of 9; pairs without a kernel have no weights.

The paper does not state how W_T is initialized; `temporal_taps` has the options, docs/operators.md their accuracies.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsn_train.errors import InputError
from vsn_train.models.saving import run_on_moved
from vsn_train.models.single_pixel import conv3x3

VARIANTS = ("hybrid", "merge")
INTEGRATIONS = ("sum", "attention")
TEMPORAL_STARTS = ("auto", "random", "rows", "mixed", "centre")
OUTER_TAPS = 3.0  # default of outer_taps
# Least number of channels per group for which grouped 3x3 kernels are faster than one dense kernel with zeros. With
# fewer, the libraries' kernels do not fill their registers.
MIN_GROUPED_CHANNELS = 32


def num_groups(p: float) -> int:
    """G = 1/p. Raises InputError unless it is a whole number of at least 2."""
    if not p > 0:
        raise InputError(f"p {p}: expected 1/2, 1/3, 1/4, …; without temporal weights the network is operator tsn")
    groups = round(1 / max(p, 1e-9))
    if groups < 2 or abs(1 / p - groups) > 0.01:
        raise InputError(f"p {p}: expected 1/2, 1/3, 1/4, …, so that 1/p equal groups of channels come out")
    return groups


def temporal_conv(x: Tensor, weight: Tensor, num_frames: int, groups: int = 1, stride: int = 1) -> Tensor:
    """O_T: a 3x1x1 convolution over the frames of each clip, at every stride-th pixel.

    x: (B*T, Ci, H, W); weight: (Co, Ci / groups, 3, 1). Returns (B*T, Co, H', W').
    """
    height, width = (-(-side // stride) for side in x.shape[2:])
    arrange = partial(_time_and_space, num_frames=num_frames, stride=stride)
    out_BCTS = run_on_moved(lambda x_BCTS: F.conv2d(x_BCTS, weight, padding=(1, 0), groups=groups), x, arrange)
    return out_BCTS.transpose(1, 2).flatten(0, 1).unflatten(2, (height, width))


def _time_and_space(x: Tensor, num_frames: int, stride: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H'*W'), with time and space as the two axes of an image.

    For x in channels_last this is a view in channels_last, so a 2D convolution can compute it without a copy.
    """
    if stride > 1:
        x = F.avg_pool2d(x, 1, stride)  # picks pixels; unlike a slice it keeps the memory format
    moved = x.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(3)
    if (
        moved.shape[3] == 1
        and x.device.type == "cpu"
        and (x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"))
    ):
        # The strides of such a view are ambiguous, and torch's half-precision weight gradient on CPUs misreads them
        # (seen with 2.14.1).
        return moved.contiguous()
    return moved


def dense_kernel(spatial: Tensor, groups: int) -> Tensor:
    """The hybrid variant's W_S as one (Co, Ci, 3, 3) kernel, with zeros for pairs without a kernel.

    spatial: (Co, Ci - Ci/G, 3, 3), the inputs in order without the output's own group.
    """
    own = spatial.shape[1] // (groups - 1)
    rows = [
        torch.cat([w[:, : j * own], w.new_zeros(w.shape[0], own, 3, 3), w[:, j * own :]], dim=1)
        for j, w in enumerate(spatial.chunk(groups))
    ]
    return torch.cat(rows)


def grouped_spatial_conv(x: Tensor, spatial: Tensor, groups: int, stride: int = 1) -> Tensor:
    """O_S of the hybrid variant without multiplications by zero: one convolution per group of outputs.

    x: (B*T, Ci, H, W); spatial: (Co, Ci - Ci/G, 3, 3). Returns (B*T, Co, H', W').
    """
    parts = []
    for j, kernel in enumerate(spatial.chunk(groups)):
        convolve = partial(conv3x3, weight=kernel, stride=stride)
        parts.append(run_on_moved(convolve, x, partial(other_groups, groups=groups, own=j)))
    return torch.cat(parts, dim=1)


def other_groups(x: Tensor, groups: int, own: int) -> Tensor:
    """x (B*T, C, H, W) without the channels of the group `own`, in x's memory format."""
    if torch.compiler.is_compiling():
        parts = list(x.chunk(groups, dim=1))
        return torch.cat(parts[:own] + parts[own + 1 :], dim=1)
    return _OtherGroups.apply(x, groups, own)


class _OtherGroups(torch.autograd.Function):
    """Preserves the memory format, unlike `cat` of slices; one copy in the forward and one in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, own: int) -> Tensor:
        width = x.shape[1] // groups
        ctx.shape, ctx.first = x.shape, own * width
        out = torch.empty_like(x[:, width:])
        out[:, : ctx.first] = x[:, : ctx.first]
        out[:, ctx.first :] = x[:, ctx.first + width :]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), first, width = gradients, ctx.first, ctx.shape[1] - gradients[0].shape[1]
        layout = (
            torch.channels_last
            if gradient.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        out = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout)
        out[:, :first] = gradient[:, :first]
        out[:, first : first + width] = 0
        out[:, first + width :] = gradient[:, first:]
        return out, None, None


def split_kernel(kernel: Tensor, groups: int, variant: str) -> tuple[Tensor, Tensor]:
    """Split the 3x3 kernels of a 2D convolution into those that W_S keeps and those that W_T replaces.

    kernel: (Co, Ci, 3, 3). Returns, of the hybrid variant, (Co, Ci - Ci/G, 3, 3) and (Co, Ci/G, 3, 3); of merge
    (Co - Co/G, Ci, 3, 3) and (Co/G, Ci, 3, 3).
    """
    outputs, inputs = kernel.shape[:2]
    if variant == "merge":
        return kernel[outputs // groups :], kernel[: outputs // groups]
    own = inputs // groups
    rows = kernel.chunk(groups)
    spatial = torch.cat([torch.cat([w[:, : j * own], w[:, (j + 1) * own :]], 1) for j, w in enumerate(rows)])
    return spatial, torch.cat([w[:, j * own : (j + 1) * own] for j, w in enumerate(rows)])


def chosen_start(temporal_start: str, trained: bool) -> str:
    """The initialization behind "auto": "rows" from a pretrained 2D network, "random" otherwise."""
    if temporal_start != "auto":
        return temporal_start
    return "rows" if trained else "random"


def temporal_taps(replaced: Tensor, deviation: Tensor, start: str, outer_taps: float) -> Tensor:
    """The initial W_T.

    replaced: (N, C, 3, 3), the 3x3 kernels that it replaces; deviation: scalar, the standard deviation of the layer's
    spatial taps. Returns (N, C, 3, 1):

    random   normal taps with that deviation, like the layer's spatial taps
    rows     the sums of the kernel's three rows: its vertical axis becomes time. The taps have the same sum as the nine
             taps, so a still video gives the output of the 2D network where the image is constant
    centre   the sum of the nine taps in the centre tap, zero outer taps: the same response to a still video, but frames
             do not mix until training changes the outer taps
    mixed    that centre tap, and normal outer taps with outer_taps times the deviation
    """
    noise = replaced.new_empty((*replaced.shape[:2], 3, 1)).normal_() * deviation  # the same draws for every option
    if start == "random":
        return noise
    if start == "rows":
        return replaced.sum(3, keepdim=True)
    taps = outer_taps * noise if start == "mixed" else torch.zeros_like(noise)
    taps[:, :, 1:2] = replaced.sum((2, 3), keepdim=True)
    return taps


@torch.no_grad()
def halve_statistics(norm: nn.BatchNorm2d) -> None:
    """Halve the statistics of a batch norm, so that in evaluation mode it gives for x / 2 the same output as before for
    x, up to rounding."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.mul_(0.5)
    # The root is taken of variance + eps, which must become a quarter as a whole.
    norm.running_var.add_(norm.eps).mul_(0.25).sub_(norm.eps)


class HybridConv2d(nn.Module):
    """A block's 3x3 convolution as STH convolution, padding 1, without bias (batch norm follows).

    forward: (B*T, Ci, H, W) -> (B*T, Co, H', W'). `spatial` and `temporal` are W_S and W_T:
    hybrid (Co, Ci - Ci/G, 3, 3), the inputs in order without the output's own group, and (Co, Ci/G, 3, 1);
    merge (Co - Co/G, Ci, 3, 3) and (Co/G, Ci, 3, 1).
    `last_attention` is the detached (B, 2, Co) of the last forward pass, a_T before a_S; None without attention,
    before the first pass, and in compiled and exported graphs, which do not write it.
    temporal_start, outer_taps: initialization of W_T, see `temporal_taps`; "auto": see `init_from_conv2d`.
    Raises InputError if 1/p is not whole or does not divide the channels, and for unknown choices.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_frames: int,
        stride: int = 1,
        p: float = 0.25,
        variant: str = "hybrid",
        integration: str = "sum",
        temporal_start: str = "auto",
        outer_taps: float = OUTER_TAPS,
    ) -> None:
        super().__init__()
        for key, value, choices in (
            ("variant", variant, VARIANTS),
            ("integration", integration, INTEGRATIONS),
            ("temporal_start", temporal_start, TEMPORAL_STARTS),
        ):
            if value not in choices:
                raise InputError(f"{key} {value!r}: expected one of {', '.join(choices)}")
        groups = num_groups(p)
        for key, channels in {"input": in_channels, "output": out_channels}.items():
            if channels % groups:
                raise InputError(
                    f"{channels} {key} channels do not split into 1/p = {groups} equal groups; change backbone.p"
                )
        self.in_channels, self.out_channels, self.num_frames, self.stride = (
            in_channels, out_channels, num_frames, stride,
        )  # fmt: skip
        self.groups, self.variant, self.integration = groups, variant, integration
        self.temporal_start, self.outer_taps = temporal_start, outer_taps
        kernel = torch.empty(out_channels, in_channels, 3, 3)
        nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")  # as in torchvision's networks
        spatial, replaced = split_kernel(kernel, groups, variant)
        self.spatial = nn.Parameter(torch.empty_like(spatial))
        self.temporal = nn.Parameter(replaced.new_empty((*replaced.shape[:2], 3, 1)))
        self.attention: nn.Linear | None = None
        self._last_share_T: Tensor | None = None  # (B, Co)
        self.init_from_conv2d(kernel, trained=False)
        if integration == "attention":  # after the other draws, so that a seed gives the same taps as with "sum"
            self.attention = nn.Linear(out_channels, out_channels, bias=False)
            nn.init.zeros_(self.attention.weight)

    @torch.no_grad()
    def init_from_conv2d(self, kernel: Tensor, trained: bool = True) -> None:
        """Initialize from a 2D kernel (Co, Ci, 3, 3): W_S keeps its taps, W_T is initialized by `temporal_start`.

        trained: whether the kernel is pretrained, for "auto" (`chosen_start`).
        Attention initially halves both branches. The weights are not doubled to compensate: the output of the following
        batch norm does not depend on their scale, but its gradient falls with the square, so doubled weights would
        learn at a quarter of the rate. Instead, halve the statistics of a pretrained batch norm (`halve_statistics`).
        """
        spatial, replaced = split_kernel(kernel, self.groups, self.variant)
        self.spatial.copy_(spatial)
        start = chosen_start(self.temporal_start, trained)
        self.temporal.copy_(temporal_taps(replaced, kernel.std(), start, self.outer_taps))
        if self.attention is not None:
            self.attention.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] % self.num_frames:
            raise ValueError(f"{x.shape[0]} frames are not a whole number of clips of {self.num_frames} frames")
        if self.variant == "merge":
            return self._merge(x)
        o_T = temporal_conv(x, self.temporal, self.num_frames, self.groups, self.stride)
        o_S = self._spatial(x)
        return o_T + o_S if self.attention is None else self._integrate(o_T, o_S)

    def _spatial(self, x: Tensor) -> Tensor:
        narrowest = min(self.in_channels, self.out_channels) // self.groups
        if x.device.type == "cpu" and narrowest >= MIN_GROUPED_CHANNELS:
            return grouped_spatial_conv(x, self.spatial, self.groups, self.stride)
        convolve = partial(conv3x3, x, stride=self.stride)
        return run_on_moved(convolve, self.spatial, partial(dense_kernel, groups=self.groups))

    def _merge(self, x: Tensor) -> Tensor:
        o_T = temporal_conv(x, self.temporal, self.num_frames, 1, self.stride)
        o_S = conv3x3(x, self.spatial, self.stride)
        if self.attention is None:
            return torch.cat([o_T, o_S], dim=1)
        none_T, none_S = (each.new_zeros(()).expand(each.shape) for each in (o_T, o_S))
        return self._integrate(torch.cat([o_T, none_S], dim=1), torch.cat([none_T, o_S], dim=1))

    def _integrate(self, o_T: Tensor, o_S: Tensor) -> Tensor:
        """Equation 3. o_T, o_S: (B*T, Co, H', W') -> the same shape."""
        assert self.attention is not None
        o_T, o_S = (each.unflatten(0, (-1, self.num_frames)) for each in (o_T, o_S))
        # A softmax over two values is the sigmoid of their difference. FC is linear, so apply it to the difference.
        share_T = self.attention(o_T.mean((1, 3, 4)) - o_S.mean((1, 3, 4))).sigmoid()
        if not torch.compiler.is_compiling():
            self._last_share_T = share_T.detach()
        # The shares sum to one, so one pass over the branches suffices: O_S + a_T (O_T - O_S).
        return torch.lerp(o_S, o_T, share_T[:, None, :, None, None].to(o_S.dtype)).flatten(0, 1)

    @property
    def last_attention(self) -> Tensor | None:
        share_T = self._last_share_T
        return None if share_T is None else torch.stack([share_T, 1 - share_T], dim=1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, num_frames={self.num_frames}, stride={self.stride}, "
            f"p=1/{self.groups}, variant={self.variant}, integration={self.integration}"
        )


class DepthwiseHybridConv2d(nn.Module):
    """The depthwise form (for MobileNetV2, which the paper names without a definition).

    Every G-th of the C channels, starting with the first, has a 3x1x1 kernel over time, applied at every stride-th
    pixel; the others have a 1x3x3 kernel. A channel has only one branch, so integration does not apply, and hybrid and
    merge are the same. `spatial`: (C - C/G, 1, 3, 3), `temporal`: (C/G, 1, 3, 1).
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        stride: int = 1,
        p: float = 0.25,
        temporal_start: str = "auto",
        outer_taps: float = OUTER_TAPS,
    ) -> None:
        super().__init__()
        self.groups = num_groups(p)
        if channels % self.groups:
            raise InputError(
                f"{channels} channels do not split into 1/p = {self.groups} equal groups; change backbone.p"
            )
        self.channels, self.num_frames, self.stride = channels, num_frames, stride
        self.spatial = nn.Parameter(torch.empty(channels - channels // self.groups, 1, 3, 3))
        self.temporal = nn.Parameter(torch.empty(channels // self.groups, 1, 3, 1))
        kernel = torch.empty(channels, 1, 3, 3)
        nn.init.kaiming_normal_(kernel, mode="fan_out")
        self.temporal_start, self.outer_taps = temporal_start, outer_taps
        self.init_from_conv2d(kernel, trained=False)

    @torch.no_grad()
    def init_from_conv2d(self, kernel: Tensor, trained: bool = True) -> None:
        """Start from a depthwise kernel (C, 1, 3, 3) by the rules of `HybridConv2d.init_from_conv2d`."""
        runs = kernel.unflatten(0, (-1, self.groups))
        self.spatial.copy_(runs[:, 1:].flatten(0, 1))
        start = chosen_start(self.temporal_start, trained)
        self.temporal.copy_(temporal_taps(runs[:, 0], kernel.std(), start, self.outer_taps))

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, C, H', W')."""
        if x.shape[0] % self.num_frames:
            raise ValueError(f"{x.shape[0]} frames are not a whole number of clips of {self.num_frames} frames")
        # One 3x3 pass over all channels is faster than excluding the temporal ones; their outputs are replaced.
        kernel = F.pad(self.spatial.unflatten(0, (-1, self.groups - 1)), (0, 0, 0, 0, 0, 0, 1, 0)).flatten(0, 1)
        o_S = F.conv2d(x, kernel, stride=self.stride, padding=1, groups=self.channels)
        temporal = self.temporal.shape[0]
        o_T = temporal_conv(x[:, :: self.groups], self.temporal, self.num_frames, temporal, self.stride)
        both = torch.cat([o_T[:, :, None], o_S.unflatten(1, (-1, self.groups))[:, :, 1:]], dim=2)
        return both.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"{self.channels}, num_frames={self.num_frames}, stride={self.stride}, p=1/{self.groups}"
