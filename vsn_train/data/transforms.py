"""Which pixels: crops of training and test, on uint8; `normalize` makes floats on the device.

Legend: T frames, C channels, H W pixels. One draw serves all frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vsn_train.errors import InputError

# Of ImageNet's RGB images in [0, 1]; what torchvision's weights and their descendants were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Of optical flow: no motion is the middle grey; the mean of the three above (TSM code).
FLOW_MEAN, FLOW_STD = 0.5, 0.226

# Of `multi_scale_crop` in the TSN and TSM code.
CROP_SCALES = {"rgb": (1.0, 0.875, 0.75, 0.66), "flow": (1.0, 0.875, 0.75)}


def normalize(video: Tensor) -> Tensor:
    """uint8 (..., C, H, W) -> float32 of the same shape and device: (x / 255 - mean) / std per channel.

    C: 3 for RGB; any other number is taken for optical flow.
    """
    mean, std = mean_and_std(video.shape[-3] == 3, video.device)
    return (video - mean) / std


@cache
def mean_and_std(rgb: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of pixels of 0 to 255, (C or 1, 1, 1) each. Cached, because a GPU waits while they are copied."""
    with torch.inference_mode(False):
        mean = torch.tensor(MEAN if rgb else (FLOW_MEAN,), device=device).view(-1, 1, 1) * 255
        std = torch.tensor(STD if rgb else (FLOW_STD,), device=device).view(-1, 1, 1) * 255
        return mean, std


def take_clip(frames: Tensor, positions: Tensor) -> Tensor:
    """One clip out of a video's decoded frames.

    frames: (U, C, H, W). positions: int64 (T,) -> (T, C, H, W); or (T, L) -> (T, L × C, H, W), which for optical flow
    (C = 2, L = 5) are the channels x0 y0 x1 y1 ….
    """
    return frames[positions] if positions.ndim == 1 else frames[positions].flatten(1, 2)


def flip_clip(clip: Tensor) -> Tensor:
    """uint8 (..., C, H, W), left and right exchanged.

    Optical flow (C = 10: x and y in turn) then also points the other way in x: 255 - v, as in the TSM code.
    """
    flipped = clip.flip(-1)
    if clip.shape[-3] != 3:
        flipped[..., 0::2, :, :] = 255 - flipped[..., 0::2, :, :]
    return flipped


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
    """The crops of one clip, (T, C, H, W), and whether each is flipped; see `crop_windows`."""
    height, width = clip.shape[-2:]
    windows = crop_windows(height, width, crops, size)
    cut = [(clip[..., top : top + size, left : left + size], flipped) for top, left, flipped in windows]
    return [(flip_clip(window) if flipped else window, flipped) for window, flipped in cut]


def crop_windows(height: int, width: int, crops: int, size: int) -> list[tuple[int, int, bool]]:
    """(top, left, flipped) of the crops of a frame.

    crops 1: centre. 3: both ends of the longer side and the centre between them. 5: four corners and centre. 10: those
    five, then the same flipped. Raises InputError for a frame smaller than the crop.
    """
    if height < size or width < size:
        raise InputError(f"frames of {width}x{height} are smaller than the crop of {size}: raise short_side")
    room_down, room_right = height - size, width - size
    centre = (room_down // 2, room_right // 2)
    if crops == 3:
        first, last = (
            ((centre[0], 0), (centre[0], room_right)) if width >= height else ((0, centre[1]), (room_down, centre[1]))
        )
        places = [first, centre, last]
    elif crops == 1:
        places = [centre]
    else:
        places = [*((top, left) for top in (0, room_down) for left in (0, room_right)), centre]
    return [(*place, flipped) for flipped in ((False, True) if crops == 10 else (False,)) for place in places]
