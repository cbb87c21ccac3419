"""Autograd keeps what an operator moved under the tensor that it was moved from."""

import copy

import pytest
import torch
from torch import nn

from vsn_train.engine.optim import build_average
from vsn_train.models import create_model
from vsn_train.models.hybrid import HybridConv2d
from vsn_train.models.saving import recompute_blocks
from vsn_train.models.shift import ShiftedConv2d, temporal_shift
from vsn_train.models.shuffle import ShuffledConv2d

T = 4
LAYERS = {
    "shift": lambda: ShiftedConv2d(nn.Conv2d(16, 8, 1, bias=False), T),
    "shuffle": lambda: ShuffledConv2d(nn.Conv2d(16, 8, 3, padding=1, bias=False), T),
    "hybrid": lambda: HybridConv2d(16, 8, T, stride=2),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_changing_the_kept_tensor_in_place_is_an_error_as_always(layer):
    conv, x = LAYERS[layer](), torch.randn(2 * T, 16, 6, 6)
    out = conv(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match=r"in place|inplace"):
        out.sum().backward()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_second_derivatives_go_through(layer, channels_last):
    conv = LAYERS[layer]().double()
    x = torch.randn(T, 16, 3, 3, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert torch.autograd.gradgradcheck(conv, x.requires_grad_(), fast_mode=True)


def test_the_compiled_layer_gives_the_same():
    layer = ShiftedConv2d(nn.Conv2d(24, 10, 1, bias=False), T)
    x = torch.randn(2 * T, 24, 5, 5).contiguous(memory_format=torch.channels_last)
    expected = layer.conv(temporal_shift(x, T))
    with torch.inference_mode():
        out = torch.compile(layer, fullgraph=True)(x)
        torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x.requires_grad_()), expected)


@pytest.mark.parametrize("operator", ["tsm", "sth"])
def test_recomputed_blocks_change_nothing(operator):
    torch.manual_seed(0)
    model = create_model(operator, "resnet18", num_frames=2, num_classes=3)
    other = copy.deepcopy(model)
    recompute_blocks(other.backbone)
    clip = torch.randn(2, 2, 3, 32, 32)
    for each in (model, other):
        torch.manual_seed(1)
        each(clip).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert build_average(other, 0.9).module(clip).shape == (2, 3)
