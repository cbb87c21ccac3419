"""Videos per second and memory of a test, against the usual way: every view decoded, resized and cropped by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vsn_train.data.inputs import GivenVideos
from vsn_train.data.loader import test_loader
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import crop_windows, normalize, resize_short_side
from vsn_train.data.video import open_video
from vsn_train.engine.distributed import Process
from vsn_train.engine.evaluate import score_videos, video_groups


@dataclass(frozen=True)
class Test:
    """One test of a network, with the worker processes and the chunks that it runs in."""

    __test__ = False  # pytest, this is no test

    model: nn.Module
    paths: Sequence[Path]
    num_frames: int
    protocol: Protocol
    process: Process
    autocast: torch.autocast
    views_per_batch: int = 16
    workers: int = 2
    classes: int = 400


def score_decoding_once(test: Test) -> np.ndarray:
    """(N, V, K): as vsn-eval does it."""
    protocol = test.protocol
    videos = GivenVideos(
        test.paths, test.num_frames, protocol.clips, protocol.placement, protocol.short_side, "auto"
    )  # fmt: skip
    groups = video_groups(len(videos), protocol.views, test.views_per_batch, test.process)
    found = score_videos(
        test.model, test_loader(videos, groups, test.workers), len(groups), test.process, lambda results: None,
        protocol=protocol, mirrored_labels=np.arange(test.classes), views_per_batch=test.views_per_batch,
        keep_views=True, on_bad_video="error", autocast=test.autocast, title="",
    )  # fmt: skip
    return np.stack([np.asarray(found[index]) for index in range(len(videos))])


@torch.inference_mode()
def score_view_by_view(test: Test) -> np.ndarray:
    """(N, V, K): the baseline. Its batches, its network and its workers are the same, and so are its pixels."""
    loader = DataLoader(
        _Views(test.paths, test.num_frames, test.protocol), batch_size=test.views_per_batch, num_workers=test.workers
    )
    test.model.eval()
    logits = []
    for video in loader:
        with test.autocast:
            logits.append(test.model(normalize(video.to(test.process.device))).float().cpu())
    scores = torch.cat(logits).numpy()
    return scores.reshape(len(test.paths), test.protocol.views, -1)


class _Views(Dataset[Tensor]):
    """uint8 (T, C, S, S): one view of one video."""

    def __init__(self, paths: Sequence[Path], num_frames: int, protocol: Protocol) -> None:
        self.paths = paths
        self.num_frames = num_frames
        self.protocol = protocol

    def __len__(self) -> int:
        return len(self.paths) * self.protocol.views

    def __getitem__(self, index: int) -> Tensor:
        protocol = self.protocol
        number, view = divmod(index, protocol.views)
        clip, crop = divmod(view, protocol.crops)
        with open_video(self.paths[number]) as video:
            indices = sample_indices(video.num_frames, self.num_frames, protocol.clips, protocol.placement)[clip]
            frames = resize_short_side(video.read(indices), protocol.short_side)
        height, width = frames.shape[-2:]
        top, left, mirrored = crop_windows(height, width, protocol.crops, protocol.crop_size)[crop]
        window = frames[..., top : top + protocol.crop_size, left : left + protocol.crop_size]
        return window.flip(-1) if mirrored else window.contiguous()


def peak_of_processes(action: Callable[[], object], every: float = 0.2) -> int | None:
    """Bytes that this process and its children hold at the peak of `action`, above what they held before; shared pages
    count once. None where the system does not tell (it is Linux that does)."""
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
    """Bytes, over this process and all below it."""
    total, left = 0, [os.getpid()]
    while left:
        folder = Path(f"/proc/{left.pop()}")
        with suppress(OSError, StopIteration):  # it has ended, or this is not Linux
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
            for task in (folder / "task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
    return total
