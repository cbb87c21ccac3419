"""Mixup and CutMix: mix the clips of a batch in pairs, on the device; the loss then uses two labels.

Mixup: Zhang et al., arXiv 1710.09412. CutMix: Yun et al., arXiv 1905.04899; the box is the same in all frames.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def mix_clips(
    video: Tensor, label: Tensor, mixup: float, cutmix: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor, float]:
    """Mix with one draw for the whole batch. Returns (mixed video, labels of the partners, weight of the own label).

    video: float (B, T, C, H, W); label: (B,). mixup, cutmix: alpha of the Beta(alpha, alpha) from which the weight is
    drawn; 0: off. If both are above 0, one of them is chosen for the batch with probability 1/2. The partner of clip i
    is clip (i + B // 2) mod B. As the videos of a step are dealt out to the processes in turn, this pairs the same
    videos for any number of processes, if each has an even number of videos. A batch of one clip is not mixed.
    """
    if (not mixup and not cutmix) or len(video) < 2:
        return video, label, 1.0
    cut = bool(cutmix) and (not mixup or bool(generator.random() < 0.5))
    share = float(generator.beta(cutmix, cutmix) if cut else generator.beta(mixup, mixup))
    shift = -(len(video) // 2)
    partner, partner_label = video.roll(shift, 0), label.roll(shift, 0)
    if not cut:
        return share * video + (1 - share) * partner, partner_label, share
    height, width = video.shape[-2:]
    # A box with this share of the frame around a random point, clipped to the frame.
    half = np.sqrt(1 - share) / 2
    row, column = generator.random() * height, generator.random() * width
    top, bottom = np.clip([round(row - half * height), round(row + half * height)], 0, height).tolist()
    left, right = np.clip([round(column - half * width), round(column + half * width)], 0, width).tolist()
    mixed = video.clone()
    mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    return mixed, partner_label, 1 - (bottom - top) * (right - left) / (height * width)
