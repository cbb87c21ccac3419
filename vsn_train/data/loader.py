"""Batches: which video on which process at which step, and what a sample is made of; workers.py decodes them.

What a sample looks like depends on (seed, epoch, index) alone: not on workers, processes, order or a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vsn_train.data.augment import Augmentation, augment
from vsn_train.data.manifest import Manifest
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import resize_short_side
from vsn_train.data.video import VideoError, open_video
from vsn_train.data.workers import BadVideo, Loader

IGNORED = -100  # label of a filler clip; cross_entropy leaves it out


@dataclass(frozen=True)
class Batch:
    """video: uint8 (B, T, C, H, W); label: int64 (B,). Bad videos are left out of the tensors."""

    video: Tensor
    label: Tensor
    bad: tuple[BadVideo, ...]

    @property
    def size(self) -> int:
        return int((self.label != IGNORED).sum())


@dataclass(frozen=True)
class TestVideo:
    """The decoded frames of a video's views. frames: uint8 (U, C, H, W), each needed frame once; clips: int64
    (clips, T), positions in `frames`."""

    __test__ = False  # pytest, this is no test

    index: int
    frames: Tensor
    clips: np.ndarray


class TrainingClips(Dataset[tuple[Tensor, int] | BadVideo]):
    """One augmented clip for each (epoch, index)."""

    def __init__(
        self,
        manifest: Manifest,
        num_frames: int,
        sampling: str,
        augmentation: Augmentation,
        decoder: str,
        seed: int,
    ) -> None:
        self.manifest = manifest
        self.num_frames = num_frames
        self.sampling = sampling
        self.augmentation = augmentation
        self.decoder = decoder
        self.seed = seed
        self.mirrored = manifest.mirrored_labels()

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: Any) -> tuple[Tensor, int] | BadVideo:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        path = self.manifest.path(index)
        try:
            with open_video(path, self.decoder) as video:
                indices = sample_indices(video.num_frames, self.num_frames, 1, self.sampling, generator)[0]
                clip = video.read(indices)
        except VideoError as error:
            return BadVideo(index, str(path), error.cause)
        clip, mirrored = augment(clip, self.augmentation, generator)
        label = int(self.manifest.labels[index])
        return clip, int(self.mirrored[label]) if mirrored else label

    def index_of(self, key: tuple[int, int]) -> int:
        return key[1]

    def describe_bad(self, key: tuple[int, int], cause: str) -> BadVideo:
        """What stands for a clip that took its worker along."""
        return BadVideo(key[1], str(self.manifest.path(key[1])), cause, lost=True)


class TestVideos(Dataset[TestVideo | BadVideo]):
    """All frames that a video's test views need, decoded once and resized once."""

    __test__ = False  # pytest, this is no test

    def __init__(
        self, manifest: Manifest, num_frames: int, clips: int, placement: str, short_side: int, decoder: str
    ) -> None:
        self.manifest = manifest
        self.num_frames = num_frames
        self.clips = clips
        self.placement = placement
        self.short_side = short_side
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> TestVideo | BadVideo:
        path = self.manifest.path(index)
        try:
            return read_test_video(
                path, self.num_frames, self.clips, self.placement, self.short_side, self.decoder, index
            )
        except VideoError as error:
            return BadVideo(index, str(path), error.cause)

    def index_of(self, key: int) -> int:
        return key

    def describe_bad(self, key: int, cause: str) -> BadVideo:
        """What stands for a video that took its worker along."""
        return BadVideo(key, str(self.manifest.path(key)), cause, lost=True)


def read_test_video(
    path: Path, num_frames: int, clips: int, placement: str, short_side: int, decoder: str, index: int = 0
) -> TestVideo:
    """Decode and resize what the views of one video need. Raises VideoError."""
    with open_video(path, decoder) as video:
        wanted = sample_indices(video.num_frames, num_frames, clips, placement)
        unique, positions = np.unique(wanted, return_inverse=True)
        frames = video.read(unique)
    return TestVideo(index, resize_short_side(frames, short_side), positions.reshape(wanted.shape))


class EpochBatches:
    """The (epoch, index) keys of this process's batches; each video once an epoch, over all processes.

    An optimizer step takes the next batch_size × world_size × accumulate videos of one shuffled order and process r
    every world_size-th of them, so the videos of a step do not depend on how many processes share it. The last step
    takes what is left, however short. A process's videos of one step come in batches of batch_size, `accumulate` of
    them or fewer.
    """

    def __init__(
        self, videos: int, batch_size: int, rank: int, world_size: int, seed: int, accumulate: int = 1
    ) -> None:
        self.videos = videos
        self.batch_size = batch_size
        self.step_videos = batch_size * world_size * accumulate
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch = 0
        self.done = 0  # videos of the epoch that lie behind; counted so, another number of processes can go on

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return self.steps_in(self.videos)

    def steps(self) -> list[np.ndarray]:
        """Indices of the videos of each step that is left in the epoch, over all processes."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.videos)
        return [order[start : start + self.step_videos] for start in range(self.done, self.videos, self.step_videos)]

    def step_at(self, done: int) -> np.ndarray:
        """Indices of the videos of the epoch's step after `done` videos, over all processes."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.videos)
        return order[done : done + self.step_videos]

    def steps_in(self, videos: int) -> int:
        """Optimizer steps that this many videos of an epoch take."""
        return -(-videos // self.step_videos)

    def batches_of(self, step: np.ndarray) -> list[np.ndarray]:
        """What this process takes of a step's videos."""
        own = step[self.rank :: self.world_size]
        # Empty for a process without a video in the short last step: it takes part with a filler clip.
        return [own[start : start + self.batch_size] for start in range(0, max(1, len(own)), self.batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps():
            for batch in self.batches_of(step):
                yield [(self.epoch, int(index)) for index in batch]


def by_step(loader: Iterable[Batch], batches: EpochBatches) -> Iterator[list[Batch]]:
    """The loader's batches, those of one optimizer step together."""
    loaded = iter(loader)
    for step in batches.steps():
        yield [next(loaded) for _ in batches.batches_of(step)]


def training_loader(clips: TrainingClips, batches: EpochBatches, workers: int, timeout: float) -> Loader[Batch]:
    """Yields `Batch`. timeout: seconds that one clip may take in a worker; 0: for ever."""
    return Loader(clips, batches, _Collate(clips.num_frames, clips.augmentation.crop_size), workers, timeout)


def test_loader(
    videos: TestVideos, groups: list[list[int]], workers: int, timeout: float
) -> Loader[list[TestVideo | BadVideo]]:
    """Yields one list of `TestVideo | BadVideo` for each group of indices."""
    return Loader(videos, groups, list, workers, timeout)


class _Collate:
    def __init__(self, num_frames: int, crop_size: int) -> None:
        self.empty = (num_frames, 3, crop_size, crop_size)

    def __call__(self, samples: list[tuple[Tensor, int] | BadVideo]) -> Batch:
        bad = tuple(sample for sample in samples if isinstance(sample, BadVideo))
        good = [sample for sample in samples if not isinstance(sample, BadVideo)]
        if not good:  # every process takes part in every step: one black clip without a label keeps it in
            good = [(torch.zeros(self.empty, dtype=torch.uint8), IGNORED)]
        return Batch(torch.stack([clip for clip, _ in good]), torch.tensor([label for _, label in good]), bad)
