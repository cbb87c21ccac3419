"""Measure videos per second and memory of an evaluation, compared with the usual implementation, view by view.

The usual implementation is a data set of views behind a `DataLoader`. For each view of each video it does:

1. Open the file. The number of frames is known from an annotation list, so nothing is counted.
2. Decode the T frames of the view's clip: through decord with one thread and `get_batch`, as mmaction2 and PySlowFast
   do by default. Where decord gives other pixels than a full decode does (HMDB51's own files: other frames), or none,
   from the first frame of the file to the last one of the clip. Images of a folder are read one by one.
3. Resize the T frames, cut out the one window, flip it.
4. Hand uint8 over from a worker process; stack `views_per_batch` views, of whichever videos; make floats and normalize.
5. The network as it was built, in PyTorch's default memory format.

Nothing is kept from one view to the next. Frames, pixels and logits are those of the evaluation loop, and so are the
resize, the batches, the precision and the number of worker processes, so that none of these makes a difference.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vsn_train.data.decord_reader import DecordReader
from vsn_train.data.inputs import GivenVideos
from vsn_train.data.loader import STACK_LENGTH, eval_loader, read_clip
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import crop_windows, flip_clip, normalize, resize_short_side
from vsn_train.data.video import Video, open_video
from vsn_train.engine.distributed import Process
from vsn_train.engine.evaluate import Scoring, score_videos, video_groups
from vsn_train.errors import InputError, VideoError


@dataclass(frozen=True)
class EvalWorkload:
    """One evaluation of a network, with its numbers of worker processes and of views per batch."""

    model: nn.Module
    paths: Sequence[Path]
    num_frames: int
    protocol: Protocol
    process: Process
    autocast: torch.autocast
    views_per_batch: int = 16
    workers: int = 2
    classes: int = 400
    modality: str = "rgb"


def score_decoding_once(work: EvalWorkload) -> np.ndarray:
    """Evaluate with the loop of vsn-eval: scores (N, V, K)."""
    protocol = work.protocol
    videos = GivenVideos(work.paths, work.num_frames, protocol, "auto", work.modality)
    groups = video_groups(len(videos), protocol.views, work.views_per_batch, work.process)
    with closing(eval_loader(videos, groups, work.workers)) as loader:
        scoring = Scoring(protocol, np.arange(work.classes), work.views_per_batch, work.autocast, keep_views=True)
        found = score_videos(work.model, loader, len(groups), work.process, lambda results: None, scoring)
    return np.stack([np.asarray(found[index]) for index in range(len(videos))])


# ---- The usual way ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A video as known from an annotation list. clips: int64 (clips, T). decord: whether decord gives exact pixels."""

    path: Path
    clips: np.ndarray
    decord: bool


def list_videos(work: EvalWorkload) -> list[Listed]:
    """The videos with the facts of an annotation list; not part of the measured time. Raises VideoError."""
    listed = []
    for path in work.paths:
        with open_video(path, modality=work.modality) as video:
            clips = sample_indices(
                video.num_frames, work.num_frames, work.protocol.clips, work.protocol.placement,
                length=STACK_LENGTH[work.modality],
            )  # fmt: skip
            same = isinstance(video, Video) and all(_decord_agrees(path, video, clip) for clip in clips)
        listed.append(Listed(path, clips, same))
    return listed


def _decord_agrees(path: Path, video: Video, indices: np.ndarray) -> bool:
    try:
        with open_video(path, "decord"):  # raises for damaged files, on which decord may abort the process
            return torch.equal(_decord_frames(path, indices), video.read(indices))
    except (VideoError, InputError):
        return False


@torch.inference_mode()
def score_view_by_view(work: EvalWorkload, videos: Sequence[Listed]) -> np.ndarray:
    """Evaluate with the usual implementation, see the top of this file: scores (N, V, K)."""
    loader = DataLoader(
        _Views(videos, work.protocol, work.modality), batch_size=work.views_per_batch, num_workers=work.workers
    )
    work.model.eval()
    logits = []
    for views in loader:
        with work.autocast:
            logits.append(work.model(normalize(views.to(work.process.device))).float().cpu())
    return torch.cat(logits).numpy().reshape(len(videos), work.protocol.views, -1)


class _Views(Dataset[Tensor]):
    """uint8 (T, C, S, S): one view of one video."""

    def __init__(self, videos: Sequence[Listed], protocol: Protocol, modality: str) -> None:
        self.videos = videos
        self.protocol = protocol
        self.modality = modality

    def __len__(self) -> int:
        return len(self.videos) * self.protocol.views

    def __getitem__(self, index: int) -> Tensor:
        number, view = divmod(index, self.protocol.views)
        clip, crop = divmod(view, self.protocol.crops)
        frames = resize_short_side(_clip_of(self.videos[number], clip, self.modality), self.protocol.short_side)
        height, width = frames.shape[-2:]
        size = self.protocol.crop_size
        top, left, flipped = crop_windows(height, width, self.protocol.crops, size)[crop]
        window = frames[..., top : top + size, left : left + size]
        return flip_clip(window) if flipped else window.contiguous()


def _clip_of(listed: Listed, clip: int, modality: str) -> Tensor:
    """Open the file and read one clip: uint8 (T, C, H, W)."""
    indices = listed.clips[clip]
    if listed.decord:
        return _decord_frames(listed.path, indices)
    with open_video(listed.path, modality=modality) as video:
        if not isinstance(video, Video):
            return read_clip(video, indices, modality)
        images = {}
        for number, image in enumerate(video.decode_in_turn()):
            if number in indices:
                images[number] = image
            if number == indices.max():
                break
    return torch.from_numpy(np.stack([images[int(index)] for index in indices])).permute(0, 3, 1, 2)


def _decord_frames(path: Path, indices: np.ndarray) -> Tensor:
    decord: Any = DecordReader.library()
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)


# ---- Costs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """scores: (N, V, K). cpu_seconds: of this process and its workers, which is valid on a busy machine too.
    peak_bytes: see `peak_of_processes`."""

    scores: np.ndarray
    cpu_seconds: float
    peak_bytes: int | None


def measured(score: Callable[[], np.ndarray]) -> Run:
    """Measure one evaluation. score: must end its worker processes."""
    scores: list[np.ndarray] = []
    before = os.times()
    peak = peak_of_processes(lambda: scores.append(score()))
    after = os.times()
    return Run(scores[0], sum(after[:4]) - sum(before[:4]), peak)


def peak_of_processes(action: Callable[[], object], every: float = 0.2) -> int | None:
    """Peak memory in bytes of this process and its children during `action`, above the memory before it; shared pages
    count once. None if the system does not report it (only Linux does)."""
    before = _proportional_size()
    if not before:
        return None
    done, peaks = threading.Event(), [before]

    def watch() -> None:
        while not done.wait(every):
            peaks.append(_proportional_size())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return max(peaks) - before


def _proportional_size() -> int:
    """Bytes of this process and all its descendants."""
    total, left = 0, [os.getpid()]
    while left:
        folder = Path(f"/proc/{left.pop()}")
        with suppress(OSError, StopIteration):  # it has ended, or this is not Linux
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
            for task in (folder / "task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
    return total
