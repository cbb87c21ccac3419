"""Figures for TensorBoard: what the network sees, and which classes it takes for which."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid


def clip_grid(video: Tensor, clips: int = 4) -> Tensor:
    """uint8 (B, T, C, H, W) -> uint8 (3, h, w): one row per clip, its frames from left to right.

    For flow (10 channels x0 y0 x1 y1 …) it shows the first field: x in red, y in green, no motion as grey.
    """
    video = video[:clips].cpu()
    if video.shape[2] != 3:
        video = torch.cat([video[:, :, :2], torch.full_like(video[:, :, :1], 128)], dim=2)
    return make_grid(video.flatten(0, 1), nrow=video.shape[1], padding=2)


def confusion_figure(
    rows: np.ndarray, columns: np.ndarray, videos: np.ndarray, classes: int, side: int = 480
) -> np.ndarray:
    """uint8 (3, h, w): shares of each row, true classes down and predicted ones across, dark 0 to bright 1.

    rows, columns, videos: the cells that are not zero, see `Scores.confused`. With more classes than `side` pixels,
    neighbouring classes share a pixel, which shows their mean share. So the figure stays small for any number of
    classes.
    """
    share = videos / np.bincount(rows, weights=videos, minlength=classes)[rows]
    size = min(classes, side)
    row, column = rows * size // classes, columns * size // classes
    together = np.bincount(np.arange(classes) * size // classes, minlength=size)  # classes of a pixel's row
    table = np.zeros((size, size))
    np.add.at(table, (row, column), share / together[row])
    image = (matplotlib.colormaps["viridis"](table)[..., :3] * 255).astype(np.uint8)
    zoom = max(1, side // size)
    return image.repeat(zoom, axis=0).repeat(zoom, axis=1).transpose(2, 0, 1)
