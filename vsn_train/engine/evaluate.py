"""The one evaluation loop: every video once, each frame decoded once, the same scores from any number of processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vsn_train.data.loader import BadVideo, EvalVideo
from vsn_train.data.protocol import Protocol
from vsn_train.data.transforms import crop_windows, flip_clip, normalize, take_clip
from vsn_train.data.video import VideoError
from vsn_train.engine.distributed import Process
from vsn_train.engine.log import Progress
from vsn_train.engine.prefetch import to_device, to_host

# The result of each video, by its index: its views' scores, float32 (V, K), or (1, K) where only their mean is kept.
Found = dict[int, "np.ndarray | BadVideo"]


@dataclass(frozen=True)
class Scoring:
    """How videos are scored.

    flipped_labels: (K,), see `Manifest.flipped_labels`. views_per_batch: views in one forward pass. keep_views: the
    scores of every view, or only their mean. on_bad_video: "wrong" keeps a video that cannot be read in the result as a
    BadVideo; "error" raises VideoError, because accuracy on fewer videos is not comparable. features: number of last
    columns that are features instead of classes; they are averaged over the views without softmax.
    """

    protocol: Protocol
    flipped_labels: np.ndarray
    views_per_batch: int
    autocast: torch.autocast
    keep_views: bool = False
    on_bad_video: str = "error"
    features: int = 0


@torch.inference_mode()
def score_videos(
    model: nn.Module,
    groups: Iterable[list[EvalVideo | BadVideo]],
    total: int,
    process: Process,
    store: Callable[[Found], None],
    scoring: Scoring,
    title: str = "",
) -> Found:
    """The scores of this process's groups of videos; `store` is called after every group.

    model: (B, T, C, H, W) -> (B, K). total: number of groups. title: of the progress bar; empty for none. Raises
    VideoError, see `Scoring`.
    """
    model.eval()
    found: Found = {}
    protocol = scoring.protocol
    swap = torch.as_tensor(scoring.flipped_labels, device=process.device)
    # While a GPU computes a group, the host collects the scores of the previous one and prepares the next.
    ahead = 1 if process.device.type == "cuda" else 0
    started: deque[_Started] = deque()

    def finish(group: _Started) -> None:
        results = group.finished(protocol, scoring.keep_views)
        store(results)
        found.update(results)

    for group in Progress(title, process.is_main and bool(title)).over(groups, total):
        bad = [video for video in group if isinstance(video, BadVideo)]
        if bad and scoring.on_bad_video == "error":
            raise VideoError(bad[0].path, bad[0].cause)
        good = [video for video in group if isinstance(video, EvalVideo)]
        views = [view for video in good for view in distinct_views(video, protocol, process.device)]
        logits = torch.empty(len(views), len(swap), device=process.device)
        for start in range(0, len(views), scoring.views_per_batch):
            chunk = slice(start, start + scoring.views_per_batch)
            clips = torch.stack([cut(view) for view in views[chunk]])
            with scoring.autocast:
                logits[chunk] = model(normalize(clips)).float()

        # A flipped clip of "left" looks like "right": its score for a class is that of the other class of the pair.
        flipped = to_device(torch.tensor([view.flipped for view in views], dtype=torch.bool), process.device)
        scores = torch.where(flipped[:, None], logits[:, swap], logits)
        if protocol.average == "probabilities":
            classes = len(swap) - scoring.features
            scores = torch.cat([scores[:, :classes].softmax(dim=1), scores[:, classes:]], dim=1)
        started.append(_Started(good, bad, to_host(scores)))
        while len(started) > ahead:
            finish(started.popleft())
    for rest in started:
        finish(rest)
    return found


class _Started(NamedTuple):
    """A group whose computation has started. scores: (distinct views of the good videos, K), see `to_host`."""

    good: list[EvalVideo]
    bad: list[BadVideo]
    scores: Callable[[], Tensor]

    def finished(self, protocol: Protocol, keep_views: bool) -> Found:
        results: Found = {video.index: video for video in self.bad}
        left = self.scores().numpy()
        for video in self.good:
            rows, left = all_views(video, protocol, left)
            results[video.index] = rows if keep_views else mean_of_views(rows)[None]
        return results


class View(NamedTuple):
    """One clip of one video through one window. frames: (U, C, H, W) on the device; clip: positions in it, see
    `EvalVideo.clips`."""

    frames: Tensor
    clip: Tensor
    top: int
    left: int
    size: int
    flipped: bool


def distinct_clips(video: EvalVideo) -> tuple[np.ndarray, np.ndarray]:
    """The distinct clips of a video, and (clips,) the index of each clip among them. The dense clips of a video shorter
    than their window are identical and go through the network once."""
    flat = video.clips.reshape(len(video.clips), -1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return video.clips[first], which.reshape(-1)


def distinct_views(video: EvalVideo, protocol: Protocol, device: torch.device) -> list[View]:
    """The views of the distinct clips of one video, clip after clip. Copies the frames to the device once; crops
    nothing yet."""
    frames = to_device(video.frames, device)
    height, width = frames.shape[-2:]
    windows = crop_windows(height, width, protocol.crops, protocol.crop_size)
    clips = to_device(torch.as_tensor(distinct_clips(video)[0]), device)
    return [
        View(frames, clip, top, left, protocol.crop_size, flipped) for clip in clips for top, left, flipped in windows
    ]


def all_views(video: EvalVideo, protocol: Protocol, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split off the scores of one video's views, (V, K). scores: (distinct views, K), this video's first; also returns
    the rows of the other videos."""
    clips, which = distinct_clips(video)
    own, rest = np.split(scores, [len(clips) * protocol.crops])
    return own.reshape(len(clips), protocol.crops, -1)[which].reshape(protocol.views, -1), rest


def cut(view: View) -> Tensor:
    """Crop a view: uint8 (T, C, S, S)."""
    window = view.frames[..., view.top : view.top + view.size, view.left : view.left + view.size]
    clip = take_clip(window, view.clip)
    return flip_clip(clip) if view.flipped else clip


def mean_of_views(views: np.ndarray) -> np.ndarray:
    """float32 (..., V, K) -> (..., K), computed in float64: the mean of a single view is exactly that view."""
    return views.mean(axis=-2, dtype=np.float64).astype(np.float32)


def video_groups(
    videos: int, views: int, views_per_batch: int, process: Process, done: Collection[int] = ()
) -> list[list[int]]:
    """This process's share of the evaluation: groups of consecutive videos that go through the network together.

    The groups do not depend on the number of processes or on `done`, so neither does any rounding.
    """
    size = max(1, views_per_batch // views)
    groups = [list(range(start, min(start + size, videos))) for start in range(0, videos, size)]
    left = [group for group in groups if not all(index in done for index in group)]
    return left[process.rank :: process.world_size]
