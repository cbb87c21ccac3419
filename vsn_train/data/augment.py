"""Augmentation of training clips: crop, flip, RandAugment, colour jitter. On uint8, one draw for all frames of a clip.

All randomness comes from the generator that is passed in. torchvision's transforms use torch's global generator, which
is seeded from ours for them and restored afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from vsn_train.data.transforms import center_crop, flip_clip, multi_scale_crop


@dataclass(frozen=True)
class Augmentation:
    """How to make a training clip; the fields are the keys of configs/augment.

    crop: "multiscale" (TSN; uses scales), "random_resized" (Inception; uses area and aspect) or "center" (as in
    evaluation; uses short_side). rand_augment: operations per clip, N of RandAugment (Cubuk et al., arXiv 1909.13719);
    magnitude: M of 0 to 30, as in torchvision. brightness, contrast, saturation, hue: strength of torchvision's jitter.
    """

    crop_size: int = 224
    crop: str = "multiscale"
    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)
    area: Sequence[float] = (0.08, 1.0)
    aspect: Sequence[float] = (3 / 4, 4 / 3)
    short_side: int = 256
    flip: bool = True
    rand_augment: int = 0
    magnitude: int = 9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


def augment(clip: Tensor, how: Augmentation, generator: np.random.Generator) -> tuple[Tensor, bool]:
    """uint8 (T, C, H, W) -> uint8 (T, C, crop_size, crop_size), and whether it is flipped.

    A flipped clip may belong to another class. RandAugment and jitter are for RGB only.
    """
    clip = random_crop(clip, how, generator)
    flipped = how.flip and bool(generator.random() < 0.5)
    if flipped:
        clip = flip_clip(clip)
    return change_look(clip, how, generator), flipped


def random_crop(clip: Tensor, how: Augmentation, generator: np.random.Generator) -> Tensor:
    """uint8 (T, C, H, W) -> uint8 (T, C, crop_size, crop_size)."""
    if how.crop == "multiscale":
        return multi_scale_crop(clip, how.crop_size, how.scales, generator)
    if how.crop == "random_resized":
        with torch_draws_from(generator):
            return v2.RandomResizedCrop(how.crop_size, tuple(how.area), tuple(how.aspect), antialias=True)(clip)
    if how.crop == "center":
        return center_crop(clip, how.short_side, how.crop_size)
    raise ValueError(f"crop {how.crop!r}: expected multiscale, random_resized or center")


def change_look(clip: Tensor, how: Augmentation, generator: np.random.Generator) -> Tensor:
    """Apply RandAugment and colour jitter if configured: uint8 (T, 3, H, W) -> the same shape."""
    jitter = (how.brightness, how.contrast, how.saturation, how.hue)
    if not how.rand_augment and not any(jitter):
        return clip
    clip = clip.contiguous()  # most operations are then a third faster
    with torch_draws_from(generator):
        if how.rand_augment:
            clip = v2.RandAugment(how.rand_augment, how.magnitude)(clip)
        if any(jitter):
            clip = v2.ColorJitter(*jitter)(clip)
    return clip


@contextmanager
def torch_draws_from(generator: np.random.Generator) -> Iterator[None]:
    """Seed torch's global generator from `generator` inside the `with` block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        yield
