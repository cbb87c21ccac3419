"""The one evaluation loop: every video once, its views averaged, the same scores whoever computes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vsn_train.data.loader import BadVideo, TestVideo
from vsn_train.data.transforms import crop_views, normalize, take_clip
from vsn_train.data.video import VideoError
from vsn_train.engine.distributed import Process
from vsn_train.engine.log import Progress


def video_groups(videos: int, views: int, views_per_batch: int, process: Process) -> list[list[int]]:
    """This process's share of the test: groups of consecutive videos that go through the network together.

    The groups do not depend on the processes, so neither does any rounding in the scores.
    """
    size = max(1, views_per_batch // views)
    groups = [list(range(start, min(start + size, videos))) for start in range(0, videos, size)]
    return groups[process.rank :: process.world_size]


@torch.inference_mode()
def score_videos(
    model: nn.Module,
    groups: Iterable[list[TestVideo | BadVideo]],
    total: int,
    process: Process,
    *,
    crops: int,
    crop_size: int,
    average: str,
    mirrored_labels: np.ndarray,
    views_per_batch: int,
    autocast: torch.autocast,
    title: str = "evaluate",
) -> dict[int, np.ndarray]:
    """Index -> float32 (K,) score of every video, over all processes, on every process.

    mirrored_labels: (K,), see `Manifest.mirrored_labels`. average: what is averaged over a video's views, "logits" or
    "probabilities". Raises VideoError for a video that cannot be read: a number over fewer videos is another number.
    """
    model.eval()
    scores: dict[int, np.ndarray] = {}
    for group in Progress(title, process.is_main).over(groups, total):
        views, owners, mirrored = cut_views(group, crops, crop_size, process.device)
        parts = []
        for chunk in torch.stack(views).split(views_per_batch):
            with autocast:
                parts.append(model(normalize(chunk)).float())
        logits = torch.cat(parts)
        # A mirrored clip of "left" looks like "right": its score for a class is that of the class's mirror image.
        logits[mirrored] = logits[mirrored][:, torch.as_tensor(mirrored_labels, device=logits.device)]
        if average == "probabilities":
            logits = logits.softmax(dim=1)
        for index in dict.fromkeys(owners):
            mine = [row for row, owner in enumerate(owners) if owner == index]
            scores[index] = logits[mine].mean(dim=0).cpu().numpy()
    return {index: score for part in process.gather(scores) for index, score in part.items()}


def cut_views(
    group: Sequence[TestVideo | BadVideo], crops: int, crop_size: int, device: torch.device
) -> tuple[list[Tensor], list[int], Tensor]:
    """All views of a group of videos: uint8 (T, C, S, S) each, the video each belongs to, and which are mirrored."""
    views, owners, mirrored = [], [], []
    for video in group:
        if isinstance(video, BadVideo):
            raise VideoError(video.path, video.cause)
        frames = video.frames.to(device)  # once; the crops are cut there
        for clip in video.clips:
            for view, is_mirrored in crop_views(
                take_clip(frames, torch.as_tensor(clip, device=device)), crops, crop_size
            ):
                views.append(view)
                owners.append(video.index)
                mirrored.append(is_mirrored)
    return views, owners, torch.tensor(mirrored, device=device)
