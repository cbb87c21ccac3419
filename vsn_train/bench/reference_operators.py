"""The operators in reference form: direct implementations of the papers' formulas, as a baseline for ours.

`reference_model` builds the same network, with the same weights and outputs, from these.
Legend: B videos, T frames, C channels, H W pixels; frames lie along the batch axis, (B*T, C, H, W).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsn_train.models import Recognizer, create_model
from vsn_train.models.hybrid import DepthwiseHybridConv2d, HybridConv2d
from vsn_train.models.shift import OnlineShiftedConv2d, ShiftedBlock, ShiftedConv2d
from vsn_train.models.shuffle import RestoredNorm2d, ShuffledConv2d
from vsn_train.models.single_pixel import Conv3x3


def reference_shift(x: Tensor, num_frames: int, fold_div: int = 8) -> Tensor:
    """Zeros and three slice copies, as in the TSM code. Shapes as `temporal_shift`."""
    frames, channels, height, width = x.shape
    x = x.view(frames // num_frames, num_frames, channels, height, width)
    fold = channels // fold_div
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.view(frames, channels, height, width)


def reference_shift_from_past(x: Tensor, num_frames: int, fold_div: int) -> Tensor:
    """Zeros and two slice copies, as in the TSM code's online form. Shapes as `shift_from_past`."""
    video = x.view(-1, num_frames, *x.shape[1:])
    fold = video.shape[2] // fold_div
    out = torch.zeros_like(video)
    out[:, 1:, :fold] = video[:, :-1, :fold]
    out[:, :, fold:] = video[:, :, fold:]
    return out.view(x.shape)


def reference_shuffle(x: Tensor, num_frames: int) -> Tensor:
    """View, transpose, contiguous. Shapes as `video_shuffle`; the channels must split into T groups."""
    frames, channels, height, width = x.shape
    x = x.reshape(frames // num_frames, num_frames, num_frames, channels // num_frames, height, width)
    return x.transpose(1, 2).contiguous().view(frames, channels, height, width)


class ReferenceHybridConv3d(nn.Module):
    """STH as a grouped 3x1x1 Conv3d, plus a 1x3x3 Conv3d over the complementary channels for each group.

    Holds the parameters of the `HybridConv2d` that it is made from. forward: (B*T, Ci, H, W) -> (B*T, Co, H', W').
    """

    def __init__(self, source: HybridConv2d) -> None:
        super().__init__()
        self.spatial, self.temporal, self.attention = source.spatial, source.temporal, source.attention
        self.groups, self.variant = source.groups, source.variant
        self.num_frames, self.stride = source.num_frames, source.stride

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2).contiguous()  # (B, C, T, H, W)
        stride = (1, self.stride, self.stride)
        temporal, spatial = self.temporal.unsqueeze(4), self.spatial.unsqueeze(2)
        if self.variant == "merge":
            o_T = F.conv3d(x, temporal, stride=stride, padding=(1, 0, 0))
            o_S = F.conv3d(x, spatial, stride=stride, padding=(0, 1, 1))
            o_T, o_S = torch.cat([o_T, torch.zeros_like(o_S)], 1), torch.cat([torch.zeros_like(o_T), o_S], 1)
        else:
            o_T = F.conv3d(x, temporal, stride=stride, padding=(1, 0, 0), groups=self.groups)
            inputs, parts = x.chunk(self.groups, dim=1), []
            for j, weight in enumerate(spatial.chunk(self.groups)):
                others = torch.cat([*inputs[:j], *inputs[j + 1 :]], dim=1)
                parts.append(F.conv3d(others, weight, stride=stride, padding=(0, 1, 1)))
            o_S = torch.cat(parts, dim=1)
        if self.attention is None:
            out = o_T + o_S
        else:
            pooled = torch.stack([o_T.mean((2, 3, 4)), o_S.mean((2, 3, 4))], dim=1)
            share = self.attention(pooled).softmax(dim=1)[..., None, None, None]
            out = share[:, 0] * o_T + share[:, 1] * o_S
        return out.transpose(1, 2).flatten(0, 1)


class ReferenceDepthwiseHybridConv3d(nn.Module):
    """The depthwise form as two depthwise Conv3d, one on each kind of channel, whose outputs are interleaved."""

    def __init__(self, source: DepthwiseHybridConv2d) -> None:
        super().__init__()
        self.spatial, self.temporal = source.spatial, source.temporal
        self.groups, self.num_frames, self.stride = source.groups, source.num_frames, source.stride

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2).contiguous()  # (B, C, T, H, W)
        stride = (1, self.stride, self.stride)
        is_temporal = torch.arange(x.shape[1], device=x.device) % self.groups == 0
        temporal, spatial = self.temporal.unsqueeze(4), self.spatial.unsqueeze(2)
        o_T = F.conv3d(x[:, is_temporal], temporal, None, stride, (1, 0, 0), groups=len(temporal))
        o_S = F.conv3d(x[:, ~is_temporal], spatial, None, stride, (0, 1, 1), groups=len(spatial))
        out = o_S.new_empty(x.shape[0], x.shape[1], *o_S.shape[2:])
        out[:, is_temporal], out[:, ~is_temporal] = o_T, o_S
        return out.transpose(1, 2).flatten(0, 1)


class _Around(nn.Module):
    """Applies a reference form as a function before or after a module."""

    def __init__(self, inner: nn.Module, function: Any, arguments: tuple[int, ...], after: bool = False) -> None:
        super().__init__()
        self.inner, self.function, self.arguments, self.after = inner, function, arguments, after

    def forward(self, x: Tensor) -> Tensor:
        if self.after:
            return self.function(self.inner(x), *self.arguments)
        return self.inner(self.function(x, *self.arguments))


def reference_model(operator: str, arch: str, num_frames: int, num_classes: int, **options: Any) -> Recognizer:
    """`create_model` with every operator in reference form; arguments as there."""
    return to_reference(create_model(operator, arch, num_frames, num_classes, **options))


def to_reference(model: Recognizer) -> Recognizer:
    """Replace a model's operators by their reference forms, in place, with the same parameters. Returns the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv3x3):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
        if (reference := _reference_of(module)) is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, reference)
    # A fast form that this file does not know would be compared with itself.
    ours = {type(module) for module in model.modules() if type(module).__module__.startswith("vsn_train.models.")}
    assert ours <= {Recognizer}, f"no reference form of {ours - {Recognizer}}"
    return model


def _reference_of(module: nn.Module) -> nn.Module | None:
    if isinstance(module, ShiftedConv2d):
        return _Around(module.conv, reference_shift, (module.num_frames, module.fold_div))
    if isinstance(module, OnlineShiftedConv2d):
        return _Around(module.conv, reference_shift_from_past, (module.num_frames, module.fold_div))
    if isinstance(module, ShiftedBlock):
        return _Around(module.block, reference_shift, (module.num_frames, module.fold_div))
    if isinstance(module, ShuffledConv2d):
        return _Around(module.conv, reference_shuffle, (module.num_frames,))
    if isinstance(module, RestoredNorm2d):
        return _Around(module.norm, reference_shuffle, (module.num_frames,), after=True)
    if isinstance(module, HybridConv2d):
        return ReferenceHybridConv3d(module)
    if isinstance(module, DepthwiseHybridConv2d):
        return ReferenceDepthwiseHybridConv3d(module)
    return None
