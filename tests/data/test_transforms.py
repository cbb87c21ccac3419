import numpy as np
import pytest
import torch

from vsn_train.data.transforms import (
    FIXED_OFFSETS,
    crop_windows,
    flip_clip,
    multi_scale_crop,
    normalize,
    resize_short_side,
    take_clip,
)
from vsn_train.errors import InputError


def ramp(height, width):
    """Red tells the row, green the column; two equal frames."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    return torch.stack([rows, columns, torch.zeros_like(rows)]).expand(2, 3, height, width)


def test_normalize_is_imagenets():
    video = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(normalize(video), (video / 255 - mean) / std)


def test_multi_scale_crop_of_scale_one_takes_the_short_side_at_fixed_places():
    seen = set()
    for seed in range(100):
        clip = multi_scale_crop(ramp(60, 100), 60, [1.0], np.random.default_rng(seed))
        assert clip.shape == (2, 3, 60, 60)
        assert torch.equal(clip[0], clip[1])
        assert clip[0, 0, 0, 0] == 0  # all rows
        seen.add(int(clip[0, 1, 0, 0]))
    assert seen == {0, 10, 20, 30, 40}  # quarters of the 40 columns of room


def test_multi_scale_crop_sides_are_at_most_one_scale_apart():
    assert len(FIXED_OFFSETS) == len(set(FIXED_OFFSETS)) == 13
    sides = set()
    for seed in range(300):
        clip = multi_scale_crop(ramp(100, 100), 50, [1.0, 0.75, 0.5], np.random.default_rng(seed))[0].float()
        # The ramp's range over the crop is its side; resizing blurs the ends a little.
        height = 25 * round(float(clip[0].max() - clip[0].min()) / 25)
        width = 25 * round(float(clip[1].max() - clip[1].min()) / 25)
        sides.add((height, width))
    assert sides == {(100, 100), (100, 75), (75, 100), (75, 75), (75, 50), (50, 75), (50, 50)}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((240, 320), (256, 341)), ((320, 240), (341, 256)), ((256, 340), (256, 340)), ((3, 9), (256, 768))],
)
def test_resize_short_side(shape, expected):
    clip = torch.randint(0, 256, (1, 3, *shape), dtype=torch.uint8)
    resized = resize_short_side(clip, 256)
    assert tuple(resized.shape[-2:]) == expected
    assert resized.dtype == torch.uint8


@pytest.mark.parametrize(
    ("crops", "frame", "places"),
    [
        (1, (60, 100), [(10, 30)]),
        (3, (60, 100), [(10, 0), (10, 30), (10, 60)]),
        (3, (100, 60), [(0, 10), (30, 10), (60, 10)]),  # upright: along the height
        (5, (60, 100), [(0, 0), (0, 60), (20, 0), (20, 60), (10, 30)]),
        (10, (60, 100), [(0, 0), (0, 60), (20, 0), (20, 60), (10, 30)] * 2),
    ],
)
def test_places_of_the_crops(crops, frame, places):
    windows = crop_windows(*frame, crops, 40)
    assert [(top, left) for top, left, _ in windows] == places
    assert [flipped for _, _, flipped in windows] == [crops == 10 and place >= 5 for place in range(crops)]


def test_three_crops_as_large_as_the_short_side_cover_the_frame():
    assert crop_windows(60, 100, 3, 60) == [(0, 0, False), (0, 20, False), (0, 40, False)]


def test_crop_larger_than_the_frame():
    with pytest.raises(InputError, match="frames of 30x20 are smaller than the crop of 24"):
        crop_windows(20, 30, 1, 24)


def test_flow_is_normalised_around_the_middle_grey():
    video = torch.randint(0, 256, (2, 4, 10, 5, 6), dtype=torch.uint8)
    torch.testing.assert_close(normalize(video), (video / 255 - 0.5) / 0.226)


def test_a_flip_turns_flow_round_in_x():
    clip = torch.randint(0, 256, (4, 10, 5, 6), dtype=torch.uint8)
    flipped = flip_clip(clip)
    assert torch.equal(flipped[:, 0::2], 255 - clip[:, 0::2].flip(-1))
    assert torch.equal(flipped[:, 1::2], clip[:, 1::2].flip(-1))
    assert torch.equal(flip_clip(flipped), clip)
    assert torch.equal(flip_clip(clip[:, :3]), clip[:, :3].flip(-1))


def test_a_flow_clip_is_stacks_of_x_and_y_in_turn():
    fields = torch.arange(7 * 2, dtype=torch.uint8).view(7, 2, 1, 1)  # field i: x = 2 i, y = 2 i + 1
    clip = take_clip(fields, torch.tensor([[0, 1, 2, 3, 4], [4, 5, 6, 6, 6]]))
    assert clip.shape == (2, 10, 1, 1)
    assert clip[1].flatten().tolist() == [8, 9, 10, 11, 12, 13, 12, 13, 12, 13]
    assert torch.equal(take_clip(fields, torch.tensor([3, 3, 0])), fields[[3, 3, 0]])
