"""The usual reading pipeline of video-recognition code, as a baseline for ours.

It is the one of the TSM repository (GroupMultiScaleCrop, GroupOverSample, Stack, ToTorchFormatTensor, GroupNormalize),
with the frames taken from videos through decord, as mmaction2 and PySlowFast do by default: a `VideoReader` with one
thread, `get_batch` for the frames of one clip, every frame a PIL image that is cropped and resized on its own, every
view of a test cut out on the CPU, and all of it as normalized float32 before it leaves the worker. What is random comes
from the same draws as in ours, so that both read the same frames and crops of the same size.

Written to be fast where the originals are: frames are not resized before the training crop, a test video is opened once
for all its clips, and nothing is copied twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import FIXED_OFFSETS, MEAN, STD, crop_views

EndStage = Callable[[str], None]  # called at the end of each stage with its name


def training_clip(
    path: str, T: int, sampling: str, size: int, generator: np.random.Generator, end_stage: EndStage
) -> Tensor:
    """float32 (T, 3, size, size)."""
    reader = _open(path)
    end_stage("open")
    indices = sample_indices(len(reader), T, 1, sampling, generator)[0]
    images = [Image.fromarray(image) for image in reader.get_batch(indices).asnumpy()]
    end_stage("decode")
    width, height = images[0].size
    crop_height, crop_width, top, left = _multi_scale_window(height, width, generator)
    box = (left, top, left + crop_width, top + crop_height)
    images = [image.crop(box).resize((size, size), Image.Resampling.BILINEAR) for image in images]
    if generator.random() < 0.5:
        images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    end_stage("crop and resize")
    clip = _to_float(torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2))
    end_stage("to float")
    return clip


def eval_views(
    path: str, T: int, clips: int, placement: str, crops: int, short_side: int, size: int, end_stage: EndStage
) -> Tensor:
    """float32 (clips × crops, T, 3, size, size), clip by clip."""
    reader = _open(path)
    end_stage("open")
    views = []
    for indices in sample_indices(len(reader), T, clips, placement):
        images = [Image.fromarray(image) for image in reader.get_batch(indices).asnumpy()]
        end_stage("decode")
        width, height = images[0].size
        scale = short_side / min(height, width)
        resized = (max(short_side, int(width * scale)), max(short_side, int(height * scale)))
        if resized != (width, height):
            images = [image.resize(resized, Image.Resampling.BILINEAR) for image in images]
        frames = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        end_stage("crop and resize")
        views += [_to_float(view) for view, _ in crop_views(frames, crops, size)]
        end_stage("to float")
    stacked = torch.stack(views)
    end_stage("to float")
    return stacked


def _open(path: str) -> Any:
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)


def _multi_scale_window(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """The crop with the same draws as `multi_scale_crop`: crop height, crop width, top, left."""
    sides = [round(min(height, width) * scale) for scale in (1.0, 0.875, 0.75, 0.66)]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_height, crop_width = pairs[generator.integers(len(pairs))]
    down, right = FIXED_OFFSETS[generator.integers(len(FIXED_OFFSETS))]
    return crop_height, crop_width, (height - crop_height) * down // 4, (width - crop_width) * right // 4


def _to_float(frames: Tensor) -> Tensor:
    """uint8 (T, 3, H, W) -> normalized float32 of the same shape, contiguous."""
    video = frames.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    return video.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))
