"""Batches: the videos of each rank and step, and the content of a sample; workers.py decodes them.

What a sample looks like depends on (seed, epoch, index) alone: not on workers, processes, order or a restart.
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
READ_BYTES = 512 << 20  # of decoded frames that are held at once before they are brought down to the test's size
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
class EvalVideo:
    """The decoded frames of a video's views.

    frames: uint8 (U, C, H, W), each needed frame once. clips: int64 (clips, T), positions in `frames`; for optical flow
    (clips, T, 5). `take_clip` puts a clip together. numbers: int64 (U,), which frames of the video these are. times:
    float64 (U,), seconds at which these are shown; None: not known.
    """

    index: int
    frames: Tensor
    clips: np.ndarray
    numbers: np.ndarray
    times: np.ndarray | None


@dataclass(eq=False)
class TrainingClips(Dataset[tuple[Tensor, int] | BadVideo]):
    """One augmented clip for each (epoch, index); (epoch, index, n) is the n-th repetition of a video in an epoch."""

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
                if self.augmentation.crop == "center":  # the others cut before they resize
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
        """Index and path of the video that a key asks for."""
        return key[1], self.manifest.path(key[1])


@dataclass(eq=False)
class EvalVideos(Dataset[EvalVideo | BadVideo]):
    """All frames that a video's test views need, decoded once and resized once."""

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
        """Index and path of the video that a key asks for."""
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
    """Decode and resize what the views of one video need.

    known_frames: see open_video. start, end: seconds; the part of the video that counts (end None: to its end).
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
    """wanted: see `sample_indices` and `flow_stacks`. read: frames (N,), each once and in order -> uint8 (N, C, h, w),
    resized. times: seconds of every frame of the video."""
    unique, positions = np.unique(wanted, return_inverse=True)
    frames = read(unique)
    seconds = None if times is None else times[unique]
    return EvalVideo(index, frames, positions.reshape(wanted.shape), unique, seconds)


def read_resized(video: Video | FrameFolder | FastSeekCopy, frames: np.ndarray, short_side: int) -> Tensor:
    """uint8 (N, C, h, w): these frames with the short side of that many pixels. Large ones are brought down a few at a
    time: eighty of 4K are 2 GB, where the views need 26 MB. Raises VideoError, also for what `check_shape` refuses."""
    check_shape(video, short_side)
    pieces = -(-len(frames) * video.height * video.width * 3 // READ_BYTES)
    if pieces == 1:
        return resize_short_side(video.read(frames), short_side)
    parts = np.array_split(frames, min(pieces, len(frames)))
    return torch.cat([resize_short_side(video.read(part), short_side) for part in parts])


def check_shape(video: Video | FrameFolder | FastSeekCopy, short_side: int) -> None:
    """Raise VideoError for frames so oblong that a resized one would be a giant: 2 x 4000 at a short side of 256."""
    height, width = video.height, video.width
    if short_side**2 * max(height, width) / min(height, width) > MAX_PIXELS:
        cause = f"its frames are {width}x{height}: with a short side of {short_side} they would be beyond"
        raise VideoError(str(video.path), f"{cause} {MAX_PIXELS} pixels")


def frames_of_clips(first: int, stop: int, num_frames: int, protocol: Protocol, modality: str = "rgb") -> np.ndarray:
    """int64 (clips, T), or (clips, T, 5) for optical flow: which frames of a video the clips of a part of it take.

    first, stop: the part's first frame and the one past its last.
    """
    wanted = first + sample_indices(
        stop - first, num_frames, protocol.clips, protocol.placement, length=STACK_LENGTH[modality]
    )
    return flow_stacks(wanted, stop) if modality == "flow" else wanted


def read_clip(video: Video | FrameFolder | FastSeekCopy, indices: np.ndarray, modality: str) -> Tensor:
    """uint8 (T, C, H, W): the frames at `indices` (T,), or the stacks of flow that begin there."""
    if modality == "rgb":
        return video.read(indices)
    stacks = flow_stacks(indices, video.num_frames)
    return take_clip(video.read(stacks.ravel()), torch.arange(stacks.size).view(stacks.shape))


class EpochBatches:
    """The (epoch, index) keys of this process's batches; each video once an epoch, over all processes.

    classes: (N,) labels of the videos, for an epoch of as many draws in which every class is there equally often: the
    videos of a rare class are repeated, with another clip each time, and of a frequent one others are drawn each epoch.

    An optimizer step takes the next batch_size × world_size × accumulate videos of one shuffled order and process r
    every world_size-th of them, so the videos of a step do not depend on how many processes share it. The last step
    takes what is left, however short. A process's videos of one step come in batches of batch_size, `accumulate` of
    them or fewer.
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
        self.done = 0  # videos of the epoch that are done; in videos, so that another number of processes can resume

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return self.steps_in(self.videos)

    def steps(self) -> list[np.ndarray]:
        """The draws of each step that is left in the epoch, over all processes; see `draws`."""
        order = self.draws()
        return [order[start : start + self.step_videos] for start in range(self.done, self.videos, self.step_videos)]

    def step_at(self, done: int) -> np.ndarray:
        """Indices of the videos of the epoch's step after `done` videos, over all processes."""
        return self.draws()[done : done + self.step_videos] % self.videos

    def draws(self) -> np.ndarray:
        """(N,) what the epoch trains on, in order: index + N × how often the video was there before."""
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.classes is None:
            return generator.permutation(self.videos)
        return balanced_draws(self.classes, generator)

    def steps_in(self, videos: int) -> int:
        """Optimizer steps that this many videos of an epoch take."""
        return -(-videos // self.step_videos)

    def batches_of(self, step: np.ndarray) -> list[np.ndarray]:
        """What this process takes of a step's videos."""
        own = step[self.rank :: self.world_size]
        # Empty for a process without a video in the short last step: it takes part with a filler clip.
        return [own[start : start + self.batch_size] for start in range(0, max(1, len(own)), self.batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for step in self.steps():
            for batch in self.batches_of(step):
                yield [self._key(int(draw)) for draw in batch]

    def _key(self, draw: int) -> tuple[int, ...]:
        again, index = divmod(draw, self.videos)
        return (self.epoch, index, again) if again else (self.epoch, index)


def balanced_draws(classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(N,) draws of N videos, see `EpochBatches.draws`, in which every class that has videos is there equally often, or
    once more where N does not divide; within a class every video as often, or once more. classes: (N,) labels."""
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
    """The loader's batches, those of one optimizer step together."""
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
        if not good:  # every process takes part in every step: one black clip without a label keeps it in
            good = [(torch.zeros(self.empty, dtype=torch.uint8), IGNORED)]
        # Clips lie in memory as (T, H, W, C); stacked as such it is a plain copy, six times faster.
        video = torch.stack([clip.permute(0, 2, 3, 1) for clip, _ in good]).permute(0, 1, 4, 2, 3)
        return Batch(video, torch.tensor([label for _, label in good]), bad)
