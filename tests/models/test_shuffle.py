import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vsn_train.errors import InputError
from vsn_train.models.shuffle import RestoredNorm2d, ShuffledConv2d, video_shuffle


def slow_shuffle(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Element by element from the formula: Xhat[i, j g + r] = X[j, i g + r]; channels beyond T g stay."""
    out = x.clone()
    g = x.shape[1] // num_frames
    for clip in range(x.shape[0] // num_frames):
        first = clip * num_frames
        for i in range(num_frames):
            for j in range(num_frames):
                for r in range(g):
                    out[first + i, j * g + r] = x[first + j, i * g + r]
    return out


shapes = {
    "clips": st.integers(1, 3),
    "num_frames": st.integers(1, 6),
    "group": st.integers(1, 3),
    "rest": st.integers(0, 5),
    "height": st.integers(1, 3),
    "width": st.integers(1, 3),
    "layout": st.sampled_from([torch.contiguous_format, torch.channels_last]),
}


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_equals_the_formula_in_value_and_gradient(clips, num_frames, group, rest, height, width, layout):
    rest %= num_frames
    shape = (clips * num_frames, group * num_frames + rest, height, width)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(shape, dtype=torch.float64)
    fast, slow = video_shuffle(x, num_frames, "keep"), slow_shuffle(x, num_frames)
    assert torch.equal(fast, slow)
    (fast_gradient,) = torch.autograd.grad((fast * weight).sum(), x)
    (slow_gradient,) = torch.autograd.grad((slow * weight).sum(), x)
    assert torch.equal(fast_gradient, slow_gradient)
    assert torch.equal(video_shuffle(fast, num_frames, "keep"), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_twice_is_the_identity_bit_by_bit_and_keeps_the_layout(dtype, layout):
    x = (1000 * torch.randn(16, 32, 5, 7)).to(dtype).contiguous(memory_format=layout)
    once = video_shuffle(x, 8)
    assert torch.equal(video_shuffle(once, 8), x)
    assert not torch.equal(once, x)
    assert once.is_contiguous(memory_format=layout)


def test_fewer_channels_than_frames_all_stay():
    x = torch.randn(8, 5, 2, 2)
    assert torch.equal(video_shuffle(x, 8, "keep"), x)


@pytest.mark.parametrize(
    ("shape", "remainder", "message"),
    [
        ((10, 64, 1, 1), "error", "64 channels do not split into 5 equal groups.*remainder=keep"),
        ((7, 10, 1, 1), "error", "7 frames are not a whole number of clips of 5 frames"),
        ((5, 10, 1, 1), "drop", "remainder 'drop': expected one of error, keep"),
    ],
)
def test_errors(shape, remainder, message):
    with pytest.raises(ValueError, match=message):
        video_shuffle(torch.zeros(shape), 5, remainder)


def test_layers_that_do_not_fit_are_named_when_built():
    with pytest.raises(InputError, match=r"layer1\.2\.conv2: 64 channels do not split into 5 equal groups"):
        ShuffledConv2d(nn.Conv2d(64, 64, 3), 5, name="layer1.2.conv2")
    with pytest.raises(InputError, match=r"layer1\.2\.bn3: 64 channels do not split"):
        RestoredNorm2d(nn.BatchNorm2d(64), 5, name="layer1.2.bn3")
    ShuffledConv2d(nn.Conv2d(64, 64, 3), 5, remainder="keep")
