"""Batches: the videos of each rank and step, and the content of a sample; workers.py decodes them.

A sample depends only on (seed, epoch, index): not on workers, processes, order or a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vsn_train.data.augment import Augmentation, augment
from vsn_train.data.fastseek import FastSeekCopy
from vsn_train.data.frames import MAX_PIXELS, FrameFolder
from vsn_train.data.manifest import Manifest
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import FLOW_STACK, flow_stacks, sample_indices
from vsn_train.data.times import frames_between
from vsn_train.data.transforms import resize_short_side, take_clip
from vsn_train.data.video import Video, VideoError, open_video
from vsn_train.data.workers import BadVideo, Loader

STACK_LENGTH = {"rgb": 1, "flow": FLOW_STACK}  # frames of a video that one frame of a clip takes
READ_BYTES = 512 << 20  # most bytes of decoded frames in memory before they are resized
IGNORED = -100  # label of a filler clip, which cross_entropy ignores


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
class EvalVideo:
    """The decoded frames of a video's views.

    frames: uint8 (U, C, H, W), each needed frame once. clips: int64 (clips, T), positions in `frames`; for optical flow
    (clips, T, 5). `take_clip` assembles a clip. numbers: int64 (U,), frame numbers in the video. times: float64 (U,),
    seconds at which the frames are shown; None: unknown.
    """

    index: int
    frames: Tensor
    clips: np.ndarray
    numbers: np.ndarray
    times: np.ndarray | None


@dataclass(eq=False)
class TrainingClips(Dataset[tuple[Tensor, int] | BadVideo]):
    """One augmented clip per key (epoch, index); (epoch, index, n) is the n-th repetition of a video in an epoch."""

    manifest: Manifest
    num_frames: int
    sampling: str
    augmentation: Augmentation
    decoder: str
    seed: int
    modality: str = "rgb"

    def __post_init__(self) -> None:
        self.flipped = self.manifest.flipped_labels()

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: Any) -> tuple[Tensor, int] | BadVideo:
        epoch, index, *again = key
        generator = np.random.default_rng((self.seed, epoch, index, *again))
        path = self.manifest.path(index)
        try:
            with open_video(path, self.decoder, self.modality, self.manifest.known_frames(index)) as video:
                if self.augmentation.crop == "center":  # the others crop before they resize
                    check_shape(video, self.augmentation.short_side)
                wanted = sample_indices(
                    video.num_frames, self.num_frames, 1, self.sampling, generator, STACK_LENGTH[self.modality]
                )
                clip = read_clip(video, wanted[0], self.modality)
        except VideoError as error:
            return BadVideo(index, str(path), error.cause)
        clip, flipped = augment(clip, self.augmentation, generator)
        label = int(self.manifest.labels[index])
        return clip, int(self.flipped[label]) if flipped else label

    def video_of(self, key: tuple[int, ...]) -> tuple[int, Path]:
        """Index and path of a key's video."""
        return key[1], self.manifest.path(key[1])


@dataclass(eq=False)
class EvalVideos(Dataset[EvalVideo | BadVideo]):
    """All frames that the views of a video need, decoded once and resized once."""

    manifest: Manifest
    num_frames: int
    protocol: Protocol
    decoder: str
    modality: str = "rgb"

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> EvalVideo | BadVideo:
        path = self.manifest.path(index)
        try:
            return read_eval_video(
                path, self.num_frames, self.protocol, self.decoder, self.modality, index,
                self.manifest.known_frames(index),
            )  # fmt: skip
        except VideoError as error:
            return BadVideo(index, str(path), error.cause)

    def video_of(self, key: int) -> tuple[int, Path]:
        """Index and path of a key's video."""
        return key, self.manifest.path(key)


def read_eval_video(
    path: Path,
    num_frames: int,
    protocol: Protocol,
    decoder: str,
    modality: str = "rgb",
    index: int = 0,
    known_frames: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> EvalVideo:
    """Decode and resize the frames that the views of one video need.

    known_frames: see open_video. start, end: seconds; the part of the video to use (end None: to its end).
    Raises VideoError.
    """
    with open_video(path, decoder, modality, known_frames) as video:
        first, stop = 0, video.num_frames
        if start or end is not None:
            first, stop = frames_between(str(path), video.times, video.fps, start, end)
        wanted = frames_of_clips(first, stop, num_frames, protocol, modality)
        short_side = protocol.short_side
        return video_of_clips(index, wanted, lambda rows: read_resized(video, rows, short_side), video.times)


def video_of_clips(
    index: int, wanted: np.ndarray, read: Callable[[np.ndarray], Tensor], times: np.ndarray | None = None
) -> EvalVideo:
    """Read the frames of a video's clips, each once. wanted: see `sample_indices` and `flow_stacks`. read: increasing
    frame numbers (N,) -> resized frames uint8 (N, C, h, w). times: seconds of every frame of the video."""
    unique, positions = np.unique(wanted, return_inverse=True)
    frames = read(unique)
    seconds = None if times is None else times[unique]
    return EvalVideo(index, frames, positions.reshape(wanted.shape), unique, seconds)


def read_resized(video: Video | FrameFolder | FastSeekCopy, frames: np.ndarray, short_side: int) -> Tensor:
    """Read frames and resize them to a short side of that many pixels: uint8 (N, C, h, w). Large frames are read in
    parts: eighty frames of 4K take 2 GB, resized 26 MB. Raises VideoError, also as `check_shape`."""
    check_shape(video, short_side)
    pieces = -(-len(frames) * video.height * video.width * 3 // READ_BYTES)
    if pieces == 1:
        return resize_short_side(video.read(frames), short_side)
    parts = np.array_split(frames, min(pieces, len(frames)))
    return torch.cat([resize_short_side(video.read(part), short_side) for part in parts])


def check_shape(video: Video | FrameFolder | FastSeekCopy, short_side: int) -> None:
    """Raise VideoError for an aspect ratio with which resized frames would be huge: 2 x 4000 at a short side of 256."""
    height, width = video.height, video.width
    if short_side**2 * max(height, width) / min(height, width) > MAX_PIXELS:
        cause = f"its frames are {width}x{height}: with a short side of {short_side} they would have more than"
        raise VideoError(str(video.path), f"{cause} {MAX_PIXELS} pixels")


def frames_of_clips(first: int, stop: int, num_frames: int, protocol: Protocol, modality: str = "rgb") -> np.ndarray:
    """The frame numbers of the clips of a part of a video: int64 (clips, T), or (clips, T, 5) for optical flow.

    first, stop: the part's first frame and its last one + 1.
    """
    wanted = first + sample_indices(
        stop - first, num_frames, protocol.clips, protocol.placement, length=STACK_LENGTH[modality]
    )
    return flow_stacks(wanted, stop) if modality == "flow" else wanted


def read_clip(video: Video | FrameFolder | FastSeekCopy, indices: np.ndarray, modality: str) -> Tensor:
    """Read a clip: uint8 (T, C, H, W), the frames at `indices` (T,), or the stacks of flow fields that start there."""
    if modality == "rgb":
        return video.read(indices)
    stacks = flow_stacks(indices, video.num_frames)
    return take_clip(video.read(stacks.ravel()), torch.arange(stacks.size).view(stacks.shape))


class EpochBatches:
    """The (epoch, index) keys of this process's batches; each video once per epoch, over all processes.

    classes: (N,) labels of the videos, to balance them: an epoch then has N draws with equally many of each class.
    Videos of rare classes are repeated, with another clip each time; of frequent classes each epoch draws other videos.

    An optimizer step takes the next batch_size × world_size × accumulate videos of one shuffled order, and process r
    takes every world_size-th of them. So the videos of a step do not depend on the number of processes. The last step
    takes the remaining videos. A process's videos of a step form at most `accumulate` batches of batch_size.
    """

    def __init__(
        self,
        videos: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        accumulate: int = 1,
        classes: np.ndarray | None = None,
    ) -> None:
        self.videos = videos
        self.batch_size = batch_size
        self.step_videos = batch_size * world_size * accumulate
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.classes = classes
        self.epoch = 0
        self.done = 0  # of the epoch; counted in videos, so that a run can resume with other numbers of processes

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return self.steps_in(self.videos)

    def steps(self) -> list[np.ndarray]:
        """The draws of each remaining step of the epoch, over all processes; see `draws`."""
        order = self.draws()
        return [order[start : start + self.step_videos] for start in range(self.done, self.videos, self.step_videos)]

    def step_at(self, done: int) -> np.ndarray:
        """Indices of the videos of the epoch's step after `done` videos, over all processes."""
        return self.draws()[done : done + self.step_videos] % self.videos

    def draws(self) -> np.ndarray:
        """(N,) the draws of the epoch, in order: index + N × number of earlier draws of the video."""
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.classes is None:
            return generator.permutation(self.videos)
        return balanced_draws(self.classes, generator)

    def steps_in(self, videos: int) -> int:
        """The number of optimizer steps for this many videos of an epoch."""
        return -(-videos // self.step_videos)

    def batches_of(self, step: np.ndarray) -> list[np.ndarray]:
        """This process's batches of a step."""
        own = step[self.rank :: self.world_size]
        # Empty for a process without a video in the short last step: it uses a filler clip.
        return [own[start : start + self.batch_size] for start in range(0, max(1, len(own)), self.batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for step in self.steps():
            for batch in self.batches_of(step):
                yield [self._key(int(draw)) for draw in batch]

    def _key(self, draw: int) -> tuple[int, ...]:
        again, index = divmod(draw, self.videos)
        return (self.epoch, index, again) if again else (self.epoch, index)


def balanced_draws(classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(N,) draws of N videos, balanced by class, see `EpochBatches.draws`. The numbers of draws per class differ by at
    most one, and so do those of the videos of a class. classes: (N,) labels."""
    present = np.unique(classes)
    counts = np.full(len(present), len(classes) // len(present))
    counts[generator.permutation(len(present))[: len(classes) % len(present)]] += 1
    drawn = []
    for label, count in zip(present, counts, strict=True):
        own = np.flatnonzero(classes == label)
        rounds = -(-int(count) // len(own))
        drawn.append(
            np.concatenate([generator.permutation(own) + len(classes) * again for again in range(rounds)])[:count]
        )
    return generator.permutation(np.concatenate(drawn))


def by_step(loader: Iterable[Batch], batches: EpochBatches) -> Iterator[list[Batch]]:
    """The loader's batches, grouped by optimizer step."""
    loaded = iter(loader)
    for step in batches.steps():
        yield [next(loaded) for _ in batches.batches_of(step)]


def training_loader(clips: TrainingClips, batches: EpochBatches, workers: int, timeout: float = 0.0) -> Loader[Batch]:
    """Yields `Batch`. timeout: seconds that one clip may take in a worker; 0: no limit."""
    channels = 3 if clips.modality == "rgb" else 2 * FLOW_STACK
    collate = _Collate(clips.num_frames, channels, clips.augmentation.crop_size)
    return Loader(clips, batches, collate, workers, timeout)


def eval_loader(
    videos: Dataset[EvalVideo | BadVideo],
    groups: list[list[int]],
    workers: int,
    timeout: float = 0.0,
) -> Loader[list[EvalVideo | BadVideo]]:
    """Yields one list of `EvalVideo | BadVideo` for each group of indices."""
    return Loader(videos, groups, list, workers, timeout)


class _Collate:
    def __init__(self, num_frames: int, channels: int, crop_size: int) -> None:
        self.empty = (num_frames, channels, crop_size, crop_size)

    def __call__(self, samples: list[tuple[Tensor, int] | BadVideo]) -> Batch:
        bad = tuple(sample for sample in samples if isinstance(sample, BadVideo))
        good = [sample for sample in samples if not isinstance(sample, BadVideo)]
        if not good:  # every process must take part in every step: with a black clip without a label
            good = [(torch.zeros(self.empty, dtype=torch.uint8), IGNORED)]
        # Clips are stored as (T, H, W, C); stacking them in this layout is a plain copy, six times faster.
        video = torch.stack([clip.permute(0, 2, 3, 1) for clip, _ in good]).permute(0, 1, 4, 2, 3)
        return Batch(video, torch.tensor([label for _, label in good]), bad)
