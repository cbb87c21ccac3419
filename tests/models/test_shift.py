import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vsn_train.models import create_model
from vsn_train.models.shift import (
    OnlineShiftedConv2d,
    ShiftedBlock,
    ShiftedConv2d,
    one_frame_at_a_time,
    shift_from_past,
    temporal_shift,
)


def slow_shift(x: torch.Tensor, num_frames: int, fold_div: int, online: bool = False) -> torch.Tensor:
    """Element by element from the definition: channel c of frame t comes from frame t + 1, t - 1 or t."""
    out = torch.zeros_like(x)
    fold = x.shape[1] // fold_div
    for frame in range(x.shape[0]):
        clip, t = divmod(frame, num_frames)
        for channel in range(x.shape[1]):
            if online:
                source = t - 1 if channel < fold else t
            else:
                source = t + 1 if channel < fold else t - 1 if channel < 2 * fold else t
            if 0 <= source < num_frames:
                out[frame, channel] = x[clip * num_frames + source, channel]
    return out


@settings(max_examples=40, deadline=None)
@given(
    clips=st.integers(1, 3),
    num_frames=st.integers(1, 9),
    channels=st.integers(1, 20),
    size=st.integers(1, 3),
    fold_div=st.integers(2, 9),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    online=st.booleans(),
)
def test_equals_the_definition_in_value_and_gradient(clips, num_frames, channels, size, fold_div, layout, online):
    generator = torch.Generator().manual_seed(clips * 1000 + channels)
    shape = (clips * num_frames, channels, size, size + 1)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x = x.contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(shape, dtype=torch.float64, generator=generator)

    shift = shift_from_past if online else temporal_shift
    fast, slow = shift(x, num_frames, fold_div), slow_shift(x, num_frames, fold_div, online)
    assert torch.equal(fast, slow)
    if not slow.requires_grad:  # one frame, every channel moved away: nothing of x is left
        return
    (fast_gradient,) = torch.autograd.grad((fast * weight).sum(), x)
    (slow_gradient,) = torch.autograd.grad((slow * weight).sum(), x)
    assert torch.equal(fast_gradient, slow_gradient)


@pytest.mark.parametrize("shift", [temporal_shift, shift_from_past])
def test_second_derivatives_and_compiled_form(shift):
    x = torch.randn(6, 9, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: shift(x, 3, 3) ** 2, x)
    compiled = torch.compile(shift, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, 3, 3), shift(x, 3, 3))


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "mobilenet_v2"])
def test_the_online_network_knows_no_later_frame_and_takes_frames_one_by_one(arch):
    torch.manual_seed(0)
    model = create_model("tsm_online", arch, num_frames=4, num_classes=3).eval().double()
    shifted = sum(isinstance(module, OnlineShiftedConv2d) for module in model.modules())
    assert shifted == {"resnet18": 8, "resnet50": 16, "mobilenet_v2": 10}[arch]
    frames = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    changed = torch.cat([frames[:2], torch.randn(2, 3, 32, 32, dtype=torch.float64)])
    with torch.no_grad():
        clip, other = model.backbone(frames), model.backbone(changed)
        past = {}
        one_by_one = []
        for frame in frames:
            with one_frame_at_a_time(model, past):
                one_by_one.append(model.backbone(frame[None]))
        assert torch.equal(clip[:2], other[:2])
        assert not torch.equal(clip[2:], other[2:])
        torch.testing.assert_close(torch.cat(one_by_one), clip, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model.backbone(frames), clip)  # whole clips again


def test_nothing_is_kept_for_the_backward_pass():
    x = torch.randn(8, 16, 4, 4, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda kept: kept):
        temporal_shift(x, 8)
    assert not kept


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format_stays(layout):
    x = torch.randn(8, 16, 4, 4).contiguous(memory_format=layout).requires_grad_()
    out = temporal_shift(x, 4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert out.is_contiguous(memory_format=layout)
    assert gradient.shape == x.shape


def test_inplace_placement_shifts_the_shortcut_too():
    model = create_model("tsm", "resnet18", num_frames=4, num_classes=3, placement="inplace").eval()
    block = model.backbone.layer1[0]
    assert isinstance(block, ShiftedBlock)
    x = torch.randn(4, 64, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x), block.block(temporal_shift(x, 4)))


def test_batch_that_is_no_whole_number_of_clips():
    with pytest.raises(ValueError, match="7 frames are not a whole number of clips of 4 frames"):
        temporal_shift(torch.zeros(7, 8, 1, 1), 4)


def test_fold_that_leaves_no_channels():
    with pytest.raises(ValueError, match="fold_div 1: expected at least 2"):
        temporal_shift(torch.zeros(4, 8, 1, 1), 4, 1)


@settings(max_examples=30, deadline=None)
@given(clips=st.integers(1, 3), num_frames=st.integers(1, 5), channels=st.integers(2, 20), size=st.integers(1, 4))
def test_inference_on_a_cpu_equals_the_convolution_of_what_was_shifted(clips, num_frames, channels, size):
    conv = ShiftedConv2d(torch.nn.Conv2d(channels, 3, 1, bias=False), num_frames)
    x = torch.randn(clips * num_frames, channels, size, size + 1).contiguous(memory_format=torch.channels_last)
    expected = conv(x)  # with gradients, which keep the source of the shift
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected.detach(), rtol=1e-4, atol=1e-5)
