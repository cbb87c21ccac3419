"""Crops, flips and resizing for training and evaluation, on uint8; `normalize` converts to float on the device.

Shapes: T frames, C channels, H W pixels. All frames of a clip share one random draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vsn_train.errors import InputError

# Of ImageNet's RGB images in [0, 1], with which torchvision's weights and their descendants were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Of optical flow: no motion is mid-grey; the std is the mean of the three above (TSM code).
FLOW_MEAN, FLOW_STD = 0.5, 0.226

# Of `multi_scale_crop` in the TSN and TSM code.
CROP_SCALES = {"rgb": (1.0, 0.875, 0.75, 0.66), "flow": (1.0, 0.875, 0.75)}


def normalize(video: Tensor) -> Tensor:
    """uint8 (..., C, H, W) -> float32 of the same shape and device: (x / 255 - mean) / std per channel.

    C: 3 for RGB; any other number means optical flow.
    """
    mean, std = mean_and_std(video.shape[-3] == 3, video.device)
    return (video - mean) / std


@cache
def mean_and_std(rgb: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std for pixels from 0 to 255, (C or 1, 1, 1) each. Cached: a GPU would wait for each copy."""
    with torch.inference_mode(False):
        mean = torch.tensor(MEAN if rgb else (FLOW_MEAN,), device=device).view(-1, 1, 1) * 255
        std = torch.tensor(STD if rgb else (FLOW_STD,), device=device).view(-1, 1, 1) * 255
        return mean, std


def take_clip(frames: Tensor, positions: Tensor) -> Tensor:
    """Assemble one clip from a video's decoded frames.

    frames: (U, C, H, W). positions: int64 (T,) -> (T, C, H, W); or (T, L) -> (T, L × C, H, W), for optical flow (C = 2,
    L = 5) with the channels x0 y0 x1 y1 ….
    """
    return frames[positions] if positions.ndim == 1 else frames[positions].flatten(1, 2)


def flip_clip(clip: Tensor) -> Tensor:
    """Flip horizontally: uint8 (..., C, H, W).

    For optical flow (C = 10: x and y alternate) the x displacements are also inverted: 255 - v, as in the TSM code.
    """
    flipped = clip.flip(-1)
    if clip.shape[-3] != 3:
        flipped[..., 0::2, :, :] = 255 - flipped[..., 0::2, :, :]
    return flipped


def multi_scale_crop(clip: Tensor, size: int, scales: Sequence[float], generator: np.random.Generator) -> Tensor:
    """Crop with random scale and aspect at a fixed position, resized to (size, size) (TSN, section 3.2).

    clip: uint8 (T, C, H, W). The crop's sides are short side × scale, with width and height at most one step apart in
    the list of scales; its position is one of 13 (corners, middles of edges and quarters, centre).
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
    """The view of a protocol with one crop: uint8 (T, C, H, W) -> (T, C, size, size), resized and centre-cropped."""
    ((view, _),) = crop_views(resize_short_side(clip, short_side), 1, size)
    return view


# (down, right) in quarters of the margin around the crop.
FIXED_OFFSETS = [(down, right) for down in (0, 2, 4) for right in (0, 2, 4)]
FIXED_OFFSETS += [(down, right) for down in (1, 3) for right in (1, 3)]


def resize_short_side(clip: Tensor, short_side: int) -> Tensor:
    """Resize uint8 (T, C, H, W) to min(H, W) = short_side with the aspect ratio kept, antialiased bilinear."""
    height, width = clip.shape[-2:]
    if min(height, width) == short_side:
        return clip
    scale = short_side / min(height, width)
    # Rounded as in torchvision's Resize; written out because one pixel more or less would shift every crop.
    return F.resize(clip, [max(short_side, int(height * scale)), max(short_side, int(width * scale))], antialias=True)


def crop_views(clip: Tensor, crops: int, size: int) -> list[tuple[Tensor, bool]]:
    """The crops of one clip, (T, C, size, size), and whether each is flipped; see `crop_windows`."""
    height, width = clip.shape[-2:]
    windows = crop_windows(height, width, crops, size)
    cut = [(clip[..., top : top + size, left : left + size], flipped) for top, left, flipped in windows]
    return [(flip_clip(window) if flipped else window, flipped) for window, flipped in cut]


def crop_windows(height: int, width: int, crops: int, size: int) -> list[tuple[int, int, bool]]:
    """The windows (top, left, flipped) of a frame's crops.

    crops 1: centre. 3: both ends and the centre of the longer side. 5: four corners and centre. 10: these five, then
    the same five flipped. Raises InputError for a frame smaller than the crop.
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
