"""Which pixels: crops of training and test, on uint8; `normalize` makes floats on the device.

Legend: T frames, C channels, H W pixels. One draw serves all frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vsn_train.errors import InputError

# Of ImageNet's RGB images in [0, 1]; what torchvision's weights and their descendants were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(video: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 of the same shape and device: (x / 255 - mean) / std per channel."""
    mean = torch.tensor(MEAN, device=video.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=video.device).view(3, 1, 1) * 255
    return (video - mean) / std


def multi_scale_crop(clip: Tensor, size: int, scales: Sequence[float], generator: np.random.Generator) -> Tensor:
    """One corner crop of random scale and aspect, resized to (size, size) (TSN, section 3.2 "data augmentation").

    clip: uint8 (T, C, H, W). The crop's sides are short side × scale, width and height at most one step apart in the
    list of scales; its place is one of 13 fixed ones (corners, edges' and quarters' middles, centre).
    """
    height, width = clip.shape[-2:]
    sides = [max(1, round(min(height, width) * scale)) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_height, crop_width = pairs[generator.integers(len(pairs))]
    down, right = FIXED_OFFSETS[generator.integers(len(FIXED_OFFSETS))]
    top = (height - crop_height) * down // 4
    left = (width - crop_width) * right // 4
    return F.resized_crop(clip, top, left, crop_height, crop_width, [size, size], antialias=True)


def center_crop(clip: Tensor, short_side: int, size: int) -> Tensor:
    """What a test of one crop sees: uint8 (T, C, H, W) -> (T, C, size, size), resized and cut in the middle."""
    ((view, _),) = crop_views(resize_short_side(clip, short_side), 1, size)
    return view


# (down, right) in quarters of the room that the crop leaves.
FIXED_OFFSETS = [(down, right) for down in (0, 2, 4) for right in (0, 2, 4)]
FIXED_OFFSETS += [(down, right) for down in (1, 3) for right in (1, 3)]


def resize_short_side(clip: Tensor, short_side: int) -> Tensor:
    """uint8 (T, C, H, W) -> the same with min(H, W) = short_side and the aspect kept, antialiased bilinear."""
    height, width = clip.shape[-2:]
    if min(height, width) == short_side:
        return clip
    scale = short_side / min(height, width)
    # The rounding of torchvision's Resize; said here because a pixel more or less moves every crop.
    return F.resize(clip, [max(short_side, int(height * scale)), max(short_side, int(width * scale))], antialias=True)


def crop_views(clip: Tensor, crops: int, size: int) -> list[tuple[Tensor, bool]]:
    """The crops of one clip and whether each is mirrored.

    clip: (T, C, H, W) with H, W >= size. crops 1: centre. 10: four corners and centre, then the same mirrored.
    Raises InputError for a clip smaller than the crop.
    """
    height, width = clip.shape[-2:]
    if height < size or width < size:
        raise InputError(f"frames of {width}x{height} are smaller than the crop of {size}: raise short_side")
    room_down, room_right = height - size, width - size
    centre = (room_down // 2, room_right // 2)
    corners = [(top, left) for top in (0, room_down) for left in (0, room_right)]
    places = {1: [centre], 10: [*corners, centre]}[crops]
    windows = [clip[..., top : top + size, left : left + size] for top, left in places]
    views = [(window, False) for window in windows]
    if crops == 10:
        views += [(window.flip(-1), True) for window in windows]
    return views
