import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vsn_train.models.shift import temporal_shift


def slow_shift(x: torch.Tensor, num_frames: int, fold_div: int) -> torch.Tensor:
    """Element by element from the definition: channel c of frame t comes from frame t + 1, t - 1 or t."""
    out = torch.zeros_like(x)
    fold = x.shape[1] // fold_div
    for frame in range(x.shape[0]):
        clip, t = divmod(frame, num_frames)
        for channel in range(x.shape[1]):
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
)
def test_equals_the_definition_in_value_and_gradient(clips, num_frames, channels, size, fold_div):
    generator = torch.Generator().manual_seed(clips * 1000 + channels)
    shape = (clips * num_frames, channels, size, size + 1)
    x = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64, generator=generator)

    fast, slow = temporal_shift(x, num_frames, fold_div), slow_shift(x, num_frames, fold_div)
    assert torch.equal(fast, slow)
    if not slow.requires_grad:  # one frame, every channel moved away: nothing of x is left
        return
    (fast_gradient,) = torch.autograd.grad((fast * weight).sum(), x)
    (slow_gradient,) = torch.autograd.grad((slow * weight).sum(), x)
    assert torch.equal(fast_gradient, slow_gradient)


def test_batch_that_is_no_whole_number_of_clips():
    with pytest.raises(ValueError, match="7 frames are not a whole number of clips of 4 frames"):
        temporal_shift(torch.zeros(7, 8, 1, 1), 4)
