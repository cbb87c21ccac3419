"""Figures for TensorBoard: what the network sees, and which classes it takes for which."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid


def clip_grid(video: Tensor, clips: int = 4) -> Tensor:
    """uint8 (B, T, C, H, W) -> uint8 (3, h, w): one row a clip, its frames from left to right.

    Of flow, 10 channels x0 y0 x1 y1 …, the first field is shown: x in red, y in green, no motion as grey.
    """
    video = video[:clips].cpu()
    if video.shape[2] != 3:
        video = torch.cat([video[:, :, :2], torch.full_like(video[:, :, :1], 128)], dim=2)
    return make_grid(video.flatten(0, 1), nrow=video.shape[1], padding=2)


def confusion_figure(confusion: np.ndarray, side: int = 480) -> np.ndarray:
    """(K, K) counts, rows true and columns predicted -> uint8 (3, h, w): shares of each row, dark 0 to bright 1."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = (matplotlib.colormaps["viridis"](share)[..., :3] * 255).astype(np.uint8)
    zoom = max(1, side // len(confusion))
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1).transpose(2, 0, 1)
